//! Arithmetic of validity: what a client may believe, given only when it *sent* and how much it was granted.
//!
//! Each message takes any time or is lost. A client counts from before it sent the request, on a clock that may
//! be slow by one tick per lease and that goes on while the machine sleeps, and takes one tick of margin off
//! the lease. Its own timer ends the hold, whatever became of a renewal; the loss is final, since the renewal
//! that is still under way must not bring a hold back, neither to the client nor at the engine.
//!
//! **Invariants**
//! 1. The intervals in which two clients believe their holds valid never overlap.
//! 2. The engine keeps a hold for at least as long as its client believes in it.
//! 3. A client that has withdrawn and not asked again holds nothing.

use stateright::{Model, Property};

/// Invariant 1.
pub const NO_OVERLAP: &str = "intervals of validity never overlap";
/// Invariant 2.
pub const BACKED: &str = "the engine backs each valid hold";
/// Invariant 3.
pub const NO_REVIVAL: &str = "a withdrawn hold stays away";

/// One planted error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Mutant {
    /// Validity counts from the arrival of the reply.
    FromReply,
    /// Expiry is noticed only between renewals, so a renewal that hangs keeps the hold.
    NoTimer,
    /// A renewal of an expired hold makes a new one.
    RenewalCreates,
    /// The whole lease is used, although clocks differ in rate.
    NoMargin,
    /// The clock stands still while the machine sleeps.
    SleepingClock,
}

/// The model and its bound, the length of a lease in ticks.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lease {
    lease: u8,
    mutant: Option<Mutant>,
}

const CLIENTS: usize = 2;
const MARGIN: u8 = 1;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Phase {
    Idle,
    Asking,
    /// For how long its client believes the hold valid.
    Holding(u8),
    Leaving,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Message {
    Acquire,
    Renew,
    /// A renewal of a claim that its client has withdrawn since.
    OldRenew,
    Granted,
    Refused,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq)]
struct Client {
    phase: Phase,
    /// The request or reply under way, and the time since the request was sent, on the client's clock.
    net: Option<(Message, u8)>,
    /// Ticks until this clock may miss the next.
    steady: u8,
}

/// The clients, and who holds for how long by the engine's clock.
#[derive(Clone, Debug, Hash, PartialEq)]
pub struct State {
    clients: [Client; CLIENTS],
    hold: Option<(usize, u8)>,
}

/// One step: of time (which one client's clock may miss), or of one client and its message.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, clippy::exhaustive_enums, reason = "named by the story above")]
pub enum Action {
    Tick,
    MissedTick(usize),
    Send(usize),
    Serve(usize),
    Hear(usize),
    Lose(usize),
    Release(usize),
    Withdraw(usize),
}

impl Lease {
    /// The model with leases of so many ticks.
    #[must_use]
    pub fn new(lease: u8) -> Self {
        Self { lease, mutant: None }
    }

