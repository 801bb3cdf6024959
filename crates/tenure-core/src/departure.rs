//! A guard that was dropped: its withdrawal begins at once, on the lane of whoever dropped it.
//!
//! Who drops a guard at the end of its scope often asks for the next one right away. Were the withdrawal the keeper's,
//! on another connection, the next attempt would overtake it and wait in the line. So the withdrawal is polled once
//! while the guard is dropped, which writes its request to the connection of the caller's runtime; a task of that
//! runtime waits for the answer. But a runtime may end or never run again: the keeper has a note of it meanwhile.
//!
//! # Invariants
//! 1. From the drop until a withdrawal is answered, the hold has a note or an order at the keeper.
//! 2. The runtime's task and the keeper both may withdraw; [`Hold::end_departure`] says who of them tells of it.
//! 3. Nothing here waits for an answer, and no panic leaves it: it may run while a thread unwinds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::{Handle, Id};

use crate::engine::{EngineError, Withdrawn};
use crate::event::What;
use crate::hold::Hold;

/// The runtime on which the withdrawal can begin: the current one, if the guard was made on it, since the connection
/// of another may not be up. None while the thread unwinds, when as little as possible should be done.
pub(crate) fn lane(made_on: Option<Id>) -> Option<Handle> {
    let made_on = made_on?;
    if std::thread::panicking() {
        return None;
    }
    Handle::try_current().ok().filter(|runtime| runtime.id() == made_on)
}

/// Ends the hold as released, and begins to withdraw it. False when it had ended before.
pub(crate) fn begin(hold: &Arc<Hold>, runtime: &Handle) -> bool {
    let Ok(kept) = hold.begin_departure() else { return false };
    let begun = catch_unwind(AssertUnwindSafe(|| {
        let stray = hold.strays.stray();
        let mut contender = hold.or_another(kept);
        let verb = async move { contender.withdraw(stray).await }.boxed();
        let mut departure = Departure { hold: Arc::clone(hold), verb };
        // A task that has used up its share of the runtime's time must be able to write the request all the same.
        let once = std::pin::pin!(tokio::task::unconstrained(&mut departure));
        if once.poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            // There it is polled again, with a waker that is heard.
            drop(runtime.spawn(departure));
        }
    }));
    if begun.is_err() {
        hand_over(hold);
    }
    true
}

/// Leaves to the keeper what is not answered, unless it has been seen to.
pub(crate) fn hand_over(hold: &Hold) {
    if hold.end_departure() {
        hold.order_withdrawal();
        hold.shared.keeper.carried_out();
    }
}

/// A withdrawal under way. Dropped before it is answered, it is left to the keeper.
struct Departure {
    hold: Arc<Hold>,
    verb: BoxFuture<'static, Result<Withdrawn, EngineError>>,
}

impl Future for Departure {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let answer = ready!(self.verb.poll_unpin(context));
        let hold = &self.hold;
        match answer {
            Ok(_) => {
                if hold.end_departure() {
                    hold.emit(What::Withdrawn);
                    hold.shared.keeper.carried_out();
                }
            }
            Err(error) => {
                hold.emit(What::WithdrawFailed { error: error.to_string(), retrying: true });
                hand_over(hold);
            }
        }
        Poll::Ready(())
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        hand_over(&self.hold);
    }
}
