//! What the keeper does for one claim: keep a hold, refresh a place, withdraw.

use std::sync::Arc;
use std::time::Duration;

use super::sleep_until;
use crate::Claim;
use crate::acquire::Wait;
use crate::client::Shared;
use crate::engine::{
    Attempt, DynContender, Effect, EngineError, EngineErrorKind, Liveness, Renewal, Retry, Stray, Validity,
};
use crate::event::What;
use crate::flaw::{self, Flaw};
use crate::hold::{Extended, Hold, LossCause, cause_of};
use crate::lease::Moment;

/// Keeps a hold until it has ended: renews it in time, and tells its loss in time even when a renewal hangs.
pub(super) async fn keep(hold: Arc<Hold>) {
    hold.adopted();
    let mut contender = hold.shared.engine.contend(hold.claim.clone());
    let mut renew_at = hold.renew_at();
    let mut failed = false;
    while let Some(planned) = renew_at {
        let push = tokio::select! {
            biased;
            () = doom(&hold) => return,
            () = sleep_until(&hold.shared, planned) => true,
            // What was told before a renewal that failed is told still: it must not make us spin.
            wake = contender.changed(), if !failed => wake.is_ok(),
        };
        if !push {
            // Without pushes there is still the plan; and a broken push must not make us spin.
            tokio::select! {
                biased;
                () = doom(&hold) => return,
                () = sleep_until(&hold.shared, planned) => {}
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
            sleep_until(&hold.shared, lease.suspect_at()).await;
            if hold.suspect() {
                let left = hold.shared.clock.now().until(lease.until());
                hold.emit(What::Suspect { left });
            }
            std::future::pending().await
        };
        let deadline = async {
            let Some((at, cause)) = hold.deadline() else { return std::future::pending().await };
            sleep_until(&hold.shared, at).await;
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
    match contender.renew().await {
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
            hold.lose(cause_of(gone));
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

/// Keeps a waiting place alive with one attempt on the keeper's lane, and plans the next.
pub(super) async fn refresh(wait: Arc<Wait>) {
    let shared = Arc::clone(&wait.shared);
    if wait.is_over() {
        return;
    }
    let mut contender = shared.engine.contend(wait.claim.clone());
    let sent = shared.clock.now();
    let under_way = wait.strays.sent();
    let answer = tokio::select! {
        biased;
        () = wait.over() => return,
        answer = contender.attempt() => answer,
        // Nothing else looks after the place while this look hangs.
        () = sleep_until(&shared, sent.after(wait.claim.ttl.duration())) => {
            let message = "no answer within one TTL";
            Err(EngineError::new(EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth, message))
        }
    };
    match answer {
        Ok(Attempt::Waiting(waiting)) => {
            under_way.answered();
            wait.still_waiting(sent, waiting);
            wait.plan_refresh();
        }
        Ok(Attempt::Granted(grant)) => {
            under_way.answered();
            wait.granted(grant, sent);
        }
        Ok(Attempt::Gone(gone)) => {
            under_way.answered();
            wait.gone(gone);
        }
        // A claim that wants to wait is not told that the key is busy.
        Ok(Attempt::Busy(_)) => under_way.answered(),
        Err(error) => {
            if error.effect() == Effect::None {
                under_way.answered();
            }
            wait.plan_refresh();
            wait.unreachable();
        }
    }
}

/// Takes a claim out of the line, however often that must be tried.
pub(super) async fn withdraw(shared: Arc<Shared>, claim: Claim, stray: Stray) {
    let _done = Done(&shared);
    let mut contender = shared.engine.contend(claim.clone());
    let begun = shared.clock.now();
    let mut pause = Duration::from_millis(5);
    loop {
        let error = match contender.withdraw(stray).await {
            Ok(_) => {
                shared.emit(&claim, What::Withdrawn);
                return;
            }
            Err(error) => error,
        };
        let retrying = worth_another(&shared, &claim, begun, &error);
        shared.emit(&claim, What::WithdrawFailed { error: error.to_string(), retrying });
        if !retrying {
            return;
        }
        sleep_until(&shared, shared.clock.now().after(shared.jitter(pause))).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Counts a withdrawal as done however it ends, so that a shutdown does not wait for ever.
struct Done<'a>(&'a Shared);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.keeper.withdrawn();
    }
}

/// A lease ends by itself after one term. Where only our own life keeps the place, there is no limit but that life.
fn worth_another(shared: &Shared, claim: &Claim, begun: Moment, error: &EngineError) -> bool {
    let expired = shared.clock.now().since(begun) > claim.term();
    error.retry() == Retry::Worth && !(shared.facts.liveness == Liveness::Lease && expired)
}
