//! The keeper: one private thread that does what must not depend on the user's code.
//!
//! It renews what is held, refreshes what waits, withdraws what nobody listens to. It has a runtime of its own, so
//! that user code that blocks its runtime, panics or shuts it down can starve neither a renewal nor a signal of loss
//! nor a clean-up. Yet a thread hop per lock would be dear. So a grant only leaves a note here ([`Keeper::note`]): the
//! keeper sleeps until the first note is due, and a hold that is released before that never wakes it.
//!
//! What there is to do is told by those who leave the notes ([`Due`]); the keeper only knows when.
//!
//! # Invariants
//! 1. A note is taken up when it is due, taken back, or still here.
//! 2. The keeper ends only when its client is gone and nothing is left to keep: no note, no task, and no guard, which
//!    may still order a withdrawal although its hold was lost.
//! 3. No task's failure, not even a panic in an engine, stops another task.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;

use crate::lease::{Clock, Moment};
use crate::{Error, ErrorKind};

/// How long the keeper sleeps at most while it keeps something: so that it notices a suspended machine.
const TICK: Duration = Duration::from_secs(1);

/// How long after its grant a hold is adopted at the latest. Shorter holds never meet the keeper.
pub(crate) const ADOPT_AFTER: Duration = Duration::from_millis(100);

/// Something to be done at its time.
pub(crate) trait Due: Send + Sync + 'static {
    /// What is to be done, if that takes longer than being told.
    fn task(self: Arc<Self>) -> Option<BoxFuture<'static, ()>>;
}

/// The keeper's notes, shared with all who leave them.
pub(crate) struct Keeper {
    clock: Arc<dyn Clock>,
    notes: Mutex<Notes>,
    wake: Notify,
    /// Notified when time has jumped: every sleeper recomputes what is left.
    jumped: Notify,
    /// Notified when a withdrawal has been carried out.
    drained: Notify,
    /// How many withdrawals were ordered, or begun elsewhere with a note here, and are not carried out.
    ordered: AtomicUsize,
    /// How many holds there are, in whatever phase, and whether the last of them must wake the keeper.
    holds: AtomicUsize,
    closing: AtomicBool,
}

#[derive(Default)]
struct Notes {
    started: bool,
    closing: bool,
    /// What is due when, by the monotonic clock.
    due: BTreeMap<Ticket, Arc<dyn Due>>,
    /// Orders that nobody has taken up.
    orders: Vec<BoxFuture<'static, ()>>,
    /// Until when the keeper sleeps.
    sleeps_until: Option<Duration>,
    serial: u64,
    /// The serial number at the keeper's last look.
    seen: u64,
}

/// Names a note: when it is due, and a serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(Duration, u64);

