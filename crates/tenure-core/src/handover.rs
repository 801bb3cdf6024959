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

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Id};

use crate::acquire::{Pending, Settled};
use crate::cohort::{Cohorts, Entry, Name, Seat};
use crate::engine::{Restamp, Withdrawn};
use crate::event::What;
use crate::hold::Hold;
use crate::keeper::rings;
use crate::lease::Moment;
use crate::shared::Shared;
use crate::wish::{Fairness, Wish};
use crate::{Claim, Error, FencingToken, IfBusy, LossCause, Mode, Released, TokenBlock, departure};

/// How often a hold may pass inside a process before others have a turn.
const PASSES_MAX: u32 = 64;

/// For how long it may.
const PASSING_TIME_MAX: Duration = Duration::from_millis(100);

/// What a seat waits for.
pub(crate) enum Turn {
    /// The hold, from the one before.
    Hold(Grip),
    /// The lead: contend for the cohort. Boxed: it is rare and large, and every turn is moved several times.
    Lead(Box<Lead>),
}

/// How an acquisition ended.
pub(crate) enum Entered {
    Holds(Grip),
    GaveUp(usize),
}

/// Acquires for one task: at its cohort if it may share a place, and otherwise on its own.
pub(crate) async fn acquire(
    shared: &Arc<Shared>,
    cohorts: &Arc<Cohorts<Turn>>,
    wish: &Wish,
    if_busy: IfBusy,
    deadline: Option<Moment>,
) -> Result<Entered, Error> {
    if wish.mode != Mode::Exclusive || wish.fairness == Fairness::StrictFifo {
        let mut pending = Pending::new(Arc::clone(shared), wish.claim(shared, if_busy));
        return Ok(match pending.settle(deadline).await? {
            Settled::Held(hold) => Entered::Holds(Grip::new(hold, None, None)),
            Settled::GaveUp(ahead) => Entered::GaveUp(ahead),
        });
    }
    let name = Name { key: wish.key.clone(), ttl: wish.ttl, quarantine: wish.quarantine };
    let mut lead = match cohorts.enter(&name, wish.max_hold, if_busy) {
        Entry::Leads => Lead::new(Cohort::new(shared, cohorts, name)),
        Entry::Busy => return Ok(Entered::GaveUp(1)),
        Entry::Sits(mut seat) => {
            let alarm = deadline.map(|at| shared.keeper.alarm(at));
            let turn = tokio::select! {
                biased;
                turn = seat.turn() => turn,
                () = rings(alarm.as_ref()) => None,
            };
            match turn {
                Some(Turn::Hold(grip)) => return Ok(Entered::Holds(grip)),
                Some(Turn::Lead(lead)) => *lead,
                None => return Ok(Entered::GaveUp(1)),
            }
        }
    };
    lead.settle(wish, if_busy, deadline).await
}

/// One cohort of one client.
struct Cohort {
    shared: Arc<Shared>,
    cohorts: Arc<Cohorts<Turn>>,
    name: Name,
}

impl Cohort {
    fn new(shared: &Arc<Shared>, cohorts: &Arc<Cohorts<Turn>>, name: Name) -> Arc<Self> {
        Arc::new(Self { shared: Arc::clone(shared), cohorts: Arc::clone(cohorts), name })
    }
}

/// The right to contend or hold for a cohort. When it ends, the longest waiter gets it.
struct Membership(Option<Arc<Cohort>>);

impl Membership {
    /// Gives the lead to the longest waiter, with the place if there is one; without waiters both end.
    fn hand_on(&mut self, mut pending: Option<Pending>) {
        let Some(mut cohort) = self.0.take() else { return };
        while let Some(seat) = cohort.cohorts.next_or_close(&cohort.name) {
            let mut lead = Lead::new(cohort);
            lead.pending = pending;
            let Err(Turn::Lead(mut lead)) = seat.turn.send(Turn::Lead(Box::new(lead))) else { return };
            // The waiter has gone; what it did not take goes to the next.
            pending = lead.pending.take();
            match lead.membership.0.take() {
                Some(same) => cohort = same,
                None => return,
            }
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.hand_on(None);
    }
}

/// A membership that contends.
pub(crate) struct Lead {
    membership: Membership,
    pending: Option<Pending>,
}

impl Lead {
    fn new(cohort: Arc<Cohort>) -> Self {
        Self { membership: Membership(Some(cohort)), pending: None }
    }

