//! One claim's place: its node, and what the verbs do with it.
//!
//! All verbs run on the engine's thread, and those of one claim one after another. A caller who stops waiting stops
//! nothing: the verb goes on, and what it found is known to the next one. So there is no attempt that arrives late;
//! what can be late is a request of it that was not answered, and a place knows that it is
//! [uncertain](State::uncertain). What is then done about it is in `late`.
//!
//! # Invariants
//! 1. A node is ours only in the session that made it. A node of an earlier session is deleted, never adopted.
//! 2. A token is the zxid of a write to the own node: of its creation when nothing had left the folder since, else of
//!    a write made when the turn had come. Either is above every token that was given out before.
//! 3. A node is gone in a living session only because we, or somebody else on purpose, have deleted it.
//! 4. A claim that is gone for good never has a node again.
//! 5. A slot that was written once stays that of the node: those behind it may have read it.

use std::sync::Arc;
use std::time::Duration;

use tenure_core::engine::{
    Attempt, EngineError, Gone, Grant, Renewal, Restamp, Stray, Trouble, Validity, Waiting, Wake, Withdrawn,
};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_core::{Claim, FencingToken, TokenBlock};
use tokio::sync::{Mutex, MutexGuard};
use zookeeper_client::Error;

use crate::Shared;
use crate::options::Terms;
use crate::session::Session;
use crate::solo::Alone;
use crate::trouble;
use crate::turn::token;
use crate::watching::Watching;

/// In a line longer than this, a second look only asks whether the place is still there; what happens before it, its
/// watch tells.
const LONG: usize = 64;

/// A claim of this process.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) claim: Claim,
    state: Mutex<State>,
}

/// What is known of it.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) node: Option<Node>,
    /// There may be nodes of the claim of which we do not know.
    pub(crate) uncertain: bool,
    gone: Option<Gone>,
    /// It was withdrawn, and nobody has attempted it since.
    has_left: bool,
    /// How often somebody still looks for nodes that come late.
    pub(crate) sweeps: u32,
    /// What says in the folder that no node of the claim counts.
    pub(crate) grave: Option<String>,
    /// Another value stands for the claim now.
    retired: bool,
}

/// A node that is there, as far as we know.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) session: Arc<Session>,
    pub(crate) folder: String,
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) born: i64,
    /// Whether it was seen to be alone in its folder.
    pub(crate) alone: Option<Alone>,
    pub(crate) standing: Standing,
    /// The slot that it may have written already, answered or not.
    pub(crate) slot: Option<u32>,
    /// Its deletion was sent and not answered.
    leaves: bool,
    pub(crate) watching: Option<Watching>,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is there, and that is all we know.
    Unknown,
    /// It waits behind so many.
    Waits(usize),
    /// Its turn has come, proven by a write that was sent at this moment; nobody has asked since.
    Offered(Held, Moment),
    /// It holds.
    Holds(Held),
}

/// With what a place holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) token: FencingToken,
    pub(crate) slot: u32,
}

impl Place {
    pub(crate) fn new(claim: Claim) -> Self {
        Self { claim, state: Mutex::default() }
    }

    /// The state, unless another value stands for the claim now.
    pub(crate) async fn state(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.state.lock().await;
        (!state.retired).then_some(state)
    }

