//! What the lanes of one claim share: its leases, and its place as it was last seen.
//!
//! A claim is spoken for by contenders that come and go: the caller's, the keeper's, that of a withdrawal. What they
//! know is kept here for as long as one of them lives, and longer while something of the claim may be at the server.
//!
//! # Invariants
//! 1. All contenders of one claim in a process share one seat.
//! 2. A seat without contenders is kept while the leases of its claim may live.
//! 3. An attempt to join is sent only on the leases that the seat has, and while one is not answered they are given to
//!    nobody else.
//! 4. While a deletion by name alone is not answered, nobody makes that name again: neither another claim, as with an
//!    attempt, nor this one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure_core::ClaimId;
use tenure_core::engine::Waiting;

use crate::lease::Lease;
use crate::record::View;

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
    /// How many attempts to join, and deletions by name alone, were sent and not answered.
    pub(crate) unanswered: u32,
    /// How many of them are deletions.
    deletions: u32,
    /// Former leases, under which one of these may still arrive: they must have ended before the claim joins again.
    pub(crate) condemned: Vec<Arc<Lease>>,
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
        let leases = self.hold.iter().chain(&self.wait).chain(place).chain(&self.condemned);
        leases.into_iter().any(|lease| lease.may_live())
    }

    /// Whether the claim is to hold by this lease, and to wait by that one.
    pub(crate) fn has(&self, hold: &Lease, wait: &Lease) -> bool {
        let is = |known: &Option<Arc<Lease>>, lease: &Lease| {
            known.as_ref().is_some_and(|known| known.id == lease.id)
        };
        is(&self.hold, hold) && (wait.id == hold.id || is(&self.wait, wait))
    }

    /// A lease of the claim by its name; of one that is not known, nothing is proved.
    pub(crate) fn lease(&self, id: i64) -> Arc<Lease> {
        let known = self.hold.iter().chain(&self.wait).find(|lease| lease.id == id);
        known.cloned().unwrap_or_else(|| Lease::stranger(id))
    }

    /// Forgets the place, and these leases.
    pub(crate) fn forget(&mut self, leases: &[i64]) {
        self.place = None;
        for kept in [&mut self.hold, &mut self.wait] {
            kept.take_if(|lease| leases.contains(&lease.id));
        }
    }

    /// All leases, for whoever disposes of them. Those under which something may still arrive are noted.
    pub(crate) fn take_leases(&mut self) -> Vec<Arc<Lease>> {
        self.place = None;
        let leases: Vec<_> = self.hold.take().into_iter().chain(self.wait.take()).collect();
        if self.unanswered > 0 {
            self.condemned.extend(leases.iter().cloned());
        }
        leases
    }
}

impl Taken {
    /// A place of a line, which hangs on this lease.
    pub(crate) fn new(view: &View, me: usize, lease: Arc<Lease>) -> Self {
        let place = &view.places[me];
        let marked = view.mark.changed > 0 && view.mark.base == 0;
        let (key, created, changed) = (place.key.clone(), place.created, place.changed);
        Self { key, created, changed, lease, grant: None, marked, behind: None }
    }
}

impl Seat {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn place(&self) -> Option<Taken> {
        self.state().place.clone()
    }

    /// An attempt to join on these leases is about to be sent; unless it is answered, it counts as under way for ever.
    /// False when another lane has disposed of the leases: then it must not be sent.
    pub(crate) fn sends(&self, hold: &Lease, wait: &Lease) -> bool {
        let mut state = self.state();
        let has = state.has(hold, wait);
        state.unanswered += u32::from(has);
        has
    }

    pub(crate) fn answered(&self) {
        self.state().unanswered -= 1;
    }

    /// The place is about to be deleted by its name alone; unless that is answered, it counts as under way for ever.
    /// False when its name is not certainly the claim's own: then it may only be deleted as the one that is known.
    pub(crate) fn deletes(&self, place: &Taken, name: impl Fn(i64) -> Vec<u8>) -> bool {
        let mut state = self.state();
        let is_this = state.place.as_ref().is_some_and(|now| now.created == place.created);
        let is_ours = state.hold.as_ref().is_some_and(|hold| name(hold.id) == place.key);
        if is_this && is_ours {
            state.unanswered += 1;
            state.deletions += 1;
        }
        is_this && is_ours
    }

    pub(crate) fn deletion_answered(&self) {
        let mut state = self.state();
        state.unanswered -= 1;
        state.deletions -= 1;
    }

    /// The claim is about to join. Where a deletion may still arrive it must not make the same name again, so its
    /// leases are noted as former ones.
    pub(crate) fn joins(&self) {
        let mut state = self.state();
        if state.deletions > 0 && state.place.is_none() {
            state.take_leases();
        }
    }

    /// Notes that a place was seen to hang on this lease since a revision.
    pub(crate) fn note_move(&self, created: i64, changed: i64, lease: i64) {
        let mut state = self.state();
        let lease = state.lease(lease);
        if let Some(place) = &mut state.place
            && place.created == created
        {
            (place.changed, place.lease) = (changed, lease);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_not_sent_on_leases_that_another_lane_has_disposed_of() {
        let seats = Arc::new(Seats::default());
        let (lane, other) = (seats.of(ClaimId::from_bits(1)), seats.of(ClaimId::from_bits(1)));
        let (hold, wait) = (Lease::stranger(1), Lease::stranger(2));
        {
            let mut state = lane.state();
            (state.hold, state.wait) = (Some(Arc::clone(&hold)), Some(Arc::clone(&wait)));
        }
        assert!(lane.sends(&hold, &wait));
        assert_eq!(other.state().take_leases().len(), 2);
        assert!(!lane.sends(&hold, &wait), "they may be another claim's by now");
        let state = lane.state();
        assert_eq!(state.unanswered, 1);
        assert_eq!(state.condemned.len(), 2, "the first may still arrive under them");
    }
}