    async fn settle(
        &mut self,
        wish: &Wish,
        if_busy: IfBusy,
        deadline: Option<Moment>,
    ) -> Result<Entered, Error> {
        let Some(cohort) = self.membership.0.clone() else { return Ok(Entered::GaveUp(0)) };
        let pending = self.pending.get_or_insert_with(|| {
            let mut claim = wish.claim(&cohort.shared, if_busy);
            // Spare tokens are for those who wait already; a lone task needs none.
            claim.spare_tokens = if cohort.cohorts.has_waiters(&cohort.name) { PASSES_MAX } else { 0 };
            Pending::new(Arc::clone(&cohort.shared), claim)
        });
        let settled = pending.settle(deadline).await;
        // A place that waits is left to the next of the cohort. Everything else is of no use to it.
        if !matches!(settled, Ok(Settled::GaveUp(_))) || if_busy == IfBusy::Leave {
            self.pending = None;
        }
        Ok(match settled? {
            Settled::Held(hold) => {
                hold.bequeath(std::mem::replace(&mut self.membership, Membership(None)));
                Entered::Holds(Grip::new(hold, Some(cohort), None))
            }
            Settled::GaveUp(ahead) => Entered::GaveUp(ahead),
        })
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.membership.hand_on(self.pending.take());
    }
}

/// A hold in somebody's hand: passed on inside the process, or given up at the engine, whenever it is let go.
pub(crate) struct Grip {
    pub(crate) hold: Arc<Hold>,
    pub(crate) token: FencingToken,
    /// When the one before let it go, if it was passed on.
    pub(crate) passed: Option<Moment>,
    cohort: Option<Arc<Cohort>>,
    /// The runtime on which its guard was made.
    runtime: Option<Id>,
    armed: bool,
}

/// Whether a hold was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    Yes,
    No,
    /// It could be, with a fresh token from the engine.
    NeedsToken,
}

impl Grip {
    fn new(hold: Arc<Hold>, cohort: Option<Arc<Cohort>>, passed: Option<Moment>) -> Self {
        Self { token: hold.token(), hold, passed, cohort, runtime: None, armed: true }
    }

    /// The hold is in the hand of whoever runs here, and can be given up from here at once.
    pub(crate) fn taken_here(&mut self) {
        self.runtime = Handle::try_current().ok().map(|runtime| runtime.id());
    }

    /// Lets go, and waits until the hold is free or passed on.
    pub(crate) async fn release(mut self) -> Result<Released, Error> {
        let passed = match self.pass() {
            Passed::NeedsToken => self.pass_restamped().await,
            passed => passed,
        };
        if passed == Passed::Yes {
            self.armed = false;
            return Ok(Released::Cleanly);
        }
        self.withdraw().await
    }

    /// Passes the hold to the next waiter of its cohort, if the bounds allow it and a spare token is at hand.
    fn pass(&self) -> Passed {
        let Some(cohort) = &self.cohort else { return Passed::No };
        if !cohort.cohorts.has_waiters(&cohort.name) {
            return Passed::No;
        }
        let passing = self.hold.passing();
        if !passing.sound || passing.passes >= PASSES_MAX || passing.since >= PASSING_TIME_MAX {
            return Passed::No;
        }
        match passing.rest {
            Some(tokens) => self.give(cohort, tokens, passing.now),
            None => Passed::NeedsToken,
        }
    }

