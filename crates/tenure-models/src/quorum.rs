//! A lock on a majority of independent nodes: its tokens, nodes that forget, and renewals.
//!
//! Each node grants by itself and remembers the last token that it gave. A client that a majority has granted takes the
//! highest of their tokens, and writes it back to a majority *at which its place still stands and which has given
//! nothing above it*; only then is it reported. A node that restarts has forgotten its places and its token, and does
//! not count for one lease. A renewal counts the nodes that hold by then, and joins the others anew afterwards.
//!
//! Tokens are hybrid: `max(last + 1, now)`, never further ahead of the clock than a lease lasts. Requests are answered
//! at once, but the steps of the clients interleave, and a client may stop after any of them.
//!
//! **Invariants**
//! 1. Two holders that exclude each other are never valid at once.
//! 2. A token is reported once, and is above all that were reported before its client asked.
//! 3. A renewal proves that a majority has held without a break.
//!
//! 1 and 2 are not promised when a node is flushed by hand: nobody can see that. 3 is.

use stateright::{Model, Property};

/// Invariant 1.
pub const EXCLUSIVE: &str = "two holders are never valid at once";
/// Invariant 2.
pub const RISING: &str = "tokens are unique and rise";
/// Invariant 3.
pub const UNBROKEN: &str = "a renewal proves that a majority has held without a break";

/// One planted error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Mutant {
    /// The highest token of the majority is reported without having been written back.
    NoWriteBack,
    /// It is written back also where the node has given a higher one meanwhile.
    BlindWriteBack,
    /// A node that has restarted counts at once.
    AmnesicNode,
    /// A renewal first joins the nodes that do not hold, and then counts them.
    RegainByRenewing,
}

/// The model and its bounds: the last tick, how often clients may ask in all, and how many restarts there are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Quorum {
    horizon: u8,
    asks: u8,
    restarts: u8,
    flushes: u8,
    shared: bool,
    mutant: Option<Mutant>,
}

const NODES: usize = 3;
const MAJORITY: u32 = 2;
const CLIENTS: usize = 2;
const LEASE: u8 = 2;
const AHEAD: u8 = LEASE - 1;

/// A place at a node: its token, its end, and whether a majority has agreed on it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Place {
    token: u8,
    ends: u8,
    agreed: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct Node {
    last: u8,
    places: [Option<Place>; CLIENTS],
    /// From when it counts.
    counts: u8,
}

/// What a client does. Sets of nodes are bits.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Phase {
    Idle,
    Asks { asked: u8, granted: u8 },
    Raises { granted: u8, raised: u8, goal: u8 },
    Holds { token: u8 },
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Client {
    phase: Phase,
    /// When it sent what its validity counts from.
    sent: u8,
    /// The highest token that was reported before it asked.
    before: u8,
    /// The nodes at which it has held without a break since its hold was reported or proved.
    kept: u8,
}

const IDLE: Client = Client { phase: Phase::Idle, sent: 0, before: 0, kept: 0 };

/// The nodes and the clients.
#[derive(Clone, Debug, Hash, PartialEq)]
pub struct State {
    now: u8,
    nodes: [Node; NODES],
    clients: [Client; CLIENTS],
    asks: u8,
    restarts: u8,
    flushes: u8,
    /// The tokens that were reported, as bits, and what went wrong or happened so far: for the properties alone.
    reported: u32,
    together: bool,
    unordered: bool,
    regained: bool,
}

/// One step: of time, of a node, or of one client at one node.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, clippy::exhaustive_enums, reason = "named by the story above")]
pub enum Action {
    Tick,
    Restart(usize),
    Flush(usize),
    Start(usize),
    Ask(usize, usize),
    Agree(usize),
    Raise(usize, usize),
    Report(usize),
    Renew(usize),
    Leave(usize),
}

fn has(set: u8, node: usize) -> bool {
    set & (1 << node) != 0
}

/// The nodes that have an agreed place of a client.
fn agreed(s: &State, c: usize) -> u8 {
    let has = |node: &Node| u8::from(node.places[c].is_some_and(|place| place.agreed));
    s.nodes.iter().enumerate().fold(0, |set, (n, node)| set | has(node) << n)
}

/// Notes where a hold was broken off.
fn note_breaks(s: &mut State) {
    for c in 0..CLIENTS {
        s.clients[c].kept &= agreed(s, c);
    }
}

impl Quorum {
    /// A model of so many ticks, askings and restarts, with two clients that exclude each other.
    #[must_use]
    pub fn new(horizon: u8, asks: u8, restarts: u8) -> Self {
        Self { horizon, asks, restarts, flushes: 0, shared: false, mutant: None }
    }

