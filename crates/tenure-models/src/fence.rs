//! Lease, fencing token and fence-in: how a resource refuses the holder that paused too long.
//!
//! A client may pause anywhere and act long after its lease ended, so no client here looks at its lease. A
//! failover brings back what was last replicated and forgets later grants; a restore forgets every grant *and*
//! takes the clock back. One engine serves at a time: two that both grant are beyond this model.
//!
//! Counters are forgotten and clocks tie, hence the hybrid token `max(last + 1, now, seen + 1)`. It outlives a
//! failover only if tokens never run further ahead of the clock than a failover takes: an engine that would
//! have to hand out a later token waits for its clock instead, also if only the client's `seen` asks for it.
//!
//! **Invariants**
//! 1. Tokens rise strictly over all grants, whatever expired, was released or failed over.
//! 2. Each client's own tokens rise, even if the engine lost all its state and the clock went back.
//! 3. No update is lost: an accepted write replaces what its writer has read.
//!
//! 1 and 3 are not promised across a restore. A client that the resource refused learns the mark from it.

use stateright::{Model, Property};

/// Invariant 1.
pub const RISING: &str = "tokens rise over all grants";
/// Invariant 2.
pub const OWN_RISING: &str = "the tokens of each client rise";
/// Invariant 3.
pub const NO_LOST_UPDATE: &str = "no update is lost";

/// One planted error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Mutant {
    /// The token is a counter.
    CounterOnly,
    /// The token is the time.
    ClockOnly,
    /// The engine takes no notice of the tokens that its client has seen.
    NoFloor,
    /// Tokens may run ahead of the clock without limit.
    RunAhead,
    /// Tokens may run ahead if that is owed to what the client has seen.
    ExcusedFloor,
    /// A holder reads without entering; only its write is checked.
    NoFenceIn,
    /// The resource checks nothing.
    NoGate,
}

/// The model and its bounds: the last tick, grants in all, failovers in all, and whether one may be a restore.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fence {
    horizon: u8,
    grants: u8,
    failovers: u8,
    restores: bool,
    mutant: Option<Mutant>,
}

const CLIENTS: usize = 2;
const LEASE: u8 = 2;
const AHEAD: u8 = 1;
const FAILOVER: u8 = AHEAD + 1;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Phase {
    Idle,
    Granted,
    Entered,
    /// Has read, and whether nobody wrote since.
    Read(bool),
}

#[derive(Clone, Copy, Debug, Default, Hash, PartialEq)]
struct Engine {
    last: u8,
    /// Who holds with which token until when.
    hold: Option<(usize, u8, u8)>,
}

/// The engine and its replica, the clients (with the highest token each has seen), and the resource.
#[derive(Clone, Debug, Hash, PartialEq)]
pub struct State {
    now: u8,
    engine: Engine,
    replica: Engine,
    clients: [(Phase, u8); CLIENTS],
    tokens: [u8; CLIENTS],
    mark: u8,
    /// The highest token of all, and what went wrong or happened so far: for the properties alone.
    highest: u8,
    unordered: bool,
    own_unordered: bool,
    lost: bool,
    refused: bool,
    grants: u8,
    failovers: u8,
}

/// One step: of time, of the engine, or of one client.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, clippy::exhaustive_enums, reason = "named by the story above")]
pub enum Action {
    Tick,
    Replicate,
    Failover,
    Restore,
    Grant(usize),
    Enter(usize),
    Read(usize),
    Write(usize),
    Release(usize),
}

impl Fence {
    /// A model of so many ticks, grants and failovers.
    #[must_use]
    pub fn new(horizon: u8, grants: u8, failovers: u8) -> Self {
        Self { horizon, grants, failovers, restores: false, mutant: None }
    }

    /// The same, where a failover may also be a restore of an empty engine at an earlier time.
    #[must_use]
    pub fn with_restores(self) -> Self {
        Self { restores: true, ..self }
    }