    /// The same with an error in it.
    #[must_use]
    pub fn with(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn tick(&self, s: &mut State, missed_by: Option<usize>) {
        s.hold = s.hold.map(|(c, left)| (c, left - 1)).filter(|(_, left)| *left > 0);
        for (c, of) in s.clients.iter_mut().enumerate() {
            if missed_by == Some(c) {
                of.steady = self.lease;
                continue;
            }
            of.steady = of.steady.saturating_sub(1);
            of.net = of.net.map(|(message, age)| (message, self.lease.min(age + 1)));
            let hangs = self.is(Mutant::NoTimer) && of.net.is_some();
            match of.phase {
                Phase::Holding(left) if left <= 1 && !hangs => of.phase = Phase::Leaving,
                Phase::Holding(left) => of.phase = Phase::Holding(left.saturating_sub(1)),
                _ => {}
            }
        }
    }

    fn serve(&self, s: &mut State, c: usize) -> bool {
        let Some((request, age)) = s.clients[c].net else { return false };
        let creates = match request {
            Message::Acquire => true,
            Message::Renew | Message::OldRenew => self.is(Mutant::RenewalCreates),
            _ => return false,
        };
        let own = request != Message::OldRenew && s.hold.is_some_and(|(holder, _)| holder == c);
        let granted = own || (creates && s.hold.is_none());
        if granted {
            s.hold = Some((c, self.lease));
        }
        let reply = if granted { Message::Granted } else { Message::Refused };
        s.clients[c].net = (request != Message::OldRenew).then_some((reply, age));
        true
    }

    fn hear(&self, of: &mut Client) -> bool {
        let Some((reply @ (Message::Granted | Message::Refused), age)) = of.net else { return false };
        let margin = if self.is(Mutant::NoMargin) { 0 } else { MARGIN };
        let age = if self.is(Mutant::FromReply) { 0 } else { age };
        let left = self.lease.saturating_sub(margin + age);
        of.net = None;
        of.phase = match (of.phase, reply) {
            (Phase::Asking, Message::Granted) if left == 0 => Phase::Leaving,
            (Phase::Asking, Message::Granted) => Phase::Holding(left),
            (Phase::Asking, _) => Phase::Idle,
            (Phase::Holding(before), Message::Granted) => Phase::Holding(left.max(before)),
            (Phase::Holding(_), _) => Phase::Leaving,
            (phase, _) => phase,
        };
        true
    }
}

impl Model for Lease {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State { clients: [Client { phase: Phase::Idle, net: None, steady: 0 }; CLIENTS], hold: None }]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Action>) {
        use Action::{Hear, Lose, MissedTick, Release, Send, Serve, Withdraw};
        actions.push(Action::Tick);
        actions.extend(
            (0..CLIENTS)
                .flat_map(|c| [MissedTick, Send, Serve, Hear, Lose, Release, Withdraw].map(|act| act(c))),
        );
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            Action::Tick => self.tick(&mut s, None),
            Action::MissedTick(c) if s.clients[c].steady == 0 || self.is(Mutant::SleepingClock) => {
                self.tick(&mut s, Some(c));
            }
            Action::Send(c) if s.clients[c].net.is_none() => {
                let of = &mut s.clients[c];
                (of.phase, of.net) = match of.phase {
                    Phase::Idle | Phase::Asking => (Phase::Asking, Some((Message::Acquire, 0))),
                    Phase::Holding(left) => (Phase::Holding(left), Some((Message::Renew, 0))),
                    Phase::Leaving => return None,
                };
            }
            Action::Serve(c) => return self.serve(&mut s, c).then_some(s),
            Action::Hear(c) => return self.hear(&mut s.clients[c]).then_some(s),
            Action::Lose(c) if s.clients[c].net.is_some() => s.clients[c].net = None,
            Action::Release(c) if matches!(s.clients[c].phase, Phase::Holding(_)) => {
                s.clients[c].phase = Phase::Leaving;
            }
            Action::Withdraw(c) if s.clients[c].phase == Phase::Leaving => {
                let of = &mut s.clients[c];
                let renews = of.net.filter(|(message, _)| *message == Message::Renew);
                (of.phase, of.net) = (Phase::Idle, renews.map(|_| (Message::OldRenew, self.lease)));
                s.hold = s.hold.filter(|(holder, _)| *holder != c);
            }
            _ => return None,
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let invariant = Property::<Self>::always;
        vec![
            invariant(NO_OVERLAP, |_, s| {
                s.clients.iter().filter(|of| matches!(of.phase, Phase::Holding(_))).count() <= 1
            }),
            invariant(BACKED, |_, s| {
                s.clients.iter().enumerate().all(|(c, of)| match (of.phase, s.hold) {
                    (Phase::Holding(valid), Some((holder, left))) => holder == c && left >= valid,
                    (Phase::Holding(_), None) => false,
                    _ => true,
                })
            }),
            invariant(NO_REVIVAL, |_, s| s.hold.is_none_or(|(c, _)| s.clients[c].phase != Phase::Idle)),
            Property::sometimes("a hold ends while its renewal hangs", |_, s: &State| {
                s.clients.iter().any(|of| {
                    of.phase == Phase::Leaving && of.net.is_some_and(|(message, _)| message == Message::Renew)
                })
            }),
            Property::sometimes("a hold begins while the last holder still cleans up", |_, s: &State| {
                matches!(s.clients.map(|of| of.phase), [Phase::Leaving, Phase::Holding(_)])
            }),
        ]
    }
}