impl Keeper {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            notes: Mutex::default(),
            wake: Notify::new(),
            jumped: Notify::new(),
            drained: Notify::new(),
            ordered: AtomicUsize::new(0),
            holds: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that there is a keeper before the first request is sent.
    ///
    /// # Errors
    /// When the client was shut down, or the thread cannot be started.
    pub(crate) fn start(self: &Arc<Self>) -> Result<(), Error> {
        let mut notes = self.notes();
        if notes.closing {
            return Err(Error::new(
                ErrorKind::Closed,
                "the client was shut down: make a new one to lock again",
            ));
        }
        if notes.started {
            return Ok(());
        }
        let failed = |error| {
            let message = format!("cannot start the keeper: {error}; nothing was locked");
            Error::new(ErrorKind::Closed, message)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let keeper = Arc::clone(self);
        let thread = std::thread::Builder::new().name("tenure-keeper".to_owned());
        // What is due together is to be asked together, however much it is: no task here needs to be interrupted.
        let work = tokio::task::unconstrained(run(keeper));
        thread.spawn(move || runtime.block_on(work)).map_err(failed)?;
        notes.started = true;
        Ok(())
    }

    /// Marks the keeper as run by somebody else, who polls [`run`].
    pub(crate) fn started_elsewhere(&self) {
        self.notes().started = true;
    }

    /// Leaves a note for `at`.
    pub(crate) fn note(&self, at: Moment, due: Arc<dyn Due>) -> Ticket {
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

    /// A bell that rings at `at`, for those who have no timer of their own.
    pub(crate) fn alarm(self: &Arc<Self>, at: Moment) -> Alarm {
        let bell = Arc::new(Bell(Notify::new()));
        let ticket = self.note(at, Arc::clone(&bell) as _);
        Alarm { bell, ticket, keeper: Arc::clone(self) }
    }

    /// Orders something to be done now. Never blocks.
    pub(crate) fn order(&self, task: BoxFuture<'static, ()>) {
        self.counts_as_ordered();
        self.notes().orders.push(task);
        self.wake.notify_one();
    }

    /// There is one withdrawal more that is not carried out, whoever does it.
    pub(crate) fn counts_as_ordered(&self) {
        self.ordered.fetch_add(1, Ordering::SeqCst);
    }

    /// One that counted as ordered is carried out, or was ordered anew.
    pub(crate) fn carried_out(&self) {
        self.ordered.fetch_sub(1, Ordering::SeqCst);
        self.drained.notify_waiters();
    }

    /// How many withdrawals are not carried out.
    pub(crate) fn ordered(&self) -> usize {
        self.ordered.load(Ordering::SeqCst)
    }

    /// Waits until every withdrawal is carried out.
    pub(crate) async fn drained(&self) {
        loop {
            let drained = self.drained.notified();
            if self.ordered() == 0 {
                return;
            }
            drained.await;
        }
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

    /// Sleeps until a moment has come on either clock. For the keeper's own tasks: it needs their runtime.
    pub(crate) async fn sleep_until(&self, at: Moment) {
        loop {
            let jumped = self.jumped.notified();
            let left = self.clock.now().until(at);
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
        let mut next = notes.due.first_key_value().map(|(ticket, _)| ticket.0);
        let idle = due.is_empty() && orders.is_empty() && next.is_none() && !busy;
        let done = notes.closing && idle && self.holds.load(Ordering::SeqCst) == 0;
        let serial = notes.serial;
        if std::mem::replace(&mut notes.seen, serial) != serial {
            // Where holds are short, notes come and are taken back. Looking again by ourselves when the next one could
            // be due saves each of them a wake.
            let lull = now.after(ADOPT_AFTER).monotonic();
            next = Some(next.map_or(lull, |next| next.min(lull)));
        }
        // Sleeping for ever is fine: whoever leaves the first note wakes us.
        notes.sleeps_until = Some(next.unwrap_or(Duration::MAX));
        Todo { due, orders, next, done }
    }

    /// Tells sleepers when the clocks went on for longer than we slept: a pause, or a suspended machine.
    fn notice_jump(&self, before: Moment, nap: Duration) {
        let slept = self.clock.now().since(before);
        if slept > nap.saturating_add(TICK / 4) {
            self.jumped.notify_waiters();
        }
    }
}

struct Todo {
    due: Vec<Arc<dyn Due>>,
    orders: Vec<BoxFuture<'static, ()>>,
    next: Option<Duration>,
    done: bool,
}

/// Runs the keeper until its client is gone and nothing is left to keep.
pub(crate) async fn run(keeper: Arc<Keeper>) {
    let mut tasks: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    loop {
        let now = keeper.clock.now();
        let todo = keeper.take_due(now, !tasks.is_empty());
        if todo.done {
            return;
        }
        tasks.extend(todo.due.into_iter().filter_map(Due::task).map(safely));
        for order in todo.orders {
            let keeper = Arc::clone(&keeper);
            tasks.push(safely(order).inspect(move |()| keeper.carried_out()).boxed());
        }
        let next = todo.next.map_or(Duration::MAX, |next| next.saturating_sub(now.monotonic()));
        let nap = if tasks.is_empty() { next } else { next.min(TICK) };
        tokio::select! {
            biased;
            () = keeper.wake.notified() => {}
            () = tokio::time::sleep(nap) => {}
            Some(()) = tasks.next() => {}
        }
        keeper.notice_jump(now, nap);
    }
}

/// A task whose panic stays its own.
fn safely(task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
    AssertUnwindSafe(task).catch_unwind().map(drop).boxed()
}

struct Bell(Notify);

impl Due for Bell {
    fn task(self: Arc<Self>) -> Option<BoxFuture<'static, ()>> {
        self.0.notify_one();
        None
    }
}

/// A bell set at the keeper; taken back when dropped.
pub(crate) struct Alarm {
    bell: Arc<Bell>,
    ticket: Ticket,
    keeper: Arc<Keeper>,
}

impl Alarm {
    /// Waits for the bell; cancel-safe.
    pub(crate) async fn rings(&self) {
        self.bell.0.notified().await;
        // The bell is a level: whoever asks again hears it again.
        self.bell.0.notify_one();
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.keeper.forget(self.ticket);
    }
}

/// Waits for an alarm; for ever when there is none.
pub(crate) async fn rings(alarm: Option<&Alarm>) {
    match alarm {
        Some(alarm) => alarm.rings().await,
        None => std::future::pending().await,
    }
}
