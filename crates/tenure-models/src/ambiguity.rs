//! Lost, late and repeated messages against withdrawal: what a claim leaves behind when its client gives up.
//!
//! Two claims want one key. Each may be attempted more than once, since a client cannot tell a lost request
//! from a lost reply. Any message may be repeated, overtake others, or be lost; none outlives `LIFE`, for which
//! connections and request deadlines have to see. A withdrawal leaves a tombstone that lives longer than that,
//! so the attempt that is still under way when its claim is withdrawn finds the door shut.
//!
//! **Invariants**
//! 1. After a withdrawal was answered, the claim never has a place or a hold again.
//! 2. Only its own withdrawal ends a hold: whoever believes to hold does.
//! 3. A claim has one place, however often it is attempted.

use stateright::{Model, Property};

/// Invariant 1.
pub const NO_GHOST: &str = "a withdrawn claim stays away";
/// Invariant 2.
pub const NO_FOREIGN_RELEASE: &str = "a release hits nobody else";
/// Invariant 3.
pub const ONE_PLACE: &str = "a claim has one place";

/// One planted error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Mutant {
    /// A withdrawal leaves nothing behind.
    NoTombstone,
    /// A tombstone lives only as long as a message.
    ShortTombstone,
    /// A release names the key, not the claim, and so removes whoever holds.
    ReleaseByName,
    /// A repeated attempt joins the line again.
    SecondPlace,
    /// A reply does not name what it answers: the next to arrive is taken for it.
    NamelessReply,
}

/// The model and its bounds: attempts and withdrawals sent per claim, and repeated messages in all.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ambiguity {
    sends: (u8, u8),
    repeats: u8,
    mutant: Option<Mutant>,
}

const CLAIMS: usize = 2;
const LIFE: u8 = 1;

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Verb {
    Attempt,
    Withdraw,
    Waiting,
    Granted,
    Withdrawn,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Phase {
    Asking,
    Holding,
    Leaving,
    Gone,
}

/// The messages under way (sorted, with their ages), the engine's line and tombstones, and the clients.
#[derive(Clone, Debug, Hash, PartialEq)]
pub struct State {
    wire: Vec<(usize, Verb, u8)>,
    line: Vec<usize>,
    tombstones: [u8; CLAIMS],
    phases: [Phase; CLAIMS],
    /// How often each claim may still be attempted and withdrawn.
    sends: [(u8, u8); CLAIMS],
    repeats: u8,
}

/// One step: of time, of a client, or of a message by its rank on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, clippy::exhaustive_enums, reason = "named by the story above")]
pub enum Action {
    Tick,
    Attempt(usize),
    Withdraw(usize),
    Deliver(usize),
    DeliverTwice(usize),
}

impl Ambiguity {
    /// The model in which each claim is attempted and withdrawn so often, and so many messages are repeated.
    #[must_use]
    pub fn new(attempts: u8, withdrawals: u8, repeats: u8) -> Self {
        Self { sends: (attempts, withdrawals), repeats, mutant: None }
    }

    /// The same with an error in it.
    #[must_use]
    pub fn with(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Gives a request to the engine, or a reply to the client.
    fn deliver(&self, s: &mut State, (claim, verb, _): (usize, Verb, u8)) {
        let phase = s.phases[claim];
        match verb {
            Verb::Attempt if s.tombstones[claim] > 0 => s.wire.push((claim, Verb::Withdrawn, 0)),
            Verb::Attempt => {
                if !s.line.contains(&claim) || (self.is(Mutant::SecondPlace) && s.line.len() <= CLAIMS) {
                    s.line.push(claim);
                }
                let granted = s.line[0] == claim;
                s.wire.push((claim, if granted { Verb::Granted } else { Verb::Waiting }, 0));
            }
            Verb::Withdraw => {
                let hit = if self.is(Mutant::ReleaseByName) { s.line.first() } else { Some(&claim) };
                let at = hit.and_then(|hit| s.line.iter().position(|place| place == hit));
                at.map(|at| s.line.remove(at));
                s.tombstones[claim] = match self.mutant {
                    Some(Mutant::NoTombstone) => 0,
                    Some(Mutant::ShortTombstone) => LIFE,
                    _ => LIFE + 1,
                };
                s.wire.push((claim, Verb::Withdrawn, 0));
            }
            Verb::Granted if phase == Phase::Asking => s.phases[claim] = Phase::Holding,
            _ if phase == Phase::Leaving && (verb == Verb::Withdrawn || self.is(Mutant::NamelessReply)) => {
                s.phases[claim] = Phase::Gone;
            }
            _ => {}
        }
    }
}

impl Model for Ambiguity {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (phases, sends) = ([Phase::Asking; CLAIMS], [self.sends; CLAIMS]);
        let (wire, line, tombstones) = (Vec::new(), Vec::new(), [0; CLAIMS]);
        vec![State { wire, line, tombstones, phases, sends, repeats: self.repeats }]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        for claim in 0..CLAIMS {
            let (attempts, withdrawals) = s.sends[claim];
            let asks = s.phases[claim] == Phase::Asking && attempts > 0;
            let leaves = s.phases[claim] != Phase::Gone && attempts < self.sends.0 && withdrawals > 0;
            actions.extend(asks.then_some(Action::Attempt(claim)));
            actions.extend(leaves.then_some(Action::Withdraw(claim)));
        }
        actions.extend((0..s.wire.len()).map(Action::Deliver));
        actions.extend((0..s.wire.len()).filter(|_| s.repeats > 0).map(Action::DeliverTwice));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            Action::Tick => {
                s.wire.retain_mut(|(_, _, age)| std::mem::replace(age, *age + 1) < LIFE);
                s.tombstones = s.tombstones.map(|left| left.saturating_sub(1));
            }
            Action::Attempt(claim) => {
                s.sends[claim].0 -= 1;
                s.wire.push((claim, Verb::Attempt, 0));
            }
            Action::Withdraw(claim) => {
                s.sends[claim].1 -= 1;
                s.phases[claim] = Phase::Leaving;
                s.wire.push((claim, Verb::Withdraw, 0));
            }
            Action::Deliver(rank) => {
                let message = s.wire.remove(rank);
                self.deliver(&mut s, message);
            }
            Action::DeliverTwice(rank) => {
                s.repeats -= 1;
                let message = s.wire[rank];
                self.deliver(&mut s, message);
            }
        }
        s.wire.sort_unstable();
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NO_GHOST, |_: &Self, s: &State| {
                s.line.iter().all(|claim| s.phases[*claim] != Phase::Gone)
            }),
            Property::always(NO_FOREIGN_RELEASE, |_: &Self, s: &State| {
                (0..CLAIMS).all(|c| s.phases[c] != Phase::Holding || s.line.first() == Some(&c))
            }),
            Property::always(ONE_PLACE, |_: &Self, s: &State| {
                (0..CLAIMS).all(|c| s.line.iter().filter(|place| **place == c).count() <= 1)
            }),
            Property::sometimes("a hold follows a withdrawn one", |_: &Self, s: &State| {
                s.phases == [Phase::Gone, Phase::Holding]
            }),
            Property::sometimes("an attempt is under way after its withdrawal", |_: &Self, s: &State| {
                s.wire.iter().any(|(c, verb, _)| *verb == Verb::Attempt && s.phases[*c] == Phase::Gone)
            }),
        ]
    }
}