    /// Passes the hold on with a fresh stamp. Spare tokens are asked for with it: when the claim was made, perhaps
    /// nobody waited yet, and without them each pass would cost a round trip.
    async fn pass_restamped(&self) -> Passed {
        let Some(cohort) = &self.cohort else { return Passed::No };
        let claim = Claim { spare_tokens: PASSES_MAX, ..self.hold.claim.clone() };
        match cohort.shared.engine.contend(claim).restamp().await {
            Ok(Restamp::Fresh(tokens)) => {
                cohort.shared.saw(tokens.last());
                self.give(cohort, tokens, cohort.shared.clock.now())
            }
            _ => Passed::No,
        }
    }

    /// Passes the hold on at `now`, which is not before the answer that gave the tokens.
    fn give(&self, cohort: &Arc<Cohort>, tokens: TokenBlock, now: Moment) -> Passed {
        let mut past = None;
        while let Some(seat) = cohort.cohorts.next(&cohort.name) {
            let Some(passed) = self.hold.pass(tokens, seat.max_hold, now) else {
                lead_again(cohort, seat);
                return Passed::No;
            };
            past.get_or_insert(passed);
            let grip = Self::new(Arc::clone(&self.hold), Some(Arc::clone(cohort)), Some(now));
            match seat.turn.send(Turn::Hold(grip)) {
                Ok(()) => {
                    if let Some((token, held)) = past {
                        self.hold.emit(What::Released { token, held });
                    }
                    return Passed::Yes;
                }
                // The waiter has gone. The hold is still in this hand.
                Err(Turn::Hold(mut grip)) => grip.armed = false,
                Err(Turn::Lead(_)) => {}
            }
        }
        Passed::No
    }

    async fn withdraw(&mut self) -> Result<Released, Error> {
        self.armed = false;
        let hold = Arc::clone(&self.hold);
        let mut finish = Finish { hold: &hold, withdrawn: false };
        let mut contender = match hold.begin_release() {
            Ok(kept) => hold.or_another(kept),
            Err(loss) => return Ok(Released::AlreadyLost(loss)),
        };
        match contender.withdraw(hold.strays.stray()).await {
            Ok(withdrawn) => {
                finish.withdrawn = true;
                hold.emit(What::Withdrawn);
                Ok(match withdrawn {
                    Withdrawn::Held => Released::Cleanly,
                    Withdrawn::Waited | Withdrawn::Absent => {
                        Released::AlreadyLost(hold.loss_of(LossCause::Denied))
                    }
                })
            }
            Err(error) => {
                let engine = hold.shared.facts.engine;
                Err(Error::of_engine(engine, "release", Some(&hold.claim.key), error))
            }
        }
    }
}

impl Drop for Grip {
    fn drop(&mut self) {
        if !std::mem::take(&mut self.armed) || self.pass() == Passed::Yes {
            return;
        }
        let mut finish = Finish { hold: &self.hold, withdrawn: false };
        if let Some(runtime) = departure::lane(self.runtime) {
            finish.withdrawn = departure::begin(&self.hold, &runtime);
        } else {
            // Lost before, it is withdrawn all the same.
            drop(self.hold.begin_release());
        }
    }
}

/// Finishes a release, however far it came: what nobody has withdrawn or sees to is withdrawn in the background, and
/// then the next of the cohort is let in.
struct Finish<'a> {
    hold: &'a Hold,
    withdrawn: bool,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        if !self.withdrawn {
            self.hold.order_withdrawal();
        }
        self.hold.settle_estate();
    }
}

/// Puts a waiter back that there was nothing to give to. If its cohort was closed meanwhile, it leads a new one.
fn lead_again(cohort: &Arc<Cohort>, seat: Seat<Turn>) {
    if let Some(seat) = cohort.cohorts.put_back(&cohort.name, seat) {
        // If the waiter has gone, dropping the lead closes the cohort again.
        drop(seat.turn.send(Turn::Lead(Box::new(Lead::new(Arc::clone(cohort))))));
    }
}
