//! A hold: what its guard, its keeper and its listeners agree on.
//!
//! # Invariants
//! 1. The phase goes from held to exactly one of released and lost, once.
//! 2. A hold past `until` on either clock is not held, whether or not anybody has noticed.
//! 3. Only an answer to a request that was sent while the hold was held extends it, and only if it comes in time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::engine::{DynContender, Grant, Validity};
use crate::event::What;
use crate::flaw::{self, Flaw};
use crate::keeper::{ADOPT_AFTER, Ticket};
use crate::lease::{Lease, Moment};
use crate::shared::Shared;
use crate::strays::Strays;
use crate::{Claim, FencingToken, Loss, LossCause, TokenBlock, withdrawal};

/// A granted claim.
pub(crate) struct Hold {
    pub(crate) claim: Claim,
    pub(crate) slot: u32,
    pub(crate) strays: Strays,
    pub(crate) shared: Arc<Shared>,
    state: Mutex<State>,
    /// Notified when the phase or the deadlines change.
    turned: Notify,
}

struct State {
    phase: Phase,
    /// None for a hold that cannot expire.
    lease: Option<Lease>,
    /// The longest time the present guard may hold.
    max_until: Option<Moment>,
    /// The token of the present guard, and the spare ones.
    tokens: TokenBlock,
    /// When the present guard got it, and when the claim did.
    guard_since: Moment,
    claim_since: Moment,
    passes: u32,
    /// The contender of the caller's lane, kept for the release.
    contender: Option<Box<dyn DynContender>>,
    suspected: bool,
    /// The engine has only offered the hold; the first renewal confirms it.
    unconfirmed: bool,
    /// The keeper's note, until it is taken up: to adopt the hold, or to see to its departure.
    note: Option<Ticket>,
    /// When the guard was dropped, while the withdrawal that began then is not answered and is nobody else's business.
    departs: Option<Moment>,
    /// What is given on when the hold ends, by dropping it.
    estate: Option<Box<dyn Send>>,
}

enum Phase {
    Held,
    Released,
    Lost(Loss),
}

/// What a renewal's answer did to a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extended {
    /// It lasts longer now.
    Longer,
    /// It came too late, or the hold had ended.
    TooLate,
}

