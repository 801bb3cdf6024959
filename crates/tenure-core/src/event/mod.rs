//! What happens to claims, told to whoever observes.
//!
//! One enum, one trait. Logs and metrics are bridges from here ([`TracingObserver`], [`MetricsObserver`]), so that
//! the life of a claim is written down once and neither of them can disagree with it.

#[cfg(feature = "metrics")]
mod metrics_bridge;
#[cfg(feature = "tracing")]
mod tracing_bridge;

use std::time::Duration;

#[cfg(feature = "metrics")]
pub use metrics_bridge::MetricsObserver;
#[cfg(feature = "tracing")]
pub use tracing_bridge::TracingObserver;

use crate::{ClaimId, FencingToken, Key, LossCause};

/// Hears the events of a client.
///
/// Called on the thread on which the event happens, which may be the keeper's: an observer must not block. If it
/// panics, nobody but the panic hook hears of it.
pub trait Observer: Send + Sync + 'static {
    /// Something happened to a claim.
    fn observe(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync + 'static> Observer for F {
    fn observe(&self, event: &Event) {
        self(event);
    }
}

/// Something that happened to a claim.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// The key.
    pub key: Key,
    /// The claim; none for a caller that gave up before it had one of its own.
    pub claim: Option<ClaimId>,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum What {
    /// The claim joined the line and waits.
    Waiting {
        /// How many places are before it.
        ahead: usize,
    },
    /// The claim holds.
    Granted {
        /// Its token.
        token: FencingToken,
        /// How long it waited.
        waited: Duration,
        /// How it came to hold.
        via: Via,
    },
    /// A grant came with too little validity left; it is asked for again, with a fresh stamp.
    GrantedLate,
    /// The caller gave up: the key was busy, or the wait was over.
    GaveUp {
        /// How long it waited.
        waited: Duration,
    },
    /// The hold was renewed.
    Renewed {
        /// How long after the planned moment the renewal was sent.
        lag: Duration,
        /// How much validity was left when the answer came; none for a hold that cannot expire.
        left: Option<Duration>,
    },
    /// The hold was renewed with less than a sixth of its lease left: something is slow.
    NearMiss {
        /// How much validity was left.
        left: Duration,
    },
    /// A renewal failed and will be tried again.
    RenewalFailed {
        /// Why.
        error: String,
    },
    /// Two thirds of the lease have passed without an answer.
    Suspect {
        /// How much validity is left.
        left: Duration,
    },
    /// The keeper came to a renewal or a deadline too late by more than a third of a TTL: this process was paused, or
    /// the machine suspended.
    Stalled {
        /// How late it came.
        gap: Duration,
    },
    /// The hold ended without a release.
    Lost {
        /// The token of the hold.
        token: FencingToken,
        /// Why.
        cause: LossCause,
        /// How long it was held.
        held: Duration,
    },
    /// The hold was released.
    Released {
        /// The token of the hold.
        token: FencingToken,
        /// How long it was held.
        held: Duration,
    },
    /// The engine has answered that the claim is out of the line.
    Withdrawn,
    /// A withdrawal failed.
    WithdrawFailed {
        /// Why.
        error: String,
        /// Whether the keeper goes on trying.
        retrying: bool,
    },
}

/// How a claim came to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Via {
    /// From the engine.
    Engine,
    /// From another task of this process, without the engine.
    Handover {
        /// From the call of release to the new hold.
        gap: Duration,
    },
}
