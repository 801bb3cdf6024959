//! The queues of those in one process who wait for the same key on the same terms.
//!
//! A cohort is open while somebody leads it, and has a queue of seats. What a seat gets when its turn has come is not
//! decided here.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::{IfBusy, Key, Ttl};

/// The open cohorts of a client, whose seats wait for a `T`.
pub(crate) struct Cohorts<T> {
    open: Mutex<HashMap<Name, VecDeque<Seat<T>>>>,
    /// Names seats. Never reused: a seat that is left late must not take a newer one with it.
    serial: AtomicU64,
}

/// Who shares a place: those who want the same key on the same terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    pub(crate) key: Key,
    pub(crate) ttl: Ttl,
    pub(crate) quarantine: Duration,
}

/// One who waits in a cohort.
pub(crate) struct Seat<T> {
    serial: u64,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) turn: oneshot::Sender<T>,
}

/// How a task enters a cohort.
pub(crate) enum Entry<T> {
    /// It opened the cohort, and leads it.
    Leads,
    /// It waits for its turn.
    Sits(Seated<T>),
    /// The cohort is open, and the task did not want to wait.
    Busy,
}

impl<T> Default for Cohorts<T> {
    fn default() -> Self {
        Self { open: Mutex::default(), serial: AtomicU64::new(0) }
    }
}

impl<T> Cohorts<T> {
    fn open(&self) -> MutexGuard<'_, HashMap<Name, VecDeque<Seat<T>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the cohort, or takes the last seat of it.
    pub(crate) fn enter(
        self: &Arc<Self>,
        name: &Name,
        max_hold: Option<Duration>,
        if_busy: IfBusy,
    ) -> Entry<T> {
        let mut open = self.open();
        let Some(queue) = open.get_mut(name) else {
            open.insert(name.clone(), VecDeque::new());
            return Entry::Leads;
        };
        if if_busy == IfBusy::Leave {
            return Entry::Busy;
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (turn, comes) = oneshot::channel();
        queue.push_back(Seat { serial, max_hold, turn });
        drop(open);
        Entry::Sits(Seated { cohorts: Arc::clone(self), name: name.clone(), serial, comes, has_turn: false })
    }

    /// The longest waiter, who leaves the queue.
    pub(crate) fn next(&self, name: &Name) -> Option<Seat<T>> {
        self.open().get_mut(name)?.pop_front()
    }

    /// The longest waiter; without one, the cohort is closed in the same step.
    pub(crate) fn next_or_close(&self, name: &Name) -> Option<Seat<T>> {
        let mut open = self.open();
        let next = open.get_mut(name)?.pop_front();
        if next.is_none() {
            open.remove(name);
        }
        next
    }

    /// Puts the longest waiter back. Returns it when the cohort has been closed meanwhile: it is open again, and
    /// needs a leader.
    pub(crate) fn put_back(&self, name: &Name, seat: Seat<T>) -> Option<Seat<T>> {
        let mut open = self.open();
        if let Some(queue) = open.get_mut(name) {
            queue.push_front(seat);
            return None;
        }
        open.insert(name.clone(), VecDeque::new());
        Some(seat)
    }

    pub(crate) fn has_waiters(&self, name: &Name) -> bool {
        self.open().get(name).is_some_and(|queue| !queue.is_empty())
    }

    fn leave(&self, name: &Name, serial: u64) {
        if let Some(queue) = self.open().get_mut(name) {
            queue.retain(|seat| seat.serial != serial);
        }
    }
}

/// A seat from the side of the one who sits in it; left when dropped.
pub(crate) struct Seated<T> {
    cohorts: Arc<Cohorts<T>>,
    name: Name,
    serial: u64,
    comes: oneshot::Receiver<T>,
    /// Whether its turn has come: then it is no longer in the queue.
    has_turn: bool,
}

impl<T> Seated<T> {
    /// Waits for the turn; none only if the one who had to give it has panicked. Cancel-safe: a turn that came is
    /// dropped with the seat.
    pub(crate) async fn turn(&mut self) -> Option<T> {
        let turn = (&mut self.comes).await.ok();
        self.has_turn = true;
        turn
    }
}

impl<T> Drop for Seated<T> {
    fn drop(&mut self) {
        if !self.has_turn {
            self.cohorts.leave(&self.name, self.serial);
        }
    }
}
