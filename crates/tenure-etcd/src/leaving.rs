//! Leaving a line, and what becomes of the leases.

use std::sync::Arc;

use tenure_core::Mode;
use tenure_core::engine::line::{self, Verdict};
use tenure_core::engine::{Effect, EngineError, Stray, Trouble, Withdrawn};

use crate::lease::Lease;
use crate::names::Span;
use crate::ops::{self, Answers};
use crate::place::Doing;
use crate::record::{self, Mark, View, WITHDRAWN, seconds_up};
use crate::rpc::RequestOp;
use crate::seat::{State, Taken};

impl Doing<'_> {
    /// Takes back a place that was just made, as if it had never been.
    pub(crate) async fn undo(&self) -> Result<(), EngineError> {
        let Some(place) = self.seat.place() else { return Ok(()) };
        let stands = vec![ops::created_at(&place.key, place.created)];
        let undone = self.write_txn(ops::txn(stands, vec![ops::delete(&place.key)], Vec::new())).await;
        // If the answer does not come, the place may stand.
        undone.map_err(|failed| failed.trouble.with_unknown_effect())?;
        self.dispose(false);
        Ok(())
    }

    /// Takes the claim out of the line, whatever its state.
    ///
    /// The place is deleted only if it is the one that is known: the next claim may have one of the same name.
    pub(crate) async fn withdraw(&self, stray: Stray) -> Result<Withdrawn, EngineError> {
        let stray = stray == Stray::Possible;
        let mut dig = if stray { Some(self.tombstone().await?) } else { None };
        let mut place = self.seat.place();
        if place.is_none() {
            // What arrives after the tombstone is refused, and what arrived before is found.
            if let Some(dig) = dig.take() {
                self.write_txn(ops::txn(Vec::new(), vec![dig], Vec::new())).await?;
            }
            self.find_own().await?;
            place = self.seat.place();
        }
        let Some(place) = place else {
            self.dispose(stray);
            return Ok(Withdrawn::Absent);
        };
        let known_to_hold = place.grant.is_some();
        let name = |lease| self.shared.names.place(&self.claim.key, lease);
        if known_to_hold && !place.marked && dig.is_none() && self.seat.deletes(&place, name) {
            return self.delete_by_name(&place).await;
        }
        let mut ops = vec![ops::delete(&place.key)];
        if place.marked {
            ops.push(self.clear_mark(&place.key));
        }
        // What it did until now is seen in the line as it was before.
        if !known_to_hold {
            let line = self.line();
            let until_now = match self.claim.mode {
                Mode::Exclusive => ops::oldest(&line, 1),
                Mode::Shared | Mode::Permit { .. } => ops::list(&line),
            };
            ops.insert(0, until_now);
        }
        ops.extend(dig.clone());
        let stands = vec![ops::created_at(&place.key, place.created)];
        let gone = dig.into_iter().collect();
        let mut answers = Answers::from(self.write_txn(ops::txn(stands, ops, gone)).await?);
        // If it was not there, what is known of it is old: whatever hangs on its leases must go with them.
        self.dispose(stray || !answers.succeeded);
        if !answers.succeeded {
            return Ok(Withdrawn::Absent);
        }
        if known_to_hold {
            return Ok(Withdrawn::Held);
        }
        // What others have written there, in a line that cannot be read, does not keep us from leaving it.
        let view = View::read(&self.shared.names, answers.revision, answers.found()?, &[]);
        let me = view.as_ref().ok().and_then(|view| Some((view, view.created_at(place.created)?)));
        let held = me.is_some_and(|(view, me)| line::verdict(&view.modes(), me) == Verdict::Granted);
        Ok(if held { Withdrawn::Held } else { Withdrawn::Waited })
    }

    /// Deletes the place of a hold, whichever it is that has its name: as long as the claim has the lease that it is
    /// named by, nobody else's can have it. That costs etcd less than to compare first.
    async fn delete_by_name(&self, place: &Taken) -> Result<Withdrawn, EngineError> {
        let answer = self.write_txn(ops::txn(Vec::new(), vec![ops::delete(&place.key)], Vec::new())).await;
        if !matches!(&answer, Err(failed) if failed.trouble.effect != Effect::None) {
            self.seat.deletion_answered();
        }
        let deleted = Answers::from(answer?).deleted()?;
        self.dispose(!deleted);
        Ok(if deleted { Withdrawn::Held } else { Withdrawn::Absent })
    }

    /// Looks for a place of the claim of which this process knows nothing, also in a line that cannot be read.
    async fn find_own(&self) -> Result<(), EngineError> {
        let read = vec![ops::list(&self.line()), ops::get(&self.mark())];
        let mut answers = Answers::from(self.link.txn(ops::txn(Vec::new(), read, Vec::new())).await?);
        let own = answers.found()?.into_iter().filter(|kv| record::is_of(&kv.value, self.claim.id)).collect();
        let mark = Some(answers.found()?).filter(|mark| Mark::read(mark).is_ok()).unwrap_or_default();
        let view = View::read(&self.shared.names, answers.revision, own, &mark)?;
        if !view.places.is_empty() {
            self.adopt(&view, 0);
        }
        Ok(())
    }

    /// What refuses an attempt that is still to arrive, for one term.
    async fn tombstone(&self) -> Result<RequestOp, EngineError> {
        let term = i64::try_from(seconds_up(self.claim.term())).unwrap_or(i64::MAX);
        let (lease, _) = self.link.grant(&self.link.turn().await?, term).await?;
        let grave = self.grave();
        let dig = ops::put(&grave, WITHDRAWN.to_vec(), lease);
        Ok(ops::when(vec![ops::is_absent(&grave)], vec![dig], Vec::new()))
    }

    /// Removes the mark of a line in which nobody else is.
    fn clear_mark(&self, own: &[u8]) -> RequestOp {
        let Span { first, end } = self.line();
        let before = Span { first, end: own.to_vec() };
        let after = Span { first: [own, &[0]].concat(), end };
        ops::when(
            vec![ops::is_empty(&before), ops::is_empty(&after)],
            vec![ops::delete(&self.mark())],
            Vec::new(),
        )
    }

    /// A place was seen to have gone, with its lease or without. Nothing is lost when another lane has moved it to
    /// another lease meanwhile, or has made a new one.
    pub(crate) fn lose_place(&self, place: &Taken, with_lease: bool) {
        self.lose(|state| {
            let is_this = |now: &Taken| now.created == place.created && now.lease.id == place.lease.id;
            let lost = state.place.as_ref().is_some_and(is_this);
            lost.then(|| if with_lease { vec![place.lease.id] } else { Vec::new() })
        });
    }

    /// Begins anew, if what is known is still what was lost, for which it is told which leases have ended. Those that
    /// have not go on, unless an attempt may still arrive under them: it would make a second place of the claim.
    pub(crate) fn lose(&self, ended: impl Fn(&State) -> Option<Vec<i64>>) {
        let leases = {
            let mut state = self.seat.state();
            let Some(ended) = ended(&state) else { return };
            if state.unanswered == 0 {
                state.forget(&ended);
                return;
            }
            state.take_leases()
        };
        self.revoke(leases);
    }

    /// Ends the leases of the claim, with all that hangs on them, if what is known of it is still this.
    pub(crate) fn end_leases(&self, is_this: impl Fn(&State) -> bool) {
        let leases = {
            let mut state = self.seat.state();
            if is_this(&state) { state.take_leases() } else { Vec::new() }
        };
        self.revoke(leases);
    }

    fn revoke(&self, leases: Vec<Arc<Lease>>) {
        for lease in leases {
            self.shared.revoke(lease, self.link);
        }
    }

    /// Ends the former leases under which an attempt may still arrive. It would make a second place of the claim, so
    /// the claim does not join before that is done.
    pub(crate) async fn end_former_leases(&self) -> Result<(), Trouble> {
        // Ends when there is none: each round ends one, or fails.
        loop {
            let Some(lease) = self.seat.state().condemned.last().cloned() else { return Ok(()) };
            let ended = self.link.revoke(lease.id).await;
            ended.map_err(|failed| failed.trouble.without_effect())?;
            self.seat.state().condemned.retain(|condemned| condemned.id != lease.id);
        }
    }

    /// Lets go of the leases of a claim that has no place any more. Those under which something may still arrive are
    /// revoked, which refuses it.
    pub(crate) fn dispose(&self, stray: bool) {
        let (leases, stray) = {
            let mut state = self.seat.state();
            (state.take_leases(), stray || state.unanswered > 0)
        };
        if stray {
            return self.revoke(leases);
        }
        for lease in leases {
            self.shared.give_back(lease, self.link);
        }
    }
}
