//! Withdrawals in the background: what nobody listens to is taken out of the line, however often that must be tried.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::Claim;
use crate::engine::{EngineError, Liveness, Retry, Stray};
use crate::event::What;
use crate::lease::Moment;
use crate::shared::Shared;

/// Orders that the claim be taken out of the line. Never blocks.
pub(crate) fn order(shared: &Arc<Shared>, claim: Claim, stray: Stray) {
    shared.keeper.order(withdraw(Arc::clone(shared), claim, stray).boxed());
}

/// Takes a claim out of the line, however often that must be tried.
async fn withdraw(shared: Arc<Shared>, claim: Claim, stray: Stray) {
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
        shared.keeper.sleep_until(shared.clock.now().after(shared.jitter(pause))).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// A lease ends by itself after one term. Where only our own life keeps the place, there is no limit but that life.
fn worth_another(shared: &Shared, claim: &Claim, begun: Moment, error: &EngineError) -> bool {
    let expired = shared.clock.now().since(begun) > claim.term();
    error.retry() == Retry::Worth && !(shared.facts.liveness == Liveness::Lease && expired)
}
