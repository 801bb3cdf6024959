//! Wakes inside this process: who listens for which claim.
//!
//! Engines that learn of a change (by a push, a datagram, or because the change was made in this process) tell the
//! claims it concerns. A wake is a level, not an edge: whoever asks later still hears it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;

use super::Wake;
use crate::ClaimId;

/// The listeners of one engine in this process.
#[derive(Debug, Default)]
pub struct Signals {
    listeners: Mutex<HashMap<ClaimId, Weak<watch::Sender<Told>>>>,
}

/// How often a claim was told something, and what it was told last.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    count: u64,
    wake: Option<Wake>,
}

impl Signals {
    /// Begins to listen for a claim. Several may listen for the same one; each hears every wake.
    #[must_use]
    pub fn listen(self: &Arc<Self>, claim: ClaimId) -> Listener {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = listeners.get(&claim).and_then(Weak::upgrade).unwrap_or_else(|| {
            let sender = Arc::new(watch::Sender::new(Told::default()));
            listeners.insert(claim, Arc::downgrade(&sender));
            sender
        });
        let receiver = sender.subscribe();
        Listener { claim, receiver, sender: Some(sender), signals: Arc::clone(self) }
    }

    /// Tells those who listen for the claim; false when nobody does.
    pub fn tell(&self, claim: ClaimId, wake: Wake) -> bool {
        let sender = {
            let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.get(&claim).and_then(Weak::upgrade)
        };
        let Some(sender) = sender else { return false };
        sender.send_modify(|told| *told = Told { count: told.count + 1, wake: Some(wake) });
        true
    }

    /// Tells everybody to look again, after something that may have concerned anyone.
    pub fn tell_all(&self) {
        let mut claims: Vec<_> =
            self.listeners.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        // In a fixed order, so that a simulation repeats.
        claims.sort_unstable();
        for claim in claims {
            self.tell(claim, Wake::LookAgain);
        }
    }
}

/// Listens for one claim.
#[derive(Debug)]
pub struct Listener {
    claim: ClaimId,
    receiver: watch::Receiver<Told>,
    sender: Option<Arc<watch::Sender<Told>>>,
    signals: Arc<Signals>,
}

impl Listener {
    /// Forgets what was told so far: call it *before* looking at the engine.
    pub fn look(&mut self) {
        self.receiver.mark_unchanged();
    }

    /// Waits until the claim is told something.
    ///
    /// # Cancel safety
    /// Safe: a wake is reported until [`Listener::look`] forgets it.
    pub async fn told(&mut self) -> Wake {
        // The sender cannot vanish: this listener owns a share of it.
        if self.receiver.changed().await.is_ok() {
            self.receiver.mark_changed();
        }
        self.receiver.borrow().wake.unwrap_or(Wake::LookAgain)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self.signals.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        // The share is given up under the lock, so that nobody upgrades an entry that is about to go.
        drop(self.sender.take());
        if listeners.get(&self.claim).is_some_and(|sender| sender.strong_count() == 0) {
            listeners.remove(&self.claim);
        }
    }
}
