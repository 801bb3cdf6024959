//! The local mutex in front of the shared line, done right.
//!
//! Waiters of one client on one key share one place in the line. A hold passes from task to task without touching
//! the engine, each time with a fencing token of its own; and so that nobody elsewhere starves, only for a bounded
//! number of passes and a bounded time, after which the place is given up and a new one joined at the end.
//!
//! # Invariants
//! 1. A cohort has at most one member that contends or holds; its [`Membership`] exists exactly once.
//! 2. When a membership ends, the longest waiter of the cohort takes it over; nobody is left without a leader.
//! 3. The place belongs to the cohort: a leader that stops waiting leaves it to the next.
//! 4. A hold that was lost leaves its cohort at once, even while its guard still lives.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::acquire::{Pending, Settled};
use crate::client::Shared;
use crate::engine::{DynContender, Restamp};
use crate::event::{Via, What};
use crate::guard::Guard;
use crate::hold::Hold;
use crate::lease::Moment;
use crate::lock::Wish;
use crate::{Error, IfBusy, Key, TokenBlock, Ttl};

/// How far the waiters of one process may favour each other over those elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fairness {
    /// A hold may pass between tasks of this process, at most 64 times and for at most 100 ms, before the process
    /// joins the end of the line.
    Handover,
    /// Every waiter has a place of its own in the line.
    StrictFifo,
}

/// How often a hold may pass inside a process before others have a turn.
pub(crate) const PASSES_MAX: u32 = 64;

/// For how long it may.
const PASSING_TIME_MAX: Duration = Duration::from_millis(100);

