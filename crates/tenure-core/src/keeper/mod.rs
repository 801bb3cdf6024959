//! The keeper: renews what is held, refreshes what waits, withdraws what nobody listens to.
//!
//! It runs on a private thread with its own runtime, so that user code that blocks its runtime, panics or shuts it
//! down can starve neither a renewal nor a signal of loss nor a clean-up. Yet a thread hop per lock would be dear. So
//! a grant only leaves a note here ([`Keeper::adopt_at`]): the keeper sleeps until the first note is due, and a hold
//! that is released before that never wakes it.
//!
//! # Invariants
//! 1. Every hold has a note or a task until it has ended.
//! 2. A note is due before its hold's first renewal, and so before its lease can end.
//! 3. The keeper ends only when its client is gone and nothing is left to keep: no note, no task, and no guard, which
//!    may still order a withdrawal although its hold was lost.
//! 4. No task's failure, not even a panic in an engine, stops another task.

mod tasks;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;

use crate::acquire::Wait;
use crate::client::Shared;
use crate::engine::Stray;
use crate::hold::{Hold, LossCause};
use crate::lease::Moment;
use crate::{Claim, Error, ErrorKind};

/// How long the keeper sleeps at most while it keeps something: so that it notices a suspended machine.
const TICK: Duration = Duration::from_secs(1);

/// How long after its grant a hold is adopted at the latest. Shorter holds never meet the keeper.
const ADOPT_AFTER: Duration = Duration::from_millis(100);

/// The keeper's notes, shared with all who leave them.
#[derive(Default)]
pub(crate) struct Keeper {
    notes: Mutex<Notes>,
    wake: Notify,
    /// Notified when time has jumped: every sleeper recomputes what is left.
    jumped: Notify,
    /// Notified when a withdrawal is done.
    drained: Notify,
    /// How many holds there are, in whatever phase, and whether the last of them must wake the keeper.
    holds: AtomicUsize,
    closing: AtomicBool,
}

#[derive(Default)]
struct Notes {
    started: bool,
    closing: bool,
    /// What is due when, by the monotonic clock.
    due: BTreeMap<Ticket, Due>,
    /// Withdrawals that nobody has taken up, and how many were ordered but are not done.
    orders: Vec<(Claim, Stray)>,
    withdrawing: usize,
    /// Until when the keeper sleeps.
    sleeps_until: Option<Duration>,
    serial: u64,
}

/// Names a note: when it is due, and a serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(Duration, u64);

enum Due {
    Adopt(Arc<Hold>),
    Refresh(Arc<Wait>),
    Alarm(Arc<Notify>),
}