impl Hold {
    pub(crate) fn new(
        shared: Arc<Shared>,
        claim: Claim,
        grant: &Grant,
        lease: Option<Lease>,
        strays: Strays,
        contender: Option<Box<dyn DynContender>>,
    ) -> Self {
        let now = shared.clock.now();
        shared.keeper.hold_begins();
        let state = State {
            phase: Phase::Held,
            lease,
            max_until: None,
            tokens: grant.tokens,
            guard_since: now,
            claim_since: now,
            passes: 0,
            contender,
            suspected: false,
            unconfirmed: false,
            note: None,
            departs: None,
            estate: None,
        };
        Self { claim, slot: grant.slot, strays, shared, state: Mutex::new(state), turned: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn emit(&self, what: What) {
        self.shared.emit(&self.claim, what);
    }

    /// Whether the hold stands. Reads the clocks; notices an end that nobody has noticed yet.
    pub(crate) fn check(&self) -> Result<(), Loss> {
        self.check_at(self.shared.clock.now())
    }

    fn check_at(&self, now: Moment) -> Result<(), Loss> {
        let overdue = {
            let state = self.state();
            match &state.phase {
                Phase::Lost(loss) => return Err(loss.clone()),
                Phase::Released => return Err(self.loss(&state, LossCause::Denied)),
                Phase::Held => state.overdue(now),
            }
        };
        match overdue {
            None => Ok(()),
            Some(cause) => Err(self.lose(cause).unwrap_or_else(|| self.loss(&self.state(), cause))),
        }
    }

    /// When the hold ends unless it is renewed; none when it cannot expire.
    pub(crate) fn until(&self) -> Option<Moment> {
        self.state().until()
    }

    /// When the keeper should renew next, if the hold still stands.
    pub(crate) fn renew_at(&self) -> Option<Moment> {
        let due = self.must_renew_at()?;
        Some(if self.state().unconfirmed { self.shared.clock.now() } else { due })
    }

    /// When a renewal is due, offered or not, if the hold still stands.
    pub(crate) fn must_renew_at(&self) -> Option<Moment> {
        let state = self.state();
        matches!(state.phase, Phase::Held).then(|| match state.lease {
            Some(lease) => lease.renew_together_at(self.shared.phase),
            // A hold that cannot expire is only looked after, in case a wake was lost.
            None => self.shared.clock.now().after(self.claim.ttl.duration() / 3),
        })
    }

    pub(crate) fn lease(&self) -> Option<Lease> {
        self.state().lease
    }

    /// Takes in the answer of a renewal that was sent at `sent`.
    pub(crate) fn extend(&self, sent: Moment, validity: Validity) -> Extended {
        let now = self.shared.clock.now();
        let mut state = self.state();
        if !matches!(state.phase, Phase::Held) || state.overdue(now).is_some() {
            return Extended::TooLate;
        }
        let sent = if flaw::planted(Flaw::ValidityFromReply) { now } else { sent };
        state.lease = match (state.lease, validity.lease(sent, self.claim.quarantine)) {
            (Some(old), Some(new)) => Some(old.or_longer(new)),
            (_, new) => new,
        };
        state.suspected = false;
        state.unconfirmed = false;
        drop(state);
        self.turned.notify_waiters();
        Extended::Longer
    }

    /// Ends the hold as lost; none when it had ended before.
    pub(crate) fn lose(&self, cause: LossCause) -> Option<Loss> {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Held) {
            return None;
        }
        let loss = self.loss(&state, cause);
        state.phase = Phase::Lost(loss.clone());
        let held = self.shared.clock.now().since(state.guard_since);
        let estate = state.estate.take();
        drop(state);
        self.turned.notify_waiters();
        drop(estate);
        self.emit(What::Lost { token: loss.token, cause, held });
        Some(loss)
    }

    /// Ends the hold as released: from here on it is not held, whatever the withdrawal will say. Gives what the
    /// withdrawal may use.
    pub(crate) fn begin_release(self: &Arc<Self>) -> Result<Option<Box<dyn DynContender>>, Loss> {
        self.end_as_released(false)
    }

    /// The same for a guard that was dropped: the keeper has a note until [`Hold::end_departure`], and sees to it that
    /// the hold is withdrawn.
    pub(crate) fn begin_departure(self: &Arc<Self>) -> Result<Option<Box<dyn DynContender>>, Loss> {
        self.end_as_released(true)
    }

    fn end_as_released(self: &Arc<Self>, departs: bool) -> Result<Option<Box<dyn DynContender>>, Loss> {
        let now = self.shared.clock.now();
        self.check_at(now)?;
        let mut state = self.state();
        match &state.phase {
            Phase::Lost(loss) => return Err(loss.clone()),
            Phase::Released => return Err(self.loss(&state, LossCause::Denied)),
            Phase::Held => state.phase = Phase::Released,
        }
        let mut void = None;
        if departs {
            // Under the lock: the keeper may see to it from here on, and what it carries out must have been counted.
            self.shared.keeper.counts_as_ordered();
            state.departs = Some(now);
            if state.note.is_none() {
                state.note = Some(self.shared.keeper.note(now.after(ADOPT_AFTER), Arc::clone(self) as _));
            }
        } else {
            void = state.note.take();
        }
        let contender = state.contender.take();
        let what = What::Released { token: state.tokens.first, held: now.since(state.guard_since) };
        drop(state);
        if let Some(note) = void {
            self.shared.keeper.forget(note);
        }
        self.turned.notify_waiters();
        self.emit(what);
        Ok(contender)
    }

    /// Takes the departure out of the keeper's hands; false when it has seen to it already.
    pub(crate) fn end_departure(&self) -> bool {
        let mut state = self.state();
        if state.departs.take().is_none() {
            return false;
        }
        let note = state.note.take();
        drop(state);
        if let Some(note) = note {
            self.shared.keeper.forget(note);
        }
        true
    }

    /// Waits until the hold has ended, either way.
    pub(crate) async fn ended(&self) {
        loop {
            let turned = self.turned.notified();
            if !matches!(self.state().phase, Phase::Held) {
                return;
            }
            turned.await;
        }
    }

    /// Waits until the hold has ended or its deadlines have changed.
    pub(crate) fn turned(&self) -> Notified<'_> {
        // Made before the deadlines are read, so that no change in between is missed.
        self.turned.notified()
    }

    /// Waits until the hold is lost; never, once it was released.
    pub(crate) async fn lost(&self) -> Loss {
        loop {
            let turned = self.turned.notified();
            if let Phase::Lost(loss) = &self.state().phase {
                return loss.clone();
            }
            turned.await;
        }
    }

    /// The deadline that comes first, with the cause of the loss if it is reached.
    pub(crate) fn deadline(&self) -> Option<(Moment, LossCause)> {
        self.state().deadlines().next()
    }

    pub(crate) fn set_max_hold(&self, max_hold: Option<Duration>) {
        let mut state = self.state();
        state.max_until = max_hold.map(|max| state.guard_since.after(max));
        drop(state);
        self.turned.notify_waiters();
    }

    /// The first renewal is due as soon as somebody keeps the hold: it confirms what was only offered.
    pub(crate) fn confirm_soon(&self) {
        self.state().unconfirmed = true;
    }

    /// Marks that an answer is overdue; true the first time.
    pub(crate) fn suspect(&self) -> bool {
        !std::mem::replace(&mut self.state().suspected, true)
    }

    pub(crate) fn token(&self) -> FencingToken {
        self.state().tokens.first
    }