/// The cohorts of a client.
#[derive(Default)]
pub(crate) struct Cohorts {
    waiting: Mutex<HashMap<Name, VecDeque<Seat>>>,
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
struct Seat {
    serial: u64,
    max_hold: Option<Duration>,
    turn: oneshot::Sender<Turn>,
}

/// What a seat waits for.
enum Turn {
    /// The hold, from the one before.
    Hold(Guard),
    /// The lead: contend for the cohort.
    Lead(Lead),
}

/// The right to contend or hold for a cohort. When it ends, the next waiter gets it.
pub(crate) struct Membership {
    shared: Arc<Shared>,
    name: Name,
    ended: bool,
}

/// A membership that contends.
struct Lead {
    membership: Option<Membership>,
    pending: Option<Pending>,
}

/// How an acquisition in a cohort ended.
pub(crate) enum Entered {
    Guard(Guard),
    GaveUp(usize),
}

/// Acquires for one task of a cohort.
pub(crate) async fn acquire(
    shared: &Arc<Shared>,
    wish: &Wish,
    if_busy: IfBusy,
    deadline: Option<Moment>,
) -> Result<Entered, Error> {
    let name = Name { key: wish.key.clone(), ttl: wish.ttl, quarantine: wish.quarantine };
    let entry = shared.cohorts.enter(shared, name, wish.max_hold, if_busy);
    let mut lead = match entry {
        Entry::Lead(lead) => lead,
        Entry::Busy => return Ok(Entered::GaveUp(1)),
        Entry::Seat(mut seat) => match seat.turn(deadline).await {
            Some(Turn::Hold(guard)) => return Ok(Entered::Guard(guard)),
            Some(Turn::Lead(lead)) => lead,
            None => return Ok(Entered::GaveUp(1)),
        },
    };
    lead.settle(shared, wish, if_busy, deadline).await
}

impl Lead {
    async fn settle(
        &mut self,
        shared: &Arc<Shared>,
        wish: &Wish,
        if_busy: IfBusy,
        deadline: Option<Moment>,
    ) -> Result<Entered, Error> {
        let name = Name { key: wish.key.clone(), ttl: wish.ttl, quarantine: wish.quarantine };
        let pending = self.pending.get_or_insert_with(|| {
            let mut claim = wish.claim(shared, if_busy);
            // Spare tokens are for those who wait already; a lone task needs none.
            claim.spare_tokens = if shared.cohorts.has_waiters(&name) { PASSES_MAX } else { 0 };
            Pending::new(Arc::clone(shared), claim)
        });
        match pending.settle(deadline).await {
            Ok(Settled::Held(hold)) => {
                self.pending = None;
                if let Some(membership) = self.membership.take() {
                    hold.join_cohort(membership);
                }
                Ok(Entered::Guard(Guard::new(hold, wish.max_hold, Via::Engine)))
            }
            Ok(Settled::GaveUp(ahead)) => {
                if if_busy == IfBusy::Leave {
                    self.pending = None;
                }
                Ok(Entered::GaveUp(ahead))
            }
            Err(error) => {
                self.pending = None;
                Err(error)
            }
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(membership) = self.membership.take() {
            membership.hand_on(self.pending.take());
        }
    }
}

impl Membership {
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Gives the lead to the longest waiter, with the place if there is one; without waiters both end.
    fn hand_on(mut self, mut pending: Option<Pending>) {
        let shared = Arc::clone(&self.shared);
        loop {
            let Some(seat) = shared.cohorts.next_or_close(&self.name) else {
                self.ended = true;
                return;
            };
            let lead = Lead { membership: Some(self), pending: pending.take() };
            let Err(Turn::Lead(mut lead)) = seat.turn.send(Turn::Lead(lead)) else { return };
            // The waiter has gone; what it did not take goes to the next.
            pending = lead.pending.take();
            match lead.membership.take() {
                Some(membership) => self = membership,
                None => return,
            }
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            let again = Self { shared: Arc::clone(&self.shared), name: self.name.clone(), ended: false };
            again.hand_on(None);
        }
    }
}

/// Passes a hold to the next waiter of its cohort, if the bounds allow it and a spare token is at hand.
pub(crate) fn pass(hold: &Arc<Hold>) -> Passed {
    let Some(name) = hold.cohort() else { return Passed::No };
    let passing = hold.passing();
    if !passing.sound || passing.passes >= PASSES_MAX || passing.since >= PASSING_TIME_MAX {
        return Passed::No;
    }
    match passing.rest {
        Some(tokens) => give(hold, &name, tokens),
        None if hold.shared.cohorts.has_waiters(&name) => Passed::NeedsToken,
        None => Passed::No,
    }
}

/// Whether a hold was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    Yes,
    No,
    /// It could be, with a fresh token from the engine.
    NeedsToken,
}

/// Passes a hold with a fresh token from the engine.
pub(crate) async fn pass_restamped(hold: &Arc<Hold>, contender: &mut dyn DynContender) -> Passed {
    let Some(name) = hold.cohort() else { return Passed::No };
    match contender.restamp().await {
        Ok(Restamp::Fresh(tokens)) if hold.passing().sound => give(hold, &name, tokens),
        _ => Passed::No,
    }
}

fn give(hold: &Arc<Hold>, name: &Name, tokens: TokenBlock) -> Passed {
    let shared = &hold.shared;
    let mut past = None;
    while let Some(seat) = shared.cohorts.next(name) {
        let Some(passed) = hold.pass(tokens, seat.max_hold) else {
            seat_again(shared, name, seat);
            return Passed::No;
        };
        past.get_or_insert(passed);
        shared.saw(tokens.first);
        let guard = Guard::passed(Arc::clone(hold), shared.clock.now());
        match seat.turn.send(Turn::Hold(guard)) {
            Ok(()) => {
                if let Some((token, held)) = past {
                    hold.emit(What::Released { token, held });
                }
                return Passed::Yes;
            }
            Err(Turn::Hold(guard)) => guard.disarm(),
            Err(Turn::Lead(_)) => {}
        }
    }
    Passed::No
}

/// Puts a waiter back that there was nothing to give to. If its cohort has ended meanwhile, it leads a new one.
fn seat_again(shared: &Arc<Shared>, name: &Name, seat: Seat) {
    let mut waiting = shared.cohorts.waiting();
    if let Some(queue) = waiting.get_mut(name) {
        queue.push_front(seat);
        return;
    }
    waiting.insert(name.clone(), VecDeque::new());
    drop(waiting);
    let membership = Membership { shared: Arc::clone(shared), name: name.clone(), ended: false };
    let lead = Lead { membership: Some(membership), pending: None };
    // If the waiter has gone, dropping the lead ends the cohort again.
    drop(seat.turn.send(Turn::Lead(lead)));
}

/// How a task enters a cohort.
enum Entry {
    Lead(Lead),
    Seat(Seated),
    Busy,
}

impl Cohorts {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Name, VecDeque<Seat>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, shared: &Arc<Shared>, name: Name, max_hold: Option<Duration>, if_busy: IfBusy) -> Entry {
        let mut waiting = self.waiting();
        let Some(queue) = waiting.get_mut(&name) else {
            waiting.insert(name.clone(), VecDeque::new());
            drop(waiting);
            let membership = Membership { shared: Arc::clone(shared), name, ended: false };
            return Entry::Lead(Lead { membership: Some(membership), pending: None });
        };
        if if_busy == IfBusy::Leave {
            return Entry::Busy;
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (turn, comes) = oneshot::channel();
        queue.push_back(Seat { serial, max_hold, turn });
        drop(waiting);
        Entry::Seat(Seated { shared: Arc::clone(shared), name, serial, comes })
    }

    fn next(&self, name: &Name) -> Option<Seat> {
        self.waiting().get_mut(name)?.pop_front()
    }

    /// The next waiter; without one, the cohort ends in the same step.
    fn next_or_close(&self, name: &Name) -> Option<Seat> {
        let mut waiting = self.waiting();
        let next = waiting.get_mut(name)?.pop_front();
        if next.is_none() {
            waiting.remove(name);
        }
        next
    }

    fn has_waiters(&self, name: &Name) -> bool {
        self.waiting().get(name).is_some_and(|queue| !queue.is_empty())
    }

    fn leave(&self, name: &Name, serial: u64) {
        if let Some(queue) = self.waiting().get_mut(name) {
            queue.retain(|seat| seat.serial != serial);
        }
    }
}

/// A seat from the side of the one who sits in it; leaves when dropped.
struct Seated {
    shared: Arc<Shared>,
    name: Name,
    serial: u64,
    comes: oneshot::Receiver<Turn>,
}

impl Seated {
    /// Waits for the turn; none when the deadline came first.
    async fn turn(&mut self, deadline: Option<Moment>) -> Option<Turn> {
        let alarm = deadline.map(|at| self.shared.keeper.alarm(&self.shared, at));
        let bell = async {
            match &alarm {
                Some(alarm) => alarm.rings().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            turn = &mut self.comes => turn.ok(),
            () = bell => None,
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.shared.cohorts.leave(&self.name, self.serial);
        // A turn that came too late to be taken is in the channel; dropping it hands it on.
    }
}