impl Keeper {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that there is a keeper before the first request is sent.
    ///
    /// # Errors
    /// When the client was shut down, or the thread cannot be started.
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<(), Error> {
        let mut notes = shared.keeper.notes();
        if notes.closing {
            return Err(Error::new(
                ErrorKind::Closed,
                "the client was shut down: make a new one to lock again",
            ));
        }
        if notes.started {
            return Ok(());
        }
        let keeper = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("tenure-keeper".to_owned()).spawn(move || {
            // A runtime without I/O has nothing that could fail to start; engines bring their own drivers.
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(run(keeper)),
                Err(error) => keeper.keeper.notes().broken(&error),
            }
        });
        thread.map_err(|error| {
            Error::new(
                ErrorKind::Closed,
                format!("cannot start the keeper's thread: {error}; nothing was locked"),
            )
        })?;
        notes.started = true;
        Ok(())
    }

    /// Marks the keeper as run by somebody else, who polls [`run`].
    pub(crate) fn started_elsewhere(&self) {
        self.notes().started = true;
    }

    /// Leaves the note that the hold is to be kept from `at` on, and at the latest shortly after its grant.
    pub(crate) fn adopt_at(&self, at: Moment, hold: Arc<Hold>) {
        let ticket = self.note(at, Due::Adopt(Arc::clone(&hold)));
        hold.set_adoption(ticket);
    }

    pub(crate) fn adopt_soon(&self, hold: Arc<Hold>) {
        let now = hold.shared.clock.now();
        let latest = now.after(ADOPT_AFTER);
        let at = hold.renew_at().map_or(latest, |renew| renew.earliest(latest));
        let at = hold.deadline().map_or(at, |(deadline, _)| deadline.earliest(at));
        self.adopt_at(at, hold);
    }

    pub(crate) fn refresh_at(&self, at: Moment, wait: Arc<Wait>) -> Ticket {
        self.note(at, Due::Refresh(wait))
    }

    /// A bell that rings at `at`, for those who have no timer of their own.
    pub(crate) fn alarm(self: &Keeper, shared: &Arc<Shared>, at: Moment) -> Alarm {
        let bell = Arc::new(Notify::new());
        let ticket = self.note(at, Due::Alarm(Arc::clone(&bell)));
        Alarm { bell, ticket, shared: Arc::clone(shared) }
    }

    fn note(&self, at: Moment, due: Due) -> Ticket {
        let mut notes = self.notes();
        notes.serial += 1;
        let ticket = Ticket(at.monotonic(), notes.serial);
        notes.due.insert(ticket, due);
        let sooner = notes.sleeps_until.is_some_and(|planned| ticket.0 < planned);
        drop(notes);
        if sooner {
            self.wake.notify_one();
        }
        ticket
    }

    /// Takes a note back.
    pub(crate) fn forget(&self, ticket: Ticket) {
        let due = self.notes().due.remove(&ticket);
        // Dropped after the notes are given back: the last share of a hold may leave a note of its own.
        drop(due);
    }

    /// Orders that the claim be taken out of the line.
    pub(crate) fn withdraw(&self, claim: Claim, stray: Stray) {
        let mut notes = self.notes();
        notes.orders.push((claim, stray));
        notes.withdrawing += 1;
        drop(notes);
        self.wake.notify_one();
    }

    fn withdrawn(&self) {
        self.notes().withdrawing -= 1;
        self.drained.notify_waiters();
    }

    /// Refuses new claims, and lets the keeper end when nothing is left to keep.
    pub(crate) fn close(&self) {
        self.notes().closing = true;
        self.closing.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// There is one hold more, from which an order may come.
    pub(crate) fn hold_begins(&self) {
        self.holds.fetch_add(1, Ordering::SeqCst);
    }

    /// Nobody can order anything for one of the holds any more.
    pub(crate) fn hold_is_gone(&self) {
        let last = self.holds.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.closing.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Waits until every withdrawal that was ordered is done.
    pub(crate) async fn drained(&self) {
        loop {
            let drained = self.drained.notified();
            if self.notes().withdrawing == 0 {
                return;
            }
            drained.await;
        }
    }

    pub(crate) fn withdrawing(&self) -> usize {
        self.notes().withdrawing
    }

    /// Takes what is due, and says until when there is nothing to do.
    fn take_due(&self, now: Moment, busy: bool) -> Todo {
        let mut notes = self.notes();
        let mut due = Vec::new();
        while let Some(entry) = notes.due.first_entry() {
            if entry.key().0 > now.monotonic() {
                break;
            }
            due.push(entry.remove());
        }
        let orders = std::mem::take(&mut notes.orders);
        let idle = due.is_empty() && orders.is_empty() && self.holds.load(Ordering::SeqCst) == 0;
        let next = notes.due.first_key_value().map(|(ticket, _)| ticket.0);
        let done = notes.closing && idle && next.is_none() && !busy;
        // Sleeping for ever is fine: whoever leaves the first note wakes us.
        notes.sleeps_until = Some(next.unwrap_or(Duration::MAX));
        Todo { due, orders, next, done }
    }
}

impl Notes {
    /// Without a runtime nothing can be kept: refuse everything from here on.
    fn broken(&mut self, _error: &std::io::Error) {
        self.closing = true;
    }
}

struct Todo {
    due: Vec<Due>,
    orders: Vec<(Claim, Stray)>,
    next: Option<Duration>,
    done: bool,
}

/// A bell set at the keeper; taken back when dropped.
pub(crate) struct Alarm {
    bell: Arc<Notify>,
    ticket: Ticket,
    shared: Arc<Shared>,
}

impl Alarm {
    /// Waits for the bell; cancel-safe.
    pub(crate) async fn rings(&self) {
        self.bell.notified().await;
        // The bell is a level: whoever asks again hears it again.
        self.bell.notify_one();
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.shared.keeper.forget(self.ticket);
    }
}

/// Runs the keeper until its client is gone and nothing is left to keep.
pub(crate) async fn run(shared: Arc<Shared>) {
    let keeper = &shared.keeper;
    let mut tasks: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    loop {
        let now = shared.clock.now();
        let todo = keeper.take_due(now, !tasks.is_empty());
        if todo.done {
            return;
        }
        for due in todo.due {
            match due {
                Due::Adopt(hold) => tasks.push(safely(keep(hold))),
                Due::Refresh(wait) => tasks.push(safely(tasks::refresh(wait))),
                Due::Alarm(bell) => bell.notify_one(),
            }
        }
        for (claim, stray) in todo.orders {
            tasks.push(safely(tasks::withdraw(Arc::clone(&shared), claim, stray)));
        }
        let next = todo.next.map_or(Duration::MAX, |next| next.saturating_sub(now.monotonic()));
        let nap = if tasks.is_empty() { next } else { next.min(TICK) };
        tokio::select! {
            biased;
            () = keeper.wake.notified() => {}
            () = tokio::time::sleep(nap) => {}
            Some(()) = tasks.next() => {}
        }
        keeper.notice_jump(&shared, now, nap);
    }
}

impl Keeper {
    /// Tells sleepers when the clocks went on for longer than we slept: a pause, or a suspended machine.
    fn notice_jump(&self, shared: &Shared, before: Moment, nap: Duration) {
        let slept = shared.clock.now().since(before);
        if slept > nap.saturating_add(TICK / 4) {
            self.jumped.notify_waiters();
        }
    }
}

/// Sleeps until a moment has come on either clock.
pub(crate) async fn sleep_until(shared: &Shared, at: Moment) {
    loop {
        let jumped = shared.keeper.jumped.notified();
        let left = shared.clock.now().until(at);
        if left.is_zero() {
            return;
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(left) => {}
            () = jumped => {}
        }
    }
}

/// Keeps a hold; if an engine panics meanwhile, nobody renews any more, and the holder is told so.
async fn keep(hold: Arc<Hold>) {
    if AssertUnwindSafe(tasks::keep(Arc::clone(&hold))).catch_unwind().await.is_err() {
        hold.lose(LossCause::Denied);
    }
}

/// A task whose panic stays its own.
fn safely(task: impl Future<Output = ()> + Send + 'static) -> BoxFuture<'static, ()> {
    AssertUnwindSafe(task).catch_unwind().map(drop).boxed()
}
