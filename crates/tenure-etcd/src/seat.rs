//! What the lanes of one claim share: its leases, and its place as it was last seen.
//!
//! A claim is spoken for by contenders that come and go: the caller's, the keeper's, that of a withdrawal. What they
//! know is kept here for as long as one of them lives, and longer while something of the claim may be at the server.
//!
//! # Invariants
//! 1. All contenders of one claim in a process share one seat.
//! 2. A seat without contenders is kept while the leases of its claim may live.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure_core::ClaimId;
use tenure_core::engine::Waiting;

use crate::lease::Lease;

/// The seats of an engine.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    seats: HashMap<ClaimId, (Arc<Mutex<State>>, usize)>,
    /// At how many seats those whose leases have ended are looked for.
    clear_at: usize,
}

/// What is known of a claim.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// What the place hangs on, or is to hang on, while the claim holds.
    pub(crate) hold: Option<Arc<Lease>>,
    /// The same while it waits.
    pub(crate) wait: Option<Arc<Lease>>,
    pub(crate) place: Option<Taken>,
    /// How many attempts to join were sent and not answered.
    pub(crate) unanswered: u32,
}

/// The place of a claim as it was last seen.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) key: Vec<u8>,
    pub(crate) created: i64,
    pub(crate) changed: i64,
    pub(crate) lease: Arc<Lease>,
    /// Its token and slot, once it was granted.
    pub(crate) grant: Option<(u64, u32)>,
    /// Whether the line has a mark that can go when the line is empty.
    pub(crate) marked: bool,
    /// Of an exclusive waiter far back in a long line: the place before it, as long as that is all that matters.
    pub(crate) behind: Option<Behind>,
}

/// The place before a waiter, and what the waiter was told.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    pub(crate) key: Vec<u8>,
    pub(crate) created: i64,
    pub(crate) waiting: Waiting,
}

/// One contender's share of a seat.
#[derive(Debug)]
pub(crate) struct Seat {
    claim: ClaimId,
    seats: Arc<Seats>,
    state: Arc<Mutex<State>>,
}

impl Seats {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The seat of a claim.
    pub(crate) fn of(self: &Arc<Self>, claim: ClaimId) -> Seat {
        let mut table = self.table();
        if table.seats.len() >= table.clear_at {
            table.seats.retain(|_, (state, users)| *users > 0 || lock(state).may_live());
            table.clear_at = (table.seats.len() * 2).max(64);
        }
        let (state, users) = table.seats.entry(claim).or_default();
        *users += 1;
        Seat { claim, seats: Arc::clone(self), state: Arc::clone(state) }
    }

    /// What is known of the place of a claim that somebody speaks for.
    pub(crate) fn place_of(&self, claim: ClaimId) -> Option<Taken> {
        let table = self.table();
        table.seats.get(&claim).and_then(|(state, _)| lock(state).place.clone())
    }

    /// Notes that a place was seen to have changed.
    pub(crate) fn note_change(&self, claim: ClaimId, changed: i64) {
        let table = self.table();
        if let Some((state, _)) = table.seats.get(&claim)
            && let Some(place) = &mut lock(state).place
        {
            place.changed = changed;
        }
    }
}

impl State {
    /// Whether something of the claim may still be at the server.
    fn may_live(&self) -> bool {
        let place = self.place.as_ref().map(|place| &place.lease);
        self.hold.iter().chain(&self.wait).chain(place).any(|lease| !lease.left().is_zero())
    }

    /// Forgets a place that has ended, with its leases.
    pub(crate) fn lose(&mut self) {
        (self.place, self.hold, self.wait) = (None, None, None);
    }

    /// All leases, for whoever disposes of them; nothing is left.
    pub(crate) fn take_leases(&mut self) -> Vec<Arc<Lease>> {
        self.place = None;
        self.hold.take().into_iter().chain(self.wait.take()).collect()
    }
}

impl Seat {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn place(&self) -> Option<Taken> {
        self.state().place.clone()
    }

    /// An attempt to join is about to be sent; unless it is answered, it counts as under way for ever.
    pub(crate) fn sends(&self) {
        self.state().unanswered += 1;
    }

    pub(crate) fn answered(&self) {
        let mut state = self.state();
        state.unanswered = state.unanswered.saturating_sub(1);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.seats.table();
        let Some((state, users)) = table.seats.get_mut(&self.claim) else { return };
        *users -= 1;
        if *users == 0 && !lock(state).may_live() {
            table.seats.remove(&self.claim);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
