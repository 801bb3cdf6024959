//! Being granted, renewing, and taking a fresh token.
//!
//! A grant is nearly always no more than a look: who holds follows from the line. What must be written then is written
//! on the condition that the line is still the one that was seen.

use std::sync::Arc;
use std::time::Duration;

use tenure_core::engine::{EngineError, Gone, Grant, Trouble, Validity};
use tenure_core::{FencingToken, TokenBlock};

use crate::contender::token;
use crate::lease::Lease;
use crate::ops::{self, Answers};
use crate::place::Doing;
use crate::record::{self, Mark, View, Words};
use crate::seat::Taken;

/// What a renewal has found.
pub(crate) enum Renewed {
    /// The hold stands for so long, as was seen at this revision.
    Until(Duration, i64),
    /// It does not stand.
    Gone(Gone),
    /// The place was moved to another lease meanwhile: look again.
    Again,
}

impl Doing<'_> {
    /// Makes a hold of a place that the rule grants; none when the line has changed meanwhile.
    ///
    /// Nearly always nothing is left to do. A permit writes which one it is; a claim with a quarantine moves to its
    /// long lease; and where a younger place had a higher token, or the client has seen one, a higher one is made.
    pub(crate) async fn settle(&self, view: &View, me: usize) -> Result<Option<Grant>, EngineError> {
        let Some(taken) = self.seat.place() else { return Ok(None) };
        if let Some((number, slot)) = taken.grant {
            return self.grant(&taken.lease, number, slot).map(Some);
        }
        let place = &view.places[me];
        let floor = self.claim.floor.map_or(0, FencingToken::get);
        let number = place.token(view.mark);
        let heals = number.or(view.mark.token(view.revision)).is_some_and(|number| number <= floor);
        let permit = self.claim.mode.limit().is_some() && place.words.slot.is_none();
        let guarded = !self.claim.quarantine.is_zero() && taken.lease.granted() < self.claim.term();
        let (number, slot, taken) = match number {
            Some(number) if !heals && !permit && !guarded => (number, place.words.slot.unwrap_or(0), taken),
            number => {
                let slot = if permit { Some(view.free_slot(self.claim.id)) } else { place.words.slot };
                let base = if heals { view.mark.base.max(floor) } else { view.mark.base };
                let number = number.filter(|_| !heals);
                let Some(done) = self.write(view, &taken, number, slot, base, permit || guarded).await?
                else {
                    return Ok(None);
                };
                (done.0, slot.unwrap_or(0), done.1)
            }
        };
        match &mut self.seat.state().place {
            Some(place) if place.created == taken.created => {
                *place = Taken { grant: Some((number, slot)), ..taken.clone() };
            }
            // Another lane has seen it go.
            _ => return Ok(None),
        }
        self.spare_the_other(&taken.lease);
        self.grant(&taken.lease, number, slot).map(Some)
    }

    /// Writes the place anew, with this token or else one of the write itself. None when the line has changed.
    async fn write(
        &self,
        view: &View,
        taken: &Taken,
        number: Option<u64>,
        slot: Option<u32>,
        base: u64,
        moves: bool,
    ) -> Result<Option<(u64, Taken)>, EngineError> {
        let (line, mark) = (self.line(), self.mark());
        let lease = if moves && taken.lease.granted() < self.claim.term() {
            self.lease_to_hold().await?
        } else {
            Arc::clone(&taken.lease)
        };
        let words = Words::of(self.claim, number, slot).write();
        let mut compare =
            vec![ops::created_at(&taken.key, taken.created), ops::changed_at(&mark, view.mark.changed)];
        if slot.is_some() {
            // Nobody else has taken the slot since it was seen to be free.
            compare.push(ops::unchanged_since(&line, view.revision));
        }
        let mut then = vec![ops::put(&taken.key, words, lease.id)];
        if number.is_none() {
            then.push(ops::put(&mark, base.to_string().into_bytes(), 0));
        }
        let (answer, ()) =
            tokio::join!(self.write_txn(ops::txn(compare, then, Vec::new())), lease.freshen(self.link));
        let answers = match answer {
            Err(failed) if failed.no_lease => {
                self.forget_hold(&lease);
                return Ok(None);
            }
            answer => Answers::from(answer?),
        };
        if !answers.succeeded {
            return Ok(None);
        }
        let marked = taken.marked || (number.is_none() && base == 0);
        let fresh = Mark { base, changed: 0 }.token(answers.revision);
        let number =
            number.or(fresh).ok_or_else(|| Trouble::nonsense("the revision is no number for a token"))?;
        Ok(Some((number, Taken { changed: answers.revision, lease, marked, ..taken.clone() })))
    }

    fn grant(&self, lease: &Lease, number: u64, slot: u32) -> Result<Grant, EngineError> {
        let tokens = TokenBlock::single(token(number)?);
        Ok(Grant { claim: self.claim.id, tokens, slot, validity: Validity::Lease(self.validity(lease)) })
    }

    /// What a holder may count on: what etcd has granted for the claim. A quarantine comes out of the end of it, and
    /// the lease of waiters may be longer than the claim wants, so neither is counted beyond the claim's own term.
    fn validity(&self, lease: &Lease) -> Duration {
        let left = lease.left_at(self.begun);
        let own = self.seat.state().hold.as_ref().is_some_and(|hold| hold.id == lease.id);
        if own && self.claim.quarantine.is_zero() { left } else { left.min(self.claim.term()) }
    }

    /// The lease by which the claim was to hold has ended; the next one is asked for when it is needed.
    fn forget_hold(&self, ended: &Lease) {
        self.seat.state().hold.take_if(|hold| hold.id == ended.id);
    }

    /// The lease by which the claim is to hold; nearly always it has been known since the claim came.
    async fn lease_to_hold(&self) -> Result<Arc<Lease>, EngineError> {
        if let Some(hold) = self.seat.state().hold.clone() {
            return Ok(hold);
        }
        Ok(self.leases(&self.link.turn_to_come().await?).await?.0)
    }

    /// Gives back the lease that a holder does not need, unless an attempt may still arrive under it.
    pub(crate) fn spare_the_other(&self, used: &Lease) {
        let mut state = self.seat.state();
        if state.unanswered == 0
            && state.hold.as_ref().is_some_and(|hold| hold.id == used.id)
            && let Some(wait) = state.wait.take()
        {
            drop(state);
            self.shared.give_back(wait, self.link);
        }
    }

    /// Proves the hold.
    pub(crate) async fn renew(&self) -> Result<Renewed, EngineError> {
        let Some(place) = self.seat.place() else { return Ok(Renewed::Gone(Gone::Absent)) };
        let stands = vec![ops::created_at(&place.key, place.created)];
        let look = self.link.txn(ops::txn(stands, Vec::new(), vec![ops::get(&self.grave())]));
        let (alive, answer) = tokio::join!(place.lease.keep_alive(self.link), look);
        let mut answers = Answers::from(answer?);
        if !answers.succeeded {
            let gone = record::gone(&answers.found()?);
            if gone.is_some() {
                self.forget_place();
            } else {
                self.lose_place(&place, !matches!(alive, Ok(true)));
            }
            return Ok(Renewed::Gone(gone.unwrap_or(Gone::Absent)));
        }
        if !alive? {
            let is_elsewhere = |now: Taken| now.created == place.created && now.lease.id != place.lease.id;
            if self.seat.place().is_some_and(is_elsewhere) {
                // This lease was spared when another lane moved the place, and may have ended since.
                return Ok(Renewed::Again);
            }
            self.lose_place(&place, true);
            return Ok(Renewed::Gone(Gone::Absent));
        }
        let lease = if place.lease.granted() < self.claim.term() {
            let Some(lease) = self.move_to_hold(&place).await? else { return Ok(Renewed::Again) };
            lease
        } else {
            Arc::clone(&place.lease)
        };
        Ok(Renewed::Until(self.validity(&lease), answers.revision))
    }

    /// Moves a hold that began on a short lease to one of its own length. The lease that it is on afterwards; none when
    /// it was on another one than was known.
    async fn move_to_hold(&self, place: &Taken) -> Result<Option<Arc<Lease>>, EngineError> {
        let as_it_is = || Ok(Some(Arc::clone(&place.lease)));
        let Some((number, slot)) = place.grant else { return as_it_is() };
        let hold = self.lease_to_hold().await?;
        if hold.granted() < self.claim.term() {
            // The servers grant no more than that.
            return as_it_is();
        }
        let slot = self.claim.mode.limit().map(|_| slot);
        let words = Words::of(self.claim, Some(number), slot).write();
        // A token of another lane must not be written over.
        let compare =
            vec![ops::created_at(&place.key, place.created), ops::changed_at(&place.key, place.changed)];
        let then = vec![ops::put(&place.key, words, hold.id)];
        let txn = ops::txn(compare, then, vec![ops::get(&place.key)]);
        let (answer, ()) = tokio::join!(self.write_txn(txn), hold.freshen(self.link));
        let mut answers = match answer {
            Ok(answer) => Answers::from(answer),
            Err(failed) if failed.no_lease => {
                self.forget_hold(&hold);
                return as_it_is();
            }
            Err(failed) => return Err(failed.into()),
        };
        if answers.succeeded {
            self.seat.note_move(place.created, answers.revision, hold.id);
            self.spare_the_other(&hold);
            return Ok(Some(hold));
        }
        let seen = answers.found()?.into_iter().find(|seen| seen.create_revision == place.created);
        if let Some(seen) = seen.filter(|seen| seen.lease != place.lease.id) {
            // It was moved by a request that was not answered, and what was proved is the wrong lease.
            self.seat.note_move(place.created, seen.mod_revision, seen.lease);
            return Ok(None);
        }
        // The hold stands on its short lease; the next renewal tries again.
        as_it_is()
    }

    /// A token above all of the key. The mark says to older places that they need a higher one.
    pub(crate) async fn restamp(&self) -> Result<Result<FencingToken, Gone>, EngineError> {
        let Some(place) = self.seat.place() else { return Ok(Err(Gone::Absent)) };
        let slot = place.grant.filter(|_| self.claim.mode.limit().is_some()).map(|(_, slot)| slot);
        let words = Words::of(self.claim, None, slot).write();
        let mark = self.mark();
        let then = vec![
            ops::get(&mark),
            ops::rewrite(&place.key, words),
            ops::when(
                vec![ops::exists(&mark)],
                vec![ops::touch(&mark)],
                vec![ops::put(&mark, b"0".to_vec(), 0)],
            ),
        ];
        let compare = vec![ops::created_at(&place.key, place.created)];
        let txn = ops::txn(compare, then, vec![ops::get(&self.grave())]);
        let mut answers = Answers::from(self.write_txn(txn).await?);
        if !answers.succeeded {
            return Ok(Err(record::gone(&answers.found()?).unwrap_or(Gone::Absent)));
        }
        let mark = Mark::read(&answers.found()?)?;
        let number = mark.token(answers.revision).unwrap_or(0);
        if let Some(place) = &mut self.seat.state().place {
            place.changed = answers.revision;
            place.grant = place.grant.map(|(_, slot)| (number, slot));
            place.marked |= mark.base == 0;
        }
        token(number).map(Ok)
    }
}