    /// Leaves a note at the keeper, if there is anything to be done for the hold.
    pub(crate) fn leave_note(self: &Arc<Self>, at: Moment) {
        // Under the lock, without which the keeper cannot take the note up: it must not be one of the past.
        let mut state = self.state();
        if matches!(state.phase, Phase::Held) || state.departs.is_some() {
            state.note = Some(self.shared.keeper.note(at, Arc::clone(self) as _));
        }
    }

    /// What the keeper has to do when its note is due.
    pub(crate) fn take_note_up(&self) -> Duty {
        let now = self.shared.clock.now();
        let mut state = self.state();
        state.note = None;
        match (&state.phase, state.departs) {
            (Phase::Held, _) => Duty::Adopt,
            (_, Some(since)) if now.reached(since.after(ADOPT_AFTER)) => Duty::Withdraw,
            (_, Some(since)) => Duty::LookAgain(since.after(ADOPT_AFTER)),
            (_, None) => Duty::Nothing,
        }
    }

    /// What a handover has to know.
    pub(crate) fn passing(&self) -> Passing {
        let state = self.state();
        let now = self.shared.clock.now();
        let sound = matches!(state.phase, Phase::Held)
            && state.overdue(now).is_none()
            && state.lease.is_none_or(|lease| !lease.is_late(now));
        Passing {
            now,
            sound,
            passes: state.passes,
            since: now.since(state.claim_since),
            rest: state.tokens.rest(),
        }
    }

    /// Gives the hold to the next guard of this process, with a token of its own. Returns the token of the guard
    /// whose part is over, and how long it held; none when the hold has ended meanwhile.
    pub(crate) fn pass(
        &self,
        tokens: TokenBlock,
        max_hold: Option<Duration>,
        now: Moment,
    ) -> Option<(FencingToken, Duration)> {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Held) || state.overdue(now).is_some() {
            return None;
        }
        let past = (state.tokens.first, now.since(state.guard_since));
        state.tokens = tokens;
        state.passes += 1;
        state.guard_since = now;
        let max_before = state.max_until;
        state.max_until = max_hold.map(|max| now.after(max));
        let changed = max_before.is_some() || state.max_until.is_some();
        drop(state);
        if changed {
            self.turned.notify_waiters();
        }
        Some(past)
    }

    /// Leaves something to the hold that is dropped when it ends, however it ends.
    pub(crate) fn bequeath(&self, estate: impl Send + 'static) {
        self.state().estate = Some(Box::new(estate));
    }

    /// Drops what was left to the hold.
    pub(crate) fn settle_estate(&self) {
        let estate = self.state().estate.take();
        drop(estate);
    }

    pub(crate) fn order_withdrawal(&self) {
        withdrawal::order(&self.shared, self.claim.clone(), self.strays.stray());
    }

    /// Who speaks for the hold: the contender that was kept, or a new one.
    pub(crate) fn or_another(&self, kept: Option<Box<dyn DynContender>>) -> Box<dyn DynContender> {
        kept.unwrap_or_else(|| self.shared.engine.contend(self.claim.clone()))
    }

    pub(crate) fn loss_of(&self, cause: LossCause) -> Loss {
        self.loss(&self.state(), cause)
    }

    fn loss(&self, state: &State, cause: LossCause) -> Loss {
        Loss::new(cause, state.tokens.first, self.claim.key.clone())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.keeper.hold_is_gone();
    }
}

/// What the keeper has to do for a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// It stands, and is to be kept.
    Adopt,
    /// Its guard was dropped a while ago, and nothing has been heard of the withdrawal since.
    Withdraw,
    /// Its guard was dropped just now.
    LookAgain(Moment),
    /// It has ended, or somebody else sees to it.
    Nothing,
}

/// What a handover has to know of a hold.
pub(crate) struct Passing {
    /// When this was.
    pub(crate) now: Moment,
    /// It stands, and with enough left to be worth having.
    pub(crate) sound: bool,
    pub(crate) passes: u32,
    /// How long the claim has held, over all its guards.
    pub(crate) since: Duration,
    /// The spare tokens.
    pub(crate) rest: Option<TokenBlock>,
}

impl State {
    fn until(&self) -> Option<Moment> {
        self.lease.map(Lease::until)
    }

    /// When the hold ends by itself, and why; what comes first is first, also for those who look after both.
    fn deadlines(&self) -> impl Iterator<Item = (Moment, LossCause)> {
        let until = self.until().map(|until| (until, LossCause::Expired));
        let max = self.max_until.map(|max| (max, LossCause::MaxHold));
        let max_is_first = until.zip(max).is_some_and(|((until, _), (max, _))| !max.until(until).is_zero());
        let both = if max_is_first { [max, until] } else { [until, max] };
        both.into_iter().flatten()
    }

    fn overdue(&self, now: Moment) -> Option<LossCause> {
        self.deadlines().find(|(end, _)| now.reached(*end)).map(|(_, cause)| cause)
    }
}
