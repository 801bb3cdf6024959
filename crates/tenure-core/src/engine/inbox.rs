//! Who in this process waits for what, and what came for claims that nobody had time to listen for.
//!
//! For engines whose server pushes a wake or a grant to the connection on which a claim waits.
//!
//! Listening costs a little, so only claims that were told to wait listen. A grant may overtake that: it comes on the
//! same connection right behind the answer. What comes for a claim without a listener is therefore kept for a while.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::links::Dial;
use super::signals::{Listener, Signals};
use super::{Grant, Validity, Wake, answers};
use crate::ClaimId;

/// How long an offer waits for its waiter: what runs on the servers says the same.
pub const CLAIM_WINDOW: Duration = Duration::from_secs(3);

/// How many wakes are kept for claims without a listener.
const UNCLAIMED_MAX: usize = 1024;

/// The wakes of one engine in this process, whose connections `D` makes.
#[derive(Debug)]
pub struct Inbox<D: Dial> {
    signals: Arc<Signals>,
    unclaimed: Mutex<VecDeque<(ClaimId, Wake)>>,
    /// Over which connection a claim that waits is to be told: that of its waiter, not of who keeps its place alive.
    homes: Mutex<HashMap<ClaimId, Weak<D::Link>>>,
}

/// Listens for one claim.
pub struct Ear<D: Dial> {
    claim: ClaimId,
    listener: Listener,
    inbox: Arc<Inbox<D>>,
    /// Whether the home of the claim is ours, and ends with us.
    at_home: bool,
}

impl<D: Dial> Default for Inbox<D> {
    fn default() -> Self {
        Self { signals: Arc::default(), unclaimed: Mutex::default(), homes: Mutex::default() }
    }
}

impl<D: Dial> Inbox<D> {
    /// Listens from now on, and hears what has come since the claim was last looked at.
    pub fn listen(self: &Arc<Self>, claim: ClaimId, home: Option<&Arc<D::Link>>) -> Ear<D> {
        let mut unclaimed = lock(&self.unclaimed);
        let listener = self.signals.listen(claim);
        if let Some(at) = unclaimed.iter().position(|(told, _)| *told == claim)
            && let Some((_, wake)) = unclaimed.remove(at)
        {
            self.signals.tell(claim, wake);
        }
        drop(unclaimed);
        let at_home = home.is_some_and(|home| {
            let mut homes = lock(&self.homes);
            let free = !homes.contains_key(&claim);
            if free {
                homes.insert(claim, Arc::downgrade(home));
            }
            free
        });
        Ear { claim, listener, inbox: Arc::clone(self), at_home }
    }

    /// The connection over which a claim is to be told, if it still stands.
    pub fn home_of(&self, claim: ClaimId) -> Option<Arc<D::Link>> {
        lock(&self.homes).get(&claim).and_then(Weak::upgrade).filter(|link| !D::has_ended(link))
    }

    /// Makes the connection the one over which the claim is to be told.
    pub fn settle(&self, claim: ClaimId, home: &Arc<D::Link>) {
        if let Some(known) = lock(&self.homes).get_mut(&claim) {
            *known = Arc::downgrade(home);
        }
    }

    /// Takes in a message that was published to one of our channels.
    pub fn take(&self, message: &str) {
        let Some((claim, wake)) = read(message) else { return };
        let mut unclaimed = lock(&self.unclaimed);
        if !self.signals.tell(claim, wake) {
            if unclaimed.len() == UNCLAIMED_MAX {
                unclaimed.pop_front();
            }
            unclaimed.push_back((claim, wake));
        }
    }

    /// A connection has ended, and what was pushed on it is lost.
    pub fn tell_all(&self) {
        self.signals.tell_all();
    }
}

/// Whether a connection still stands. What drives the connection owns one and drops it at the end.
pub struct Life<D: Dial> {
    inbox: Arc<Inbox<D>>,
    used: AtomicBool,
    ended: AtomicBool,
}

