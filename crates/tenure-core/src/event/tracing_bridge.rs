//! Events as `tracing` records: transitions at debug, near misses and failures at warn, losses at error.

use super::{Event, Observer, Via, What};

/// Writes each event as a `tracing` record with the fields `key`, `claim`, and those of the event.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingObserver;

impl Observer for TracingObserver {
    fn observe(&self, event: &Event) {
        let (key, claim) = (event.key.as_str(), event.claim.map(tracing::field::display));
        match &event.what {
            What::Waiting { ahead } => tracing::debug!(key, claim, ahead, "waiting"),
            What::Granted { token, waited, via } => {
                let handover = matches!(via, Via::Handover { .. });
                tracing::debug!(key, claim, token = token.get(), ?waited, handover, "granted");
            }
            What::GrantedLate => tracing::warn!(key, claim, "granted too late, trying again"),
            What::GaveUp { waited } => tracing::debug!(key, claim, ?waited, "gave up"),
            What::Renewed { lag, left } => tracing::debug!(key, claim, ?lag, ?left, "renewed"),
            What::NearMiss { left } => tracing::warn!(key, claim, ?left, "renewed with little to spare"),
            What::RenewalFailed { error } => tracing::warn!(key, claim, error, "renewal failed"),
            What::Suspect { left } => {
                tracing::warn!(key, claim, ?left, "no answer for two thirds of the lease")
            }
            What::Stalled { gap } => tracing::warn!(key, claim, ?gap, "this process was paused"),
            What::Lost { token, cause, held } => {
                tracing::error!(key, claim, token = token.get(), ?cause, ?held, "lost");
            }
            What::Released { token, held } => {
                tracing::debug!(key, claim, token = token.get(), ?held, "released");
            }
            What::Withdrawn => tracing::debug!(key, claim, "withdrawn"),
            What::WithdrawFailed { error, retrying } => {
                tracing::warn!(key, claim, error, retrying, "withdrawal failed");
            }
        }
    }
}
