//! Joining a line and looking at it: each is one transaction, and a keep-alive beside it where a lease is to live on.

use std::sync::Arc;
use std::time::Duration;

use tenure_core::engine::ledger::LimitDiffers;
use tenure_core::engine::{Effect, EngineError, Gone, Trouble, Waiting};
use tenure_core::lease::Moment;
use tenure_core::{Claim, IfBusy, Mode};

use crate::lease::Lease;
use crate::link::{Failed, Link, Turn};
use crate::names::Span;
use crate::ops::{self, Answers};
use crate::options::{EtcdLayout, LongerTtl};
use crate::record::{self, Mark, Place, View, Words, seconds_up};
use crate::rpc::{RequestOp, TxnRequest, TxnResponse};
use crate::seat::{Behind, Seat, State, Taken};
use crate::{Shared, WAITING};

/// Behind how many places a waiter does not count those before it at each look.
const LONG_LINE: usize = 16;

/// A claim at work on a connection.
pub(crate) struct Doing<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) claim: &'a Claim,
    pub(crate) seat: &'a Seat,
    pub(crate) link: &'a Arc<Link>,
    /// When the verb began, from which its answer counts.
    pub(crate) begun: Moment,
}

/// What a claim has found.
pub(crate) enum Seen {
    /// It has a place in this line.
    Line { view: View, me: usize, joined: bool },
    /// It waits as before, as was seen at this revision.
    Still(Waiting, i64),
    /// It has none, and did not want one.
    Busy(View),
    /// It was taken out of the line.
    Gone(Gone),
    /// A lease has ended, or the place was found to be there already: look again.
    Again,
}

