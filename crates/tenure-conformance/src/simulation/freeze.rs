//! Pauses of a whole process: what SIGSTOP, a garbage collector or a starved machine does.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Freezes everything that runs behind its gate.
#[derive(Debug, Default)]
pub(super) struct Freezer {
    until: Mutex<Option<Instant>>,
}

impl Freezer {
    /// Freezes for `time` from now; a longer freeze under way goes on.
    #[allow(clippy::disallowed_methods, reason = "simulated time is tokio's")]
    pub(super) fn freeze(&self, time: Duration) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(Some(Instant::now() + time));
    }

    fn frozen_until(&self) -> Option<Instant> {
        self.frozen_since(Duration::ZERO)
    }

    /// Whether the process was frozen at any time in the last `time`.
    pub(super) fn froze_within(&self, time: Duration) -> bool {
        self.frozen_since(time).is_some()
    }

    #[allow(clippy::disallowed_methods, reason = "simulated time is tokio's")]
    fn frozen_since(&self, time: Duration) -> Option<Instant> {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.filter(|until| *until + time > Instant::now())
    }
}

/// Runs `work` in the process of `freezer`.
pub(super) fn gate<F: Future>(freezer: &Arc<Freezer>, work: F) -> Gate<F> {
    Gate { freezer: Arc::clone(freezer), work: Box::pin(work), thaw: None }
}

/// Work that is not polled while its process is frozen.
pub(super) struct Gate<F> {
    freezer: Arc<Freezer>,
    work: Pin<Box<F>>,
    thaw: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Gate<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        while let Some(until) = self.freezer.frozen_until() {
            let mut sleep = Box::pin(tokio::time::sleep_until(until));
            if sleep.as_mut().poll(context).is_pending() {
                self.thaw = Some(sleep);
                return Poll::Pending;
            }
        }
        self.thaw = None;
        self.work.as_mut().poll(context)
    }
}