    /// The same, where a node may also be emptied by hand so many times, and goes on counting.
    #[must_use]
    pub fn with_flushes(self, flushes: u8) -> Self {
        Self { flushes, ..self }
    }

    /// The same with two readers, which hold together.
    #[must_use]
    pub fn shared(self) -> Self {
        Self { shared: true, ..self }
    }

    /// The same with an error in it.
    #[must_use]
    pub fn with(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether a node has room for a client.
    fn fits(&self, node: &Node, c: usize) -> bool {
        self.shared || node.places.iter().enumerate().all(|(other, place)| other == c || place.is_none())
    }

    fn ask(&self, s: &mut State, c: usize, n: usize) -> bool {
        let Phase::Asks { asked, granted } = s.clients[c].phase else { return false };
        if has(asked, n) {
            return false;
        }
        let (now, node) = (s.now, &mut s.nodes[n]);
        let mut got = granted;
        if self.fits(node, c) {
            let token = (node.last + 1).max(now);
            if token > now + AHEAD {
                return false;
            }
            let place = node.places[c].unwrap_or(Place { token, ends: 0, agreed: false });
            node.last = node.last.max(place.token);
            node.places[c] = Some(Place { ends: now + LEASE, ..place });
            got |= u8::from(node.counts <= now) << n;
        }
        s.clients[c].phase = Phase::Asks { asked: asked | 1 << n, granted: got };
        true
    }

    fn agree(&self, s: &mut State, c: usize) -> bool {
        let Phase::Asks { granted, .. } = s.clients[c].phase else { return false };
        let tokens = (0..NODES).filter(|n| has(granted, *n)).filter_map(|n| s.nodes[n].places[c]);
        let Some(goal) = tokens.map(|place| place.token).max() else { return false };
        let raised = if self.is(Mutant::NoWriteBack) { granted } else { 0 };
        s.clients[c].phase = Phase::Raises { granted, raised, goal };
        granted.count_ones() >= MAJORITY
    }

    fn raise(&self, s: &mut State, c: usize, n: usize) -> bool {
        let Phase::Raises { granted, raised, goal } = s.clients[c].phase else { return false };
        let (now, node) = (s.now, &mut s.nodes[n]);
        let Some(place) = node.places[c].filter(|_| has(granted, n) && !has(raised, n)) else { return false };
        let newest = node.last == place.token && goal >= place.token;
        let phase = if goal > node.last || newest || self.is(Mutant::BlindWriteBack) {
            node.last = node.last.max(goal);
            node.places[c] = Some(Place { token: goal, agreed: true, ..place });
            Phase::Raises { granted, raised: raised | u8::from(node.counts <= now) << n, goal }
        } else {
            Phase::Raises { granted, raised: 0, goal: node.last + 1 }
        };
        s.clients[c].phase = phase;
        goal <= now + AHEAD
    }

    fn report(&self, s: &mut State, c: usize) -> bool {
        let Phase::Raises { raised, goal, .. } = s.clients[c].phase else { return false };
        if raised.count_ones() < MAJORITY {
            return false;
        }
        s.clients[c].phase = Phase::Holds { token: goal };
        s.unordered |= goal <= s.clients[c].before || s.reported & (1 << goal) != 0;
        s.reported |= 1 << goal;
        let holding = |client: &Client| matches!(client.phase, Phase::Holds { .. });
        s.together |= s.clients.iter().all(holding);
        s.clients[c].kept = agreed(s, c);
        true
    }

    /// Proves the hold at the nodes that hold, and joins the others anew.
    fn renew(&self, s: &mut State, c: usize) -> bool {
        let Phase::Holds { token } = s.clients[c].phase else { return false };
        let now = s.now;
        let mut proved = 0;
        for turn in [self.is(Mutant::RegainByRenewing), false] {
            if turn {
                self.join(s, c, token);
            }
            let stands =
                |node: &&mut Node| node.counts <= now && node.places[c].is_some_and(|place| place.agreed);
            proved = s.nodes.iter_mut().filter(stands).count();
        }
        if proved < MAJORITY as usize {
            return false;
        }
        for place in
            s.nodes.iter_mut().filter_map(|node| node.places[c].as_mut()).filter(|place| place.agreed)
        {
            place.ends = now + LEASE;
        }
        self.join(s, c, token);
        s.clients[c].sent = now;
        s.regained |= s.clients[c].kept.count_ones() < MAJORITY;
        s.clients[c].kept = agreed(s, c);
        true
    }

    fn join(&self, s: &mut State, c: usize, token: u8) {
        let now = s.now;
        for node in &mut s.nodes {
            if self.fits(node, c) && node.places[c].is_none_or(|place| !place.agreed) {
                node.last = node.last.max(token);
                node.places[c] = Some(Place { token, ends: now + LEASE, agreed: true });
            }
        }
    }

    fn leave(s: &mut State, c: usize) {
        s.nodes.iter_mut().for_each(|node| node.places[c] = None);
        s.clients[c] = IDLE;
    }

    fn tick(s: &mut State) {
        s.now += 1;
        let now = s.now;
        for place in s.nodes.iter_mut().flat_map(|node| &mut node.places) {
            *place = place.filter(|place| place.ends > now);
        }
        note_breaks(s);
        for client in &mut s.clients {
            // What was gathered too late is worth nothing, and a hold that was not renewed is lost.
            if client.phase != Phase::Idle && client.sent + LEASE <= now {
                *client = IDLE;
            }
        }
    }
}

impl Model for Quorum {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            now: 1,
            nodes: [Node::default(); NODES],
            clients: [IDLE; CLIENTS],
            asks: self.asks,
            restarts: self.restarts,
            flushes: self.flushes,
            reported: 0,
            together: false,
            unordered: false,
            regained: false,
        }]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        actions.extend((0..NODES).flat_map(|n| [Action::Restart(n), Action::Flush(n)]));
        for c in 0..CLIENTS {
            actions.extend(
                [Action::Start, Action::Agree, Action::Report, Action::Renew, Action::Leave]
                    .map(|act| act(c)),
            );
            actions.extend((0..NODES).flat_map(|n| [Action::Ask(c, n), Action::Raise(c, n)]));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        let happens = match action {
            Action::Tick => {
                Self::tick(&mut s);
                s.now <= self.horizon
            }
            Action::Restart(n) => {
                // Nodes are alike: which of those that have never restarted is the next makes no difference.
                if n > usize::from(self.restarts - s.restarts) {
                    return None;
                }
                let counts = if self.is(Mutant::AmnesicNode) { 0 } else { s.now + LEASE };
                s.nodes[n] = Node { counts, ..Node::default() };
                s.restarts = s.restarts.checked_sub(1)?;
                note_breaks(&mut s);
                true
            }
            Action::Flush(n) => {
                s.nodes[n] = Node { counts: s.nodes[n].counts, ..Node::default() };
                s.flushes = s.flushes.checked_sub(1)?;
                note_breaks(&mut s);
                true
            }
            Action::Start(c) => {
                let before = 32 - s.reported.leading_zeros();
                let phase = Phase::Asks { asked: 0, granted: 0 };
                let idle = s.clients[c].phase == Phase::Idle;
                // Whatever is left of an earlier try is its own, and was withdrawn.
                Self::leave(&mut s, c);
                let before = u8::try_from(before).ok()?.saturating_sub(1);
                s.clients[c] = Client { phase, sent: s.now, before, ..IDLE };
                s.asks = s.asks.checked_sub(1)?;
                idle
            }
            Action::Ask(c, n) => self.ask(&mut s, c, n),
            Action::Agree(c) => self.agree(&mut s, c),
            Action::Raise(c, n) => self.raise(&mut s, c, n),
            Action::Report(c) => self.report(&mut s, c),
            Action::Renew(c) => self.renew(&mut s, c),
            Action::Leave(c) => {
                let leaves = s.clients[c].phase != Phase::Idle;
                Self::leave(&mut s, c);
                leaves
            }
        };
        happens.then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(EXCLUSIVE, |m: &Self, s: &State| !s.together || m.shared || m.flushes > 0),
            Property::always(RISING, |m: &Self, s: &State| !s.unordered || m.flushes > 0),
            Property::always(UNBROKEN, |m: &Self, s: &State| !s.regained || m.shared),
            Property::sometimes("a second token is reported", |_: &Self, s: &State| {
                s.reported.count_ones() > 1
            }),
            Property::sometimes("readers hold together, or a vote is split", |m: &Self, s: &State| {
                let split = |client: &Client| matches!(client.phase, Phase::Asks { granted: 1.., .. });
                if m.shared { s.together } else { s.clients.iter().all(split) }
            }),
            Property::sometimes("a node that has forgotten a hold is joined anew", |m: &Self, s: &State| {
                let young = s.nodes.iter().filter(|node| node.counts > s.now);
                young.flat_map(|node| node.places).flatten().any(|place| place.agreed) || m.restarts == 0
            }),
            Property::sometimes("a token is outbid, where there are readers", |m: &Self, s: &State| {
                let outbid = |(c, client): (usize, &Client)| {
                    let own = s.nodes.iter().filter_map(|node| node.places[c]).map(|place| place.token).max();
                    matches!(client.phase, Phase::Raises { goal, .. } if Some(goal) > own)
                };
                !m.shared || s.clients.iter().enumerate().any(outbid)
            }),
        ]
    }
}