    /// The state, also when another value stands for the claim.
    pub(crate) async fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().await
    }

    /// Forgets the claim when nothing is left of it.
    pub(crate) fn tidy(&self, shared: &Shared, state: &mut State) {
        if state.node.is_none() && !state.uncertain && state.gone.is_none() && state.sweeps == 0 {
            state.retired = true;
            shared.places.forget(self.claim.id);
        }
    }

    pub(crate) fn bury(&self, shared: &Shared, state: &mut State, gone: Gone) {
        if state.gone.is_none() {
            state.gone = Some(gone);
            shared.places.bury(self.claim.id, self.claim.term().max(shared.session_timeout));
        }
    }

    /// The node has been deleted by somebody else.
    pub(crate) fn evicted(&self, shared: &Shared, state: &mut State) -> Gone {
        state.node = None;
        self.bury(shared, state, Gone::Evicted);
        shared.signals.tell(self.claim.id, Wake::LookAgain);
        Gone::Evicted
    }

    /// For how long a hold of the claim is valid from before what has proved it.
    pub(crate) fn validity(&self, session: &Session) -> Duration {
        session.validity().min(self.claim.ttl.duration())
    }

    /// Whether a session can serve the claim.
    fn check_terms(&self, shared: &Shared, session: &Session) -> Result<(), Trouble> {
        if !self.claim.quarantine.is_zero() {
            return Err(Trouble::unsupported(
                "ZooKeeper ends a session for all its holds at once, so none has a quarantine: ask for none",
            ));
        }
        let (ttl, timeout) = (self.claim.ttl.duration(), session.timeout);
        if shared.terms == Terms::Near && timeout > ttl.saturating_mul(4) {
            return Err(Trouble::unsupported(format!(
                "a TTL of {ttl:?} was asked for, and the session lasts {timeout:?}, for which the key of a holder \
                 that vanished stays taken: change session-ms in the URL, or add allow=longer-terms"
            )));
        }
        Ok(())
    }

    /// The verb of the contract; none when another value stands for the claim now.
    pub(crate) async fn attempt(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
    ) -> Result<Option<Attempt>, EngineError> {
        let Some(mut state) = self.state().await else { return Ok(None) };
        if let Some(gone) = state.gone {
            return Ok(Some(Attempt::Gone(gone)));
        }
        let outcome = self.attempt_in(shared, &mut state).await;
        self.tidy(shared, &mut state);
        outcome.map(Some)
    }

    async fn attempt_in(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        state: &mut State,
    ) -> Result<Attempt, EngineError> {
        state.has_left = false;
        let session = shared.links.link().await?;
        self.check_terms(shared, &session)?;
        session.ready().await?;
        state.leave_sessions_but(&session);
        if state.uncertain {
            self.recover(shared, state, &session).await?;
        }
        let Some(node) = &mut state.node else { return self.join(shared, state, &session).await };
        match node.standing {
            Standing::Offered(held, sent) => {
                let (age, validity) = (SystemClock.now().since(sent), self.validity(&session));
                if age < validity / 4 && session.stands() {
                    node.hold(held);
                    return Ok(Attempt::Granted(self.grant(held, validity - age)));
                }
                self.hold_again(shared, state, held).await
            }
            Standing::Holds(held) => self.hold_again(shared, state, held).await,
            Standing::Waits(ahead) if ahead > LONG => {
                match session.answer(session.client.check_stat(&node.path)).await {
                    Ok(Some(_)) => Ok(Attempt::Waiting(waiting(ahead, node.born))),
                    Ok(None) => Ok(Attempt::Gone(self.evicted(shared, state))),
                    Err(error) => Err(trouble::of(&error).into()),
                }
            }
            Standing::Waits(_) | Standing::Unknown => {
                // Another server than the one that a change was made at may not have heard of it.
                let folder = node.folder.clone();
                let (synced, listed) = (session.client.sync(&folder), session.client.list_children(&folder));
                session.answer(synced).await.map_err(|error| trouble::of(&error))?;
                match session.answer(listed).await {
                    Ok(children) => self.judge(shared, state, &children, false).await,
                    // A folder with a child in it is not removed.
                    Err(Error::NoNode) => Ok(Attempt::Gone(self.evicted(shared, state))),
                    Err(error) => Err(trouble::of(&error).into()),
                }
            }
        }
    }

    pub(crate) fn grant(&self, held: Held, validity: Duration) -> Grant {
        Grant {
            claim: self.claim.id,
            tokens: TokenBlock::single(held.token),
            slot: held.slot,
            validity: Validity::Lease(validity),
        }
    }

    /// The own node was seen to go.
    pub(crate) async fn vanished(&self, shared: &Shared, path: &str) {
        let Some(mut state) = self.state().await else { return };
        if state.node.as_ref().is_some_and(|node| node.path == path) {
            self.evicted(shared, &mut state);
        }
    }

    /// Watches the node of a holder, so that it is told when somebody deletes it.
    pub(crate) async fn guard(self: &Arc<Self>, shared: &Arc<Shared>) {
        let Some(mut state) = self.state().await else { return };
        if let Some(node) = &mut state.node
            && node.watching.as_ref().is_none_or(Watching::has_ended)
            && matches!(node.standing, Standing::Holds(_))
        {
            node.watching = Some(Watching::for_its_end(shared, self, node));
        }
    }

    /// The verb of the contract.
    pub(crate) async fn renew(&self, shared: &Shared) -> Result<Renewal, EngineError> {
        let (session, path) = {
            let Some(mut state) = self.state().await else { return Ok(Renewal::Gone(Gone::Absent)) };
            match self.holding(shared, &mut state) {
                Ok((node, _)) => (Arc::clone(&node.session), node.path.clone()),
                Err(gone) => return Ok(Renewal::Gone(gone)),
            }
        };
        // A release does not wait for this.
        match session.prove(&path).await {
            Ok(()) if !session.stands() => Err(Session::silence().into()),
            Ok(()) => Ok(Renewal::Renewed(Validity::Lease(self.validity(&session)))),
            Err(Error::NoNode) => {
                let Some(mut state) = self.state().await else { return Ok(Renewal::Gone(Gone::Absent)) };
                let still = state.node.as_ref().is_some_and(|node| node.path == path && !node.leaves);
                Ok(Renewal::Gone(match state.gone {
                    Some(gone) => gone,
                    None if still => self.evicted(shared, &mut state),
                    None => Gone::Absent,
                }))
            }
            Err(error) if trouble::ends_the_session(&error) => Ok(Renewal::Gone(Gone::Absent)),
            Err(error) => Err(trouble::of(&error).into()),
        }
    }

    /// The verb of the contract.
    pub(crate) async fn restamp(&self, shared: &Shared) -> Result<Restamp, EngineError> {
        let Some(mut state) = self.state().await else { return Ok(Restamp::Gone(Gone::Absent)) };
        let slot = match self.holding(shared, &mut state) {
            Ok((_, held)) => held.slot,
            Err(gone) => return Ok(Restamp::Gone(gone)),
        };
        let Some(node) = &state.node else { return Ok(Restamp::Gone(Gone::Absent)) };
        match self.stamp(node, slot).await {
            Ok(Some(zxid)) => {
                let token = token(zxid)?;
                state.node.iter_mut().for_each(|node| node.hold(Held { token, slot }));
                Ok(Restamp::Fresh(TokenBlock::single(token)))
            }
            Ok(None) => Ok(Restamp::Gone(self.evicted(shared, &mut state))),
            Err(_) if node.session.has_ended() => Ok(Restamp::Gone(Gone::Absent)),
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// The node of a place that holds, in a session that lives; an offer is confirmed by it.
    fn holding<'a>(&self, shared: &Shared, state: &'a mut State) -> Result<(&'a Node, Held), Gone> {
        if let Some(gone) = state.gone {
            return Err(gone);
        }
        if state.node.as_ref().is_some_and(|node| node.session.has_ended()) {
            state.node = None;
            state.uncertain = true;
        }
        self.tidy(shared, state);
        let node = state.node.as_mut().ok_or(Gone::Absent)?;
        match node.standing {
            Standing::Offered(held, _) | Standing::Holds(held) => {
                node.hold(held);
                Ok((node, held))
            }
            Standing::Unknown | Standing::Waits(_) => Err(Gone::Absent),
        }
    }

    /// The verb of the contract; none when another value stands for the claim now.
    pub(crate) async fn withdraw(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        stray: Stray,
    ) -> Result<Option<Withdrawn>, EngineError> {
        let Some(mut state) = self.state().await else { return Ok(None) };
        let outcome = self.withdraw_in(shared, &mut state).await;
        state.has_left = outcome.is_ok();
        if outcome.is_ok() && stray == Stray::Possible {
            self.bury(shared, &mut state, Gone::Withdrawn);
        }
        self.tidy(shared, &mut state);
        Ok(Some(outcome?))
    }

    async fn withdraw_in(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        state: &mut State,
    ) -> Result<Withdrawn, Trouble> {
        if state.node.as_ref().is_some_and(|node| node.session.has_ended()) {
            state.node = None;
            state.uncertain = true;
        }
        if state.uncertain || state.sweeps > 0 {
            let session = shared.links.link().await?;
            session.ready().await?;
            self.dig(shared, state, &session).await?;
            if state.uncertain {
                // What an ended session has left goes by itself, but this is sooner.
                self.recover(shared, state, &session).await?;
            }
        }
        let Some(node) = &state.node else { return Ok(Withdrawn::Absent) };
        node.session.ready().await?;
        let was = match node.standing {
            Standing::Holds(_) | Standing::Offered(..) => Withdrawn::Held,
            Standing::Waits(_) | Standing::Unknown => Withdrawn::Waited,
        };
        match leave(state).await? {
            true => Ok(was),
            false => {
                // Somebody else has deleted it.
                self.bury(shared, state, Gone::Evicted);
                Ok(Withdrawn::Absent)
            }
        }
    }
}