    /// The same with an error in it.
    #[must_use]
    pub fn with(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn grant(&self, s: &mut State, c: usize) -> bool {
        let free = s.engine.hold.is_none_or(|(_, _, until)| until <= s.now);
        let seen = if self.is(Mutant::NoFloor) { 0 } else { s.clients[c].1 };
        let token = match self.mutant {
            Some(Mutant::CounterOnly) => s.engine.last + 1,
            Some(Mutant::ClockOnly) => s.now,
            _ => s.now.max(s.engine.last + 1).max(seen + 1),
        };
        let floor_excused = self.is(Mutant::ExcusedFloor) && token == seen + 1;
        let ahead = token > s.now + AHEAD && !floor_excused && !self.is(Mutant::RunAhead);
        if !free || ahead || s.grants == 0 || s.clients[c].0 != Phase::Idle {
            return false;
        }
        s.unordered |= token <= s.highest;
        s.own_unordered |= token <= s.clients[c].1;
        s.engine = Engine { last: token, hold: Some((c, token, s.now + LEASE)) };
        (s.highest, s.grants, s.tokens[c]) = (s.highest.max(token), s.grants - 1, token);
        s.clients[c] = (Phase::Granted, s.clients[c].1.max(token));
        true
    }

    /// Shows the token to the resource, which raises its mark in the same step or tells it to the refused.
    fn pass(&self, s: &mut State, c: usize, enters: bool) -> bool {
        let stale = s.tokens[c] < s.mark && !self.is(Mutant::NoGate);
        if enters && self.is(Mutant::NoFenceIn) {
            return true;
        }
        if stale {
            s.refused = true;
            s.clients[c] = (Phase::Idle, s.clients[c].1.max(s.mark));
        } else {
            s.mark = s.mark.max(s.tokens[c]);
        }
        !stale
    }

    fn write(&self, s: &mut State, c: usize) {
        let fresh = s.clients[c].0 == Phase::Read(true);
        if self.pass(s, c, false) {
            s.lost |= !fresh;
            s.clients
                .iter_mut()
                .filter(|of| of.0 == Phase::Read(true))
                .for_each(|of| of.0 = Phase::Read(false));
            s.clients[c].0 = Phase::Entered;
        }
    }
}

impl Model for Fence {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (engine, clients) = (Engine::default(), [(Phase::Idle, 0); CLIENTS]);
        vec![State {
            now: 2,
            engine,
            replica: engine,
            clients,
            tokens: [0; CLIENTS],
            mark: 0,
            highest: 0,
            unordered: false,
            own_unordered: false,
            lost: false,
            refused: false,
            grants: self.grants,
            failovers: self.failovers,
        }]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Action>) {
        let each = [Action::Grant, Action::Enter, Action::Read, Action::Write, Action::Release];
        actions.extend([Action::Tick, Action::Replicate, Action::Failover, Action::Restore]);
        actions.extend((0..CLIENTS).flat_map(|c| each.map(|act| act(c))));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            Action::Tick => s.now += 1,
            Action::Replicate => s.replica = s.engine,
            Action::Failover if s.failovers > 0 => {
                (s.engine, s.now, s.failovers) = (s.replica, s.now + FAILOVER, s.failovers - 1);
            }
            Action::Restore if s.failovers > 0 && self.restores => {
                (s.engine, s.replica) = (Engine::default(), Engine::default());
                (s.now, s.failovers) = (s.now - 1, s.failovers - 1);
            }
            Action::Grant(c) => return self.grant(&mut s, c).then_some(s),
            Action::Enter(c) if s.clients[c].0 == Phase::Granted => {
                if self.pass(&mut s, c, true) {
                    s.clients[c].0 = Phase::Entered;
                }
            }
            Action::Read(c) if s.clients[c].0 == Phase::Entered => s.clients[c].0 = Phase::Read(true),
            Action::Write(c) if matches!(s.clients[c].0, Phase::Read(_)) => self.write(&mut s, c),
            Action::Release(c) if s.clients[c].0 != Phase::Idle => {
                s.clients[c].0 = Phase::Idle;
                let own = |hold: &(usize, u8, u8)| (hold.0, hold.1) == (c, s.tokens[c]);
                s.engine.hold = s.engine.hold.filter(|hold| !own(hold));
            }
            _ => return None,
        }
        (s.now <= self.horizon).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(RISING, |m: &Self, s: &State| !s.unordered || m.restores),
            Property::always(OWN_RISING, |_: &Self, s: &State| !s.own_unordered),
            Property::always(NO_LOST_UPDATE, |m: &Self, s: &State| !s.lost || m.restores),
            Property::sometimes("a stale holder is refused", |_: &Self, s: &State| s.refused),
            Property::sometimes("a failover forgets a grant", |_: &Self, s: &State| {
                s.engine.last < s.highest
            }),
            Property::sometimes("two clients act at once", |_: &Self, s: &State| {
                s.clients.iter().all(|(phase, _)| matches!(phase, Phase::Read(_)))
            }),
        ]
    }
}
