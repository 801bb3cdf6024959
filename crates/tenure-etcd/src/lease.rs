//! Leases, and those that wait to be used again.
//!
//! A place hangs on a lease that no other place hangs on, so each dies alone. To grant one costs a write to etcd's log,
//! so the lease of a claim that was withdrawn serves the next: a cycle of lock and release costs two writes, not four.
//!
//! # Invariants
//! 1. At most one claim has a lease.
//! 2. Only a lease under which certainly nothing is, and nothing can arrive, is used again.
//! 3. What is left of a lease counts from before the send of the request that was answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tenure_core::lease::{Clock, Moment, SystemClock};

use crate::link::{Failed, Link, Turn};

/// How many leases of one length are kept for later.
const IDLE_MAX: usize = 64;

/// For how many of its terms a lease may live after its last proof: each change of leader lets all leases begin anew.
const TERMS_MAX: u32 = 4;

/// A lease of ours.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) id: i64,
    /// The length that was asked for, in seconds; zero for one that others have asked for.
    asked: u64,
    proof: Mutex<Proof>,
}

/// The last answer that showed that a lease lives.
#[derive(Clone, Copy, Debug)]
struct Proof {
    sent: Moment,
    granted: Duration,
}

impl Lease {
    fn new(id: i64, asked: u64, sent: Moment, granted: Duration) -> Arc<Self> {
        Arc::new(Self { id, asked, proof: Mutex::new(Proof { sent, granted }) })
    }

    /// A lease of which only the name is known, and nothing is proved.
    pub(crate) fn stranger(id: i64) -> Arc<Self> {
        Self::new(id, 0, SystemClock.now(), Duration::ZERO)
    }

    fn proof(&self) -> Proof {
        *self.proof.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long it was granted.
    pub(crate) fn granted(&self) -> Duration {
        self.proof().granted
    }

    /// What is certainly left of it.
    pub(crate) fn left(&self) -> Duration {
        self.left_at(SystemClock.now())
    }

    /// What was certainly left of it at a moment; of a proof that is younger, all that it proved, which errs on the
    /// safe side.
    pub(crate) fn left_at(&self, moment: Moment) -> Duration {
        let proof = self.proof();
        proof.granted.saturating_sub(moment.since(proof.sent))
    }

    /// Whether it may still live, although nothing of it may be left that is certain.
    pub(crate) fn may_live(&self) -> bool {
        let proof = self.proof();
        SystemClock.now().since(proof.sent) < proof.granted * TERMS_MAX
    }

    /// Whether nearly all of it is left, so that a claim can begin without a keep-alive.
    pub(crate) fn is_fresh(&self) -> bool {
        let granted = self.granted();
        !granted.is_zero() && self.left() > granted - granted / 8
    }

    /// Keeps it alive; false when it has ended.
    pub(crate) async fn keep_alive(&self, link: &Link) -> Result<bool, Failed> {
        let sent = SystemClock.now();
        let granted = link.keep_alive(self.id).await?;
        let mut proof = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
        if granted.is_zero() {
            *proof = Proof { sent, granted: Duration::ZERO };
            return Ok(false);
        }
        // Two lanes may ask at once; the later send counts.
        if !proof.sent.reached(sent) || proof.granted.is_zero() {
            *proof = Proof { sent, granted };
        }
        Ok(true)
    }

    /// Keeps it alive unless it is fresh. A failure is no harm here: then less of it is left.
    pub(crate) async fn freshen(&self, link: &Link) {
        if !self.is_fresh() {
            let _ = self.keep_alive(link).await;
        }
    }
}

/// Leases without a claim.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Mutex<HashMap<u64, Vec<Arc<Lease>>>>,
}

impl Pool {
    /// A lease of this length in seconds, with more than half of it left.
    pub(crate) async fn lease(
        &self,
        link: &Link,
        turn: &Turn<'_>,
        seconds: u64,
    ) -> Result<Arc<Lease>, Failed> {
        if let Some(idle) = self.take(seconds) {
            return Ok(idle);
        }
        let sent = SystemClock.now();
        let (id, granted) = link.grant(turn, i64::try_from(seconds).unwrap_or(i64::MAX)).await?;
        Ok(Lease::new(id, seconds, sent, granted))
    }

    fn take(&self, seconds: u64) -> Option<Arc<Lease>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let known = idle.get_mut(&seconds)?;
        while let Some(lease) = known.pop() {
            // One that was idle for long may have ended; it ends by itself if it has not.
            if lease.left() > lease.granted() / 2 {
                return Some(lease);
            }
        }
        None
    }

    /// Takes back a lease under which nothing is, and nothing can arrive; returns it when there is no room for it.
    pub(crate) fn give_back(&self, lease: Arc<Lease>) -> Option<Arc<Lease>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let known = idle.entry(lease.asked).or_default();
        if lease.asked == 0 || known.len() >= IDLE_MAX {
            return Some(lease);
        }
        known.push(lease);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_used_again_only_for_the_same_length_and_while_much_is_left() {
        let pool = Pool::default();
        let now = SystemClock.now();
        let lease = |id, asked| Lease::new(id, asked, now, Duration::from_secs(asked));
        assert!(pool.give_back(lease(1, 30)).is_none());
        assert!(pool.take(5).is_none());
        assert_eq!(pool.take(30).map(|lease| lease.id), Some(1));
        assert!(pool.take(30).is_none(), "one claim has it");
        let old = Lease::new(2, 30, now, Duration::ZERO);
        assert!(pool.give_back(old).is_none());
        assert!(pool.take(30).is_none(), "nothing is left of it");
        assert!(pool.give_back(Lease::stranger(3)).is_some());
    }
}