impl<D: Dial> Life<D> {
    /// The life of a connection that pushes to this inbox.
    #[must_use]
    pub fn new(inbox: Arc<Inbox<D>>) -> Arc<Self> {
        Arc::new(Self { inbox, used: AtomicBool::new(false), ended: AtomicBool::new(false) })
    }

    /// The connection was checked, and claims may wait on it from now on.
    pub fn begin(&self) {
        self.used.store(true, Ordering::Release);
    }

    /// The connection has ended: who waits on it looks again. A connection that was refused had nobody.
    pub fn end(&self) {
        if !self.ended.swap(true, Ordering::AcqRel) && self.used.load(Ordering::Acquire) {
            self.inbox.tell_all();
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Tells everybody to look again, where nothing can be pushed.
    pub fn wake(&self) {
        self.inbox.tell_all();
    }

    /// Takes in a message that came on the connection.
    pub fn take(&self, message: &str) {
        self.inbox.take(message);
    }
}

impl<D: Dial> fmt::Debug for Life<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("ended", &self.has_ended()).finish_non_exhaustive()
    }
}

impl<D: Dial> Ear<D> {
    /// Forgets what was told so far: call it before asking the server.
    pub fn look(&mut self) {
        self.listener.look();
    }

    /// Waits until the claim is told something.
    ///
    /// # Cancel safety
    /// Safe: what one call would have reported, the next one reports.
    pub async fn told(&mut self) -> Wake {
        self.listener.told().await
    }
}

impl<D: Dial> fmt::Debug for Ear<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ear").field("claim", &self.claim).finish_non_exhaustive()
    }
}

impl<D: Dial> Drop for Ear<D> {
    fn drop(&mut self) {
        if self.at_home {
            lock(&self.inbox.homes).remove(&self.claim);
        }
    }
}

/// A message of a server: whom it concerns, and what it says.
#[must_use]
pub fn read(message: &str) -> Option<(ClaimId, Wake)> {
    let (claim, grant) = answers::told(message)?;
    let wake = grant.map_or(Wake::LookAgain, |(tokens, slot)| {
        Wake::Granted(Grant { claim, tokens, slot, validity: Validity::Lease(CLAIM_WINDOW) })
    });
    Some((claim, wake))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Trouble;

    #[derive(Debug)]
    struct Nowhere;

    impl Dial for Nowhere {
        type Link = ();

        async fn dial(&self) -> Result<(), Trouble> {
            Ok(())
        }

        fn has_ended(_link: &()) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn c103_a_grant_that_overtakes_the_listener_is_heard() {
        let inbox = Arc::new(Inbox::<Nowhere>::default());
        let claim = ClaimId::from_bits(7);
        inbox.take(&format!("{claim} 42 2 1"));
        let mut ear = inbox.listen(claim, None);
        let Wake::Granted(grant) = ear.told().await else { panic!() };
        assert_eq!(
            (grant.claim, grant.tokens.first.get(), grant.tokens.spare, grant.slot),
            (claim, 42, 2, 1)
        );
        ear.look();
        inbox.take(&claim.to_string());
        assert_eq!(ear.told().await, Wake::LookAgain);
    }

    #[tokio::test]
    async fn who_keeps_a_place_alive_does_not_take_its_home_along() {
        let (inbox, claim, home) =
            (Arc::new(Inbox::<Nowhere>::default()), ClaimId::from_bits(7), Arc::new(()));
        let waiter = inbox.listen(claim, Some(&home));
        drop(inbox.listen(claim, Some(&Arc::new(()))));
        assert!(inbox.home_of(claim).is_some_and(|kept| Arc::ptr_eq(&kept, &home)));
        drop(waiter);
        assert!(inbox.home_of(claim).is_none());
    }

    #[test]
    fn a_message_that_is_not_ours_is_ignored() {
        for payload in ["", "hello", "0123 1 2 3", "00000000000000000000000000000007 x 0 0"] {
            assert_eq!(read(payload), None, "{payload}");
        }
        let many = Inbox::<Nowhere>::default();
        for n in 0..3_000 {
            many.take(&ClaimId::from_bits(n).to_string());
        }
        assert_eq!(lock(&many.unclaimed).len(), UNCLAIMED_MAX);
    }
}