impl State {
    /// Whether the claim must not be in the line any more.
    pub(crate) fn is_out(&self) -> bool {
        self.has_left || self.gone.is_some()
    }

    /// A node of another session is none of ours.
    fn leave_sessions_but(&mut self, session: &Arc<Session>) {
        if self.node.as_ref().is_some_and(|node| !Arc::ptr_eq(&node.session, session)) {
            self.node = None;
            self.uncertain = true;
        }
    }
}

impl Node {
    pub(crate) fn new(session: &Arc<Session>, folder: &str, name: String, born: i64) -> Self {
        Self {
            session: Arc::clone(session),
            folder: folder.to_owned(),
            path: format!("{folder}/{name}"),
            name,
            born,
            alone: None,
            standing: Standing::Unknown,
            slot: None,
            leaves: false,
            watching: None,
        }
    }

    /// It holds, and needs nobody who watches for its turn.
    pub(crate) fn hold(&mut self, held: Held) {
        if !matches!(self.standing, Standing::Holds(_)) {
            self.watching = None;
        }
        self.standing = Standing::Holds(held);
    }
}

/// Deletes the node; whether it was there.
pub(crate) async fn leave(state: &mut State) -> Result<bool, Trouble> {
    let Some(node) = &mut state.node else { return Ok(false) };
    let deleted = node.session.answer(node.session.client.delete(&node.path, None)).await;
    match deleted {
        Ok(()) => {
            if let Some(alone) = node.alone {
                node.session.solo.note(&node.folder, alone);
            }
            state.node = None;
        }
        Err(Error::NoNode) => {
            let was_there = node.leaves;
            state.node = None;
            return Ok(was_there);
        }
        Err(error) => {
            let trouble = trouble::in_doubt(error);
            node.leaves = true;
            return Err(trouble);
        }
    }
    Ok(true)
}

/// What is told to those who would hold, had there been no silence.
pub(crate) fn until_heard(session: &Session, ahead: usize, held: Held) -> Waiting {
    // Their grant comes as an answer: what they were told before counts no more.
    Waiting { look_in: Some(session.beat()), ahead, last_token: held.token.get() }
}

/// What is told to those who wait with a node that was born then. The offer of an earlier node has a lower token.
pub(crate) fn waiting(ahead: usize, born: i64) -> Waiting {
    Waiting { ahead, look_in: None, last_token: u64::try_from(born).unwrap_or(0) }
}
