//! Leaving a line, and what becomes of the leases.

use tenure_core::Mode;
use tenure_core::engine::line::{self, Verdict};
use tenure_core::engine::{EngineError, Stray, Withdrawn};

use crate::names::Span;
use crate::ops::{self, Answers};
use crate::options::EtcdLayout;
use crate::place::Doing;
use crate::record::{View, WITHDRAWN, seconds_up};
use crate::rpc::RequestOp;
use crate::seat::Taken;

impl Doing<'_> {
    /// Takes back a place that was just made, as if it had never been.
    pub(crate) async fn undo(&self) -> Result<(), EngineError> {
        let Some(place) = self.seat.place() else { return Ok(()) };
        let undone = self.write_txn(ops::txn(Vec::new(), vec![ops::delete(&place.key)], Vec::new())).await;
        // If the answer does not come, the place may stand.
        undone.map_err(|failed| failed.trouble.with_unknown_effect())?;
        self.dispose(false);
        Ok(())
    }

    /// Takes the claim out of the line, whatever its state.
    pub(crate) async fn withdraw(&self, stray: Stray) -> Result<Withdrawn, EngineError> {
        let place = self.seat.place();
        let known_to_hold = place.as_ref().is_some_and(|place| place.grant.is_some());
        let Some(own) = self.own_key(place.as_ref()).await? else {
            self.dispose(stray == Stray::Possible);
            return Ok(Withdrawn::Absent);
        };
        let mut ops = vec![ops::delete(&own)];
        if place.as_ref().is_some_and(|place| place.marked) {
            ops.push(self.clear_mark(&own));
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
        if stray == Stray::Possible {
            let term = i64::try_from(seconds_up(self.claim.term())).unwrap_or(i64::MAX);
            let (lease, _) = self.link.grant(term).await?;
            let grave = self.grave();
            let dig = ops::put(&grave, WITHDRAWN.to_vec(), lease);
            ops.push(ops::when(vec![ops::is_absent(&grave)], vec![dig], Vec::new()));
        }
        let mut answers = Answers::from(self.write_txn(ops::txn(Vec::new(), ops, Vec::new())).await?);
        let before = if known_to_hold { None } else { Some(answers.found()?) };
        let was_there = !answers.deleted()?.is_empty();
        self.dispose(stray == Stray::Possible);
        // What others have written there, in a line that cannot be read, does not keep us from leaving it.
        let waited = before.is_some_and(|places| {
            let view = View::read(&self.shared.names, answers.revision, places, &[]);
            let me = view.as_ref().ok().and_then(|view| Some((view, view.position(self.claim.id)?)));
            me.is_none_or(|(view, me)| line::verdict(&view.modes(), me) != Verdict::Granted)
        });
        Ok(match (was_there, waited) {
            (false, _) => Withdrawn::Absent,
            (true, true) => Withdrawn::Waited,
            (true, false) => Withdrawn::Held,
        })
    }

    /// The key of the claim's place, if it may have one.
    async fn own_key(&self, place: Option<&Taken>) -> Result<Option<Vec<u8>>, EngineError> {
        if let Some(place) = place {
            return Ok(Some(place.key.clone()));
        }
        let names = &self.shared.names;
        let hold = self.seat.state().hold.as_ref().map(|lease| lease.id);
        match (names.layout(), hold) {
            (EtcdLayout::Tenure, _) => Ok(Some(names.place(&self.claim.key, self.claim.id, 0))),
            (_, Some(hold)) => Ok(Some(names.place(&self.claim.key, self.claim.id, hold))),
            // Only the place itself tells on which lease it hangs.
            _ => {
                self.find().await?;
                Ok(self.seat.place().map(|place| place.key))
            }
        }
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

    /// Lets go of the leases of a claim that has no place any more. Those under which something may still arrive are
    /// revoked, which refuses it.
    pub(crate) fn dispose(&self, stray: bool) {
        let (leases, unanswered) = {
            let mut state = self.seat.state();
            let unanswered = std::mem::take(&mut state.unanswered);
            (state.take_leases(), unanswered)
        };
        for lease in leases {
            if stray || unanswered > 0 {
                self.shared.revoke(lease, self.link);
            } else {
                self.shared.give_back(lease, self.link);
            }
        }
    }
}
