//! Keeping a hold: renewals in time, and a loss told in time even when a renewal hangs.
//!
//! # Invariants
//! 1. A hold is adopted before its first renewal is due, and so before its lease can end.
//! 2. Its deadlines are watched on a timer apart from any request.
//! 3. If keeping it fails, even by a panic in an engine, the hold is lost: nobody renews it any more.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::engine::{DynContender, Effect, EngineError, EngineErrorKind, Renewal, Retry, Validity};
use crate::event::What;
use crate::flaw::{self, Flaw};
use crate::hold::{Duty, Extended, Hold};
use crate::keeper::{ADOPT_AFTER, Due};
use crate::lease::Moment;
use crate::{LossCause, departure};

/// Leaves the note that the hold is to be kept: shortly after its grant, and before anything is due. One that is only
/// offered is confirmed then, unless it has been released: the offer stands for as long as its lease says.
pub(crate) fn adopt_soon(hold: &Arc<Hold>) {
    let latest = hold.shared.clock.now().after(ADOPT_AFTER);
    let at = hold.must_renew_at().map_or(latest, |renew| renew.earliest(latest));
    let at = hold.deadline().map_or(at, |(deadline, _)| deadline.earliest(at));
    hold.leave_note(at);
}

impl Due for Hold {
    fn task(self: Arc<Self>) -> Option<BoxFuture<'static, ()>> {
        match self.take_note_up() {
            Duty::Adopt => return Some(keep(self).boxed()),
            Duty::Withdraw => departure::hand_over(&self),
            Duty::LookAgain(at) => self.leave_note(at),
            Duty::Nothing => {}
        }
        None
    }
}

async fn keep(hold: Arc<Hold>) {
    if AssertUnwindSafe(keep_alive(Arc::clone(&hold))).catch_unwind().await.is_err() {
        hold.lose(LossCause::Denied);
    }
}

/// Keeps a hold until it has ended: renews it in time, and tells its loss in time even when a renewal hangs.
async fn keep_alive(hold: Arc<Hold>) {
    let mut contender = hold.shared.engine.contend(hold.claim.clone());
    let mut renew_at = hold.renew_at();
    let mut failed = false;
    while let Some(planned) = renew_at {
        let push = tokio::select! {
            biased;
            () = doom(&hold) => return,
            () = hold.shared.keeper.sleep_until(planned) => true,
            // What was told before a renewal that failed is told still: it must not make us spin.
            wake = contender.changed(), if !failed => wake.is_ok(),
        };
        if !push {
            // Without pushes there is still the plan; and a broken push must not make us spin.
            tokio::select! {
                biased;
                () = doom(&hold) => return,
                () = hold.shared.keeper.sleep_until(planned) => {}
            }
        }
        let renewed = tokio::select! {
            biased;
            () = doom(&hold), if !flaw::planted(Flaw::NoTimerWhileRenewing) => return,
            renewed = renew(&hold, contender.as_mut(), planned) => renewed,
        };
        failed = renewed.is_err();
        renew_at = match renewed {
            Ok(()) => hold.renew_at(),
            Err(retry_at) => retry_at,
        };
    }
}

/// Returns when the hold has ended; ends it at its deadline, on a timer of its own.
async fn doom(hold: &Hold) {
    loop {
        let turned = hold.turned();
        let suspect = async {
            let Some(lease) = hold.lease() else { return std::future::pending().await };
            hold.shared.keeper.sleep_until(lease.suspect_at()).await;
            if hold.suspect() {
                let left = hold.shared.clock.now().until(lease.until());
                hold.emit(What::Suspect { left });
            }
            std::future::pending().await
        };
        let deadline = async {
            let Some((at, cause)) = hold.deadline() else { return std::future::pending().await };
            hold.shared.keeper.sleep_until(at).await;
            report_stall(hold, at);
            cause
        };
        tokio::select! {
            biased;
            () = hold.ended() => return,
            cause = deadline => {
                hold.lose(cause);
                return;
            }
            () = turned => {}
            () = suspect => {}
        }
    }
}

/// One renewal: `Ok` when it was answered, otherwise when to try again, if at all.
async fn renew(hold: &Hold, contender: &mut dyn DynContender, planned: Moment) -> Result<(), Option<Moment>> {
    let clock = &hold.shared.clock;
    let sent = clock.now();
    report_stall(hold, planned);
    // A request that hangs must not use up the time in which another could succeed.
    let patience = hold.shared.keeper.sleep_until(sent.after(hold.claim.ttl.duration() / 3));
    let renewal = tokio::select! {
        biased;
        renewal = contender.renew() => renewal,
        () = patience, if !flaw::planted(Flaw::NoTimerWhileRenewing) => {
            let message = "no answer within a third of the TTL";
            Err(EngineError::new(EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth, message))
        }
    };
    match renewal {
        Ok(Renewal::Renewed(validity)) => {
            let left = hold.until().map(|until| clock.now().until(until));
            match hold.extend(sent, validity) {
                Extended::Longer => {
                    report_renewal(hold, sent, planned, left, validity);
                    Ok(())
                }
                Extended::TooLate => {
                    hold.lose(LossCause::Expired);
                    Err(None)
                }
            }
        }
        Ok(Renewal::Gone(gone)) => {
            hold.lose(gone.into());
            Err(None)
        }
        Err(error) => {
            hold.emit(What::RenewalFailed { error: error.to_string() });
            let pause = hold.lease().map_or(Duration::from_millis(100), |lease| lease.retry_delay());
            Err(Some(clock.now().after(hold.shared.jitter(pause))))
        }
    }
}

/// Tells of a timer that was noticed too late by more than a third of a TTL.
fn report_stall(hold: &Hold, planned: Moment) {
    let now = hold.shared.clock.now();
    let gap = if now.reached(planned) { now.since(planned) } else { Duration::ZERO };
    if gap > hold.claim.ttl.duration() / 3 {
        hold.emit(What::Stalled { gap });
    }
}

fn report_renewal(hold: &Hold, sent: Moment, planned: Moment, left: Option<Duration>, validity: Validity) {
    let lag = if sent.reached(planned) { sent.since(planned) } else { Duration::ZERO };
    hold.emit(What::Renewed { lag, left });
    if let (Some(left), Validity::Lease(granted)) = (left, validity)
        && left < granted / 6
    {
        hold.emit(What::NearMiss { left });
    }
}
