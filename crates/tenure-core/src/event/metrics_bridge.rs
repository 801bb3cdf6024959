//! Events as counters and histograms of the `metrics` facade. Keys are not labels: their number has no bound.

use super::{Event, Observer, Via, What};

/// Feeds the `metrics` facade; durations in seconds.
///
/// | metric | kind | what |
/// |---|---|---|
/// | `tenure_wait_seconds` | histogram | from asking to holding |
/// | `tenure_hold_seconds` | histogram | from holding to release or loss |
/// | `tenure_handover_seconds` | histogram | from a release to the next hold inside the process |
/// | `tenure_renewal_lag_seconds` | histogram | how late renewals are sent |
/// | `tenure_near_misses_total` | counter | renewals with little to spare |
/// | `tenure_renewal_failures_total` | counter | renewals that failed |
/// | `tenure_late_grants_total` | counter | grants that came too late to be worth having |
/// | `tenure_gave_up_total` | counter | busy or timed out |
/// | `tenure_losses_total` | counter by `cause` | holds that ended without a release |
/// | `tenure_withdraw_failures_total` | counter | withdrawals that failed |
#[derive(Clone, Copy, Debug, Default)]
pub struct MetricsObserver;

impl Observer for MetricsObserver {
    fn observe(&self, event: &Event) {
        match &event.what {
            What::Granted { waited, via, .. } => {
                metrics::histogram!("tenure_wait_seconds").record(waited.as_secs_f64());
                if let Via::Handover { gap } = via {
                    metrics::histogram!("tenure_handover_seconds").record(gap.as_secs_f64());
                }
            }
            What::GrantedLate => metrics::counter!("tenure_late_grants_total").increment(1),
            What::GaveUp { .. } => metrics::counter!("tenure_gave_up_total").increment(1),
            What::Renewed { lag, .. } => {
                metrics::histogram!("tenure_renewal_lag_seconds").record(lag.as_secs_f64());
            }
            What::NearMiss { .. } => metrics::counter!("tenure_near_misses_total").increment(1),
            What::RenewalFailed { .. } => metrics::counter!("tenure_renewal_failures_total").increment(1),
            What::Lost { cause, held, .. } => {
                metrics::histogram!("tenure_hold_seconds").record(held.as_secs_f64());
                metrics::counter!("tenure_losses_total", "cause" => cause.as_str()).increment(1);
            }
            What::Released { held, .. } => {
                metrics::histogram!("tenure_hold_seconds").record(held.as_secs_f64());
            }
            What::WithdrawFailed { .. } => metrics::counter!("tenure_withdraw_failures_total").increment(1),
            What::Waiting { .. } | What::Suspect { .. } | What::Stalled { .. } | What::Withdrawn => {}
        }
    }
}
