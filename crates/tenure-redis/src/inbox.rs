//! Who in this process waits for what, and what came for claims that nobody had time to listen for.
//!
//! Listening costs a little, so only claims that were told to wait listen. A grant may overtake that: it comes on the
//! same connection right behind the answer. What comes for a claim without a listener is therefore kept for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tenure_core::engine::signals::{Listener, Signals};
use tenure_core::engine::{Grant, Validity, Wake};
use tenure_core::{ClaimId, FencingToken, TokenBlock};

use crate::link::Link;

/// How long an offer waits for its waiter: the scripts say the same.
pub(crate) const CLAIM_WINDOW: Duration = Duration::from_secs(3);

/// How many wakes are kept for claims without a listener.
const UNCLAIMED_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    signals: Arc<Signals>,
    unclaimed: Mutex<VecDeque<(ClaimId, Wake)>>,
    /// Over which connection a claim that waits is to be told: that of its waiter, not of who keeps its place alive.
    homes: Mutex<HashMap<ClaimId, Weak<Link>>>,
}

/// Listens for one claim.
#[derive(Debug)]
pub(crate) struct Ear {
    claim: ClaimId,
    listener: Listener,
    inbox: Arc<Inbox>,
}

impl Inbox {
    /// Listens from now on, and hears what has come since the claim was last looked at.
    pub(crate) fn listen(self: &Arc<Self>, claim: ClaimId, home: Option<&Arc<Link>>) -> Ear {
        let mut unclaimed = lock(&self.unclaimed);
        let listener = self.signals.listen(claim);
        if let Some(at) = unclaimed.iter().position(|(told, _)| *told == claim)
            && let Some((_, wake)) = unclaimed.remove(at)
        {
            self.signals.tell(claim, wake);
        }
        drop(unclaimed);
        if let Some(home) = home {
            lock(&self.homes).entry(claim).or_insert_with(|| Arc::downgrade(home));
        }
        Ear { claim, listener, inbox: Arc::clone(self) }
    }

    /// The connection over which a claim is to be told, if it still stands.
    pub(crate) fn home_of(&self, claim: ClaimId) -> Option<Arc<Link>> {
        lock(&self.homes).get(&claim).and_then(Weak::upgrade).filter(|link| !link.has_ended())
    }

    /// Makes the connection the one over which the claim is to be told.
    pub(crate) fn settle(&self, claim: ClaimId, home: &Arc<Link>) {
        if let Some(known) = lock(&self.homes).get_mut(&claim) {
            *known = Arc::downgrade(home);
        }
    }

    /// Takes in a message that was published to one of our channels.
    pub(crate) fn take(&self, message: &str) {
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
    pub(crate) fn tell_all(&self) {
        self.signals.tell_all();
    }
}

impl Ear {
    /// Forgets what was told so far: call it before asking the server.
    pub(crate) fn look(&mut self) {
        self.listener.look();
    }

    /// Waits until the claim is told something.
    ///
    /// # Cancel safety
    /// Safe: what one call would have reported, the next one reports.
    pub(crate) async fn told(&mut self) -> Wake {
        self.listener.told().await
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        lock(&self.inbox.homes).remove(&self.claim);
    }
}

/// `<claim> <token> <spare> <slot>` is a grant; a claim alone only has something to look at.
fn read(payload: &str) -> Option<(ClaimId, Wake)> {
    let mut words = payload.split(' ');
    let claim = words.next()?.parse().ok()?;
    let Some(token) = words.next() else { return Some((claim, Wake::LookAgain)) };
    let first = FencingToken::new(token.parse().ok()?)?;
    let tokens = TokenBlock { first, spare: words.next()?.parse().ok()? };
    let slot = words.next()?.parse().ok()?;
    Some((claim, Wake::Granted(Grant { claim, tokens, slot, validity: Validity::Lease(CLAIM_WINDOW) })))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn c103_a_grant_that_overtakes_the_listener_is_heard() {
        let inbox = Arc::new(Inbox::default());
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

    #[test]
    fn a_message_that_is_not_ours_is_ignored() {
        for payload in ["", "hello", "0123 1 2 3", "00000000000000000000000000000007 x 0 0"] {
            assert_eq!(read(payload), None, "{payload}");
        }
        let many = Inbox::default();
        for n in 0..3_000 {
            many.take(&ClaimId::from_bits(n).to_string());
        }
        assert_eq!(lock(&many.unclaimed).len(), UNCLAIMED_MAX);
    }
}