impl Doing<'_> {
    pub(crate) fn leaves(&self) -> bool {
        self.claim.if_busy == IfBusy::Leave
    }

    /// Whether a line that is not empty is certainly no use to it.
    fn joins_only_alone(&self) -> bool {
        self.leaves() && self.claim.mode == Mode::Exclusive
    }

    /// Makes a transaction that writes in the line of the claim.
    pub(crate) async fn write_txn(&self, txn: TxnRequest) -> Result<TxnResponse, Failed> {
        self.shared.write(self.link, &self.claim.key, txn, None).await
    }

    pub(crate) fn line(&self) -> Span {
        self.shared.names.line(&self.claim.key)
    }

    pub(crate) fn grave(&self) -> Vec<u8> {
        self.shared.names.grave(&self.claim.key, self.claim.id)
    }

    pub(crate) fn mark(&self) -> Vec<u8> {
        self.shared.names.mark(&self.claim.key)
    }

    pub(crate) fn view(&self, answers: &mut Answers) -> Result<View, Trouble> {
        let (places, mark) = (answers.found()?, answers.found()?);
        View::read(&self.shared.names, answers.revision, places, &mark)
    }

    /// Takes a place at the end of the line, unless the claim has one already or was taken out before.
    pub(crate) async fn join(&self) -> Result<Seen, EngineError> {
        self.check_mode()?;
        self.seat.joins();
        self.end_former_leases().await?;
        // From here on it waits for no turn: what it asks for now would end meanwhile.
        let turn = self.link.turn_to_come().await?;
        let (hold, wait) = self.leases(&turn).await?;
        let own = self.shared.names.place(&self.claim.key, hold.id);
        let (line, mark, grave) = (self.line(), self.mark(), self.grave());
        let permit = self.claim.mode.limit().map(|_| 0);
        let alone = Words::of(self.claim, None, permit);
        let queued = Words::of(self.claim, None, None);
        let see = || vec![ops::list(&line), ops::get(&mark)];
        let otherwise = || [see(), vec![ops::get(&grave)]].concat();
        let behind = if self.joins_only_alone() {
            otherwise()
        } else {
            let join = vec![ops::put(&own, queued.write(), wait.id), self.end_of(&line), ops::get(&mark)];
            vec![ops::when(vec![ops::is_absent(&own), ops::is_absent(&grave)], join, otherwise())]
        };
        let txn = ops::txn(
            vec![ops::is_empty(&line), ops::is_absent(&grave)],
            vec![ops::put(&own, alone.write(), hold.id), ops::get(&mark)],
            behind,
        );
        if !self.seat.sends(&hold, &wait) {
            return Ok(Seen::Again);
        }
        let write = self.shared.write(self.link, &self.claim.key, txn, Some(turn));
        let (answer, (), ()) = tokio::join!(write, hold.freshen(self.link), wait.freshen(self.link));
        let mut answers = match answer {
            Ok(answer) => Answers::from(answer),
            Err(failed) => {
                if failed.trouble.effect == Effect::None {
                    self.seat.answered();
                }
                if failed.no_lease {
                    // Unless another lane has got a place on them meanwhile, on the one that has not ended.
                    let is_this = |state: &State| state.place.is_none() && state.has(&hold, &wait);
                    let only_wait = wait.id != hold.id && wait.left().is_zero();
                    let ended = if only_wait { vec![wait.id] } else { vec![hold.id, wait.id] };
                    self.lose(|state| is_this(state).then(|| ended.clone()));
                    return Ok(Seen::Again);
                }
                return Err(failed.into());
            }
        };
        if answers.succeeded {
            answers.written()?;
            let mark = match answers.found().and_then(|mark| Mark::read(&mark)) {
                Err(trouble) => return self.turn_back(&own, answers.revision, trouble).await,
                Ok(mark) => mark,
            };
            let (revision, lease) = (answers.revision, hold.id);
            let place = Place { key: own, created: revision, changed: revision, lease, words: alone };
            let view = View { revision, places: vec![place], hidden: 0, mark };
            return Ok(self.joined(view, 0, &hold, &wait, &hold));
        }
        if self.joins_only_alone() {
            return self.excluded(answers, &hold, &wait);
        }
        let mut answers = answers.inside()?;
        if !answers.succeeded {
            return self.excluded(answers, &hold, &wait);
        }
        answers.written()?;
        let view = match self.view_of_end(&mut answers) {
            Err(trouble) => return self.turn_back(&own, answers.revision, trouble).await,
            Ok(view) => view,
        };
        let me = view
            .created_at(view.revision)
            .ok_or_else(|| Trouble::nonsense("a place vanished as it was made"))?;
        Ok(self.joined(view, me, &hold, &wait, &wait))
    }

    /// Notes the place that was made, unless another lane has disposed of its leases while it was: then it goes with
    /// them.
    fn joined(&self, view: View, me: usize, hold: &Lease, wait: &Lease, on: &Arc<Lease>) -> Seen {
        let mut state = self.seat.state();
        state.unanswered -= 1;
        if !state.has(hold, wait) {
            return Seen::Again;
        }
        state.place = Some(Taken::new(&view, me, Arc::clone(on)));
        drop(state);
        Seen::Line { view, me, joined: true }
    }

    /// The layout that is shared with others knows exclusive locks only.
    fn check_mode(&self) -> Result<(), Trouble> {
        if self.shared.names.layout() == EtcdLayout::Tenure || self.claim.mode == Mode::Exclusive {
            return Ok(());
        }
        let mode = self.claim.mode;
        let message = format!("{mode} does not exist with layout=concurrency: only exclusive locks do");
        Err(Trouble::unsupported(message))
    }

    /// What whoever joins has to read: the one before it, if it is exclusive, and how many there are.
    fn end_of(&self, line: &Span) -> RequestOp {
        if self.claim.mode == Mode::Exclusive { ops::youngest(line, 2) } else { ops::list(line) }
    }

    fn view_of_end(&self, answers: &mut Answers) -> Result<View, Trouble> {
        let ((places, hidden), mark) = (answers.counted()?, answers.found()?);
        let view = View::read(&self.shared.names, answers.revision, places, &mark)?;
        Ok(View { hidden, ..view })
    }

    /// Leaves a line that cannot be read, as if it had never been joined.
    async fn turn_back(&self, own: &[u8], created: i64, trouble: Trouble) -> Result<Seen, EngineError> {
        self.seat.answered();
        let leave = ops::txn(vec![ops::created_at(own, created)], vec![ops::delete(own)], Vec::new());
        let left = self.write_txn(leave).await;
        if left.is_err() {
            return Err(trouble.with_unknown_effect().into());
        }
        self.dispose(false);
        Err(trouble.without_effect().into())
    }

    /// The line was not joined: because somebody was there, because we are, or because we must not come back.
    fn excluded(&self, mut answers: Answers, hold: &Lease, wait: &Lease) -> Result<Seen, EngineError> {
        self.seat.answered();
        let view = self.view(&mut answers)?;
        if let Some(gone) = record::gone(&answers.found()?) {
            return Ok(Seen::Gone(gone));
        }
        match view.position(self.claim.id) {
            Some(me) => self.adopt(&view, me),
            None if self.leaves() => return Ok(Seen::Busy(view)),
            // The name of its place is taken, by something that was left on its lease: with that it goes.
            None => self.end_leases(|state| state.place.is_none() && state.has(hold, wait)),
        }
        Ok(Seen::Again)
    }

    /// Looks at the line again, and keeps the place alive.
    pub(crate) async fn look(&self, place: &Taken) -> Result<Seen, EngineError> {
        if let Some(behind) = &place.behind
            && let Some(still) = self.glance(place, behind).await?
        {
            return Ok(still);
        }
        // Only permits have to know who is behind them: their slots must differ.
        let line = match self.claim.mode {
            Mode::Permit { .. } => ops::list(&self.line()),
            Mode::Exclusive | Mode::Shared => ops::list_until(&self.line(), place.created),
        };
        let read = vec![line, ops::get(&self.mark()), ops::get(&self.grave())];
        let read = self.link.txn(ops::txn(Vec::new(), read, Vec::new()));
        let (alive, answer) = tokio::join!(place.lease.keep_alive(self.link), read);
        // To look changes nothing.
        let harmless = |failed: Failed| failed.trouble.without_effect();
        let mut answers = Answers::from(answer.map_err(harmless)?);
        let view = self.view(&mut answers).map_err(Trouble::without_effect)?;
        let gone = record::gone(&answers.found().map_err(Trouble::without_effect)?);
        let (me, alive) = (view.created_at(place.created), alive.map_err(harmless)?);
        match (me, gone) {
            // It was moved by a request that was not answered, and what is proved is the wrong lease.
            (Some(me), _) if self.notes_move(&view.places[me], place) => Ok(Seen::Again),
            (Some(me), _) if alive => {
                self.note(&view, me);
                Ok(Seen::Line { view, me, joined: false })
            }
            (_, Some(gone)) => {
                self.forget_place();
                Ok(Seen::Gone(gone))
            }
            _ => {
                self.lose_place(place, !alive);
                Ok(Seen::Again)
            }
        }
    }

    /// Keeps the place alive, and looks whether it and the one before it are still there. Far back in a long line that
    /// is all that matters, and the whole line is much to read. None when something has changed.
    async fn glance(&self, place: &Taken, behind: &Behind) -> Result<Option<Seen>, EngineError> {
        let stand =
            vec![ops::created_at(&place.key, place.created), ops::created_at(&behind.key, behind.created)];
        let look = self.link.txn(ops::txn(stand, Vec::new(), vec![ops::get(&place.key)]));
        let (alive, answer) = tokio::join!(place.lease.keep_alive(self.link), look);
        let harmless = |failed: Failed| failed.trouble.without_effect();
        let answers = Answers::from(answer.map_err(harmless)?);
        let still = answers.succeeded && alive.map_err(harmless)?;
        Ok(still.then_some(Seen::Still(behind.waiting, answers.revision)))
    }

    /// Notes what an exclusive waiter waits for, if the line is so long that it is worth it.
    pub(crate) fn note_behind(&self, view: &View, me: usize, waiting: Waiting) {
        let behind = (self.claim.mode == Mode::Exclusive && waiting.ahead > LONG_LINE).then(|| {
            let place = &view.places[me - 1];
            Behind { key: place.key.clone(), created: place.created, waiting }
        });
        if let Some(place) = &mut self.seat.state().place {
            place.behind = behind;
        }
    }

    /// Looks whether the claim has a place of which this process knows nothing; if not, why it has none.
    pub(crate) async fn find(&self) -> Result<Option<Gone>, EngineError> {
        let read = vec![ops::list(&self.line()), ops::get(&self.mark()), ops::get(&self.grave())];
        let mut answers = Answers::from(self.link.txn(ops::txn(Vec::new(), read, Vec::new())).await?);
        let view = self.view(&mut answers)?;
        match view.position(self.claim.id) {
            Some(me) => {
                self.adopt(&view, me);
                Ok(None)
            }
            None => Ok(Some(record::gone(&answers.found()?).unwrap_or(Gone::Absent))),
        }
    }

    /// The leases for holding and for waiting. A claim that never waits has one for both.
    pub(crate) async fn leases(&self, turn: &Turn<'_>) -> Result<(Arc<Lease>, Arc<Lease>), EngineError> {
        let (known_hold, known_wait) = {
            let state = self.seat.state();
            (state.hold.clone(), state.wait.clone())
        };
        let term = seconds_up(self.claim.term());
        let hold = async {
            match known_hold {
                Some(lease) => Ok(lease),
                None => self.shared.pool.lease(self.link, turn, term).await,
            }
        };
        let wait = async {
            match known_wait {
                Some(lease) => Ok(Some(lease)),
                None if self.leaves() => Ok(None),
                None => self.shared.pool.lease(self.link, turn, WAITING).await.map(Some),
            }
        };
        // A lease that hangs under nothing has no effect on the line.
        let harmless = |failed: Failed| failed.trouble.without_effect();
        let (hold, wait) = tokio::join!(hold, wait);
        let (hold, wait) = (hold.map_err(harmless)?, wait.map_err(harmless)?);
        self.check_length(&hold).await?;
        let mut state = self.seat.state();
        let hold = Arc::clone(state.hold.get_or_insert(hold));
        let wait = match wait {
            Some(wait) => Arc::clone(state.wait.get_or_insert(wait)),
            None => Arc::clone(&hold),
        };
        Ok((hold, wait))
    }

    /// Refuses a lease that would keep the key for much longer than was asked for.
    async fn check_length(&self, lease: &Lease) -> Result<(), EngineError> {
        let (asked, granted) = (self.claim.term(), lease.granted());
        if self.shared.options().longer_ttl == LongerTtl::Allow || granted <= asked.saturating_mul(4) {
            return Ok(());
        }
        // If it cannot be revoked, it ends by itself.
        let _ = self.link.revoke(lease.id).await;
        let message = format!(
            "etcd grants no less than {granted:?} where {asked:?} are wanted: use a longer TTL, or add \
             allow=longer-ttl to the URL"
        );
        Err(Trouble::unsupported(message).into())
    }

    /// Takes over a place that was there already.
    pub(crate) fn adopt(&self, view: &View, me: usize) {
        let Place { lease: id, created, .. } = view.places[me];
        let mut state = self.seat.state();
        if state.place.as_ref().is_some_and(|place| place.created == created) {
            // Another lane knows more of it.
            return;
        }
        let lease = state.lease(id);
        state.place = Some(Taken::new(view, me, lease));
    }

    /// Whether a place that was read hangs on another lease than it was known to, which is noted.
    fn notes_move(&self, seen: &Place, place: &Taken) -> bool {
        let moved = seen.lease != place.lease.id;
        if moved {
            self.seat.note_move(place.created, seen.changed, seen.lease);
        }
        moved
    }

    fn note(&self, view: &View, me: usize) {
        if let Some(place) = &mut self.seat.state().place {
            place.changed = view.places[me].changed;
            place.marked |= view.mark.changed > 0 && view.mark.base == 0;
        }
    }

    /// The place has gone, but not by its lease: nothing hangs on that any more.
    pub(crate) fn forget_place(&self) {
        self.seat.state().place = None;
    }

    pub(crate) fn waiting(&self, view: &View, me: usize) -> Waiting {
        let holders = view.places.iter().take(view.granted().min(me));
        let first = holders.map(|place| place.words.ttl).filter(|ttl| *ttl > 0).min();
        let last_token = if view.hidden == 0 { view.last_token() } else { 0 };
        Waiting { ahead: me + view.hidden, look_in: first.map(Duration::from_secs), last_token }
    }

    /// Permits of one line agree on their limit: whoever comes with another leaves at once.
    pub(crate) async fn check_limit(&self, view: &View, me: usize) -> Result<(), EngineError> {
        let Some(limit) = self.claim.mode.limit() else { return Ok(()) };
        match view.places[..me].iter().find_map(|place| place.words.mode.limit()) {
            Some(stored) if stored != limit => {
                self.undo().await?;
                Err(LimitDiffers { stored }.on(&self.claim.key))
            }
            _ => Ok(()),
        }
    }
}
