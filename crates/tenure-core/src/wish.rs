//! What somebody wants to hold, and on which terms.

use std::sync::Arc;
use std::time::Duration;

use crate::shared::Shared;
use crate::{Claim, IfBusy, Key, Mode, Ttl};

/// How far the waiters of one process may favour each other over those elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fairness {
    /// A hold may pass between tasks of this process, at most 64 times and for at most 100 ms, before the process
    /// joins the end of the line.
    Handover,
    /// Every waiter has a place of its own in the line.
    StrictFifo,
}

/// A wish whose parts have been checked.
pub(crate) struct Wish {
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    pub(crate) ttl: Ttl,
    pub(crate) quarantine: Duration,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) fairness: Fairness,
}

impl Wish {
    pub(crate) fn claim(&self, shared: &Shared, if_busy: IfBusy) -> Claim {
        Claim {
            key: self.key.clone(),
            id: shared.new_claim_id(),
            mode: self.mode,
            ttl: self.ttl,
            quarantine: self.quarantine,
            if_busy,
            spare_tokens: 0,
            floor: shared.floor(),
            identity: Arc::clone(&shared.identity),
        }
    }
}
