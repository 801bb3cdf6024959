//! The line and the claim window: who may hold, in which order, and that it never comes to a standstill.
//!
//! A release promotes the longest prefix of the line that fits, and the wake *is* the grant. So validity has to
//! begin at a moment that the waiter knows and that is certainly earlier: its last attempt that was answered
//! "wait". An offer that nobody confirms lapses after the claim window, and the late waiter joins at the end.
//! Messages take any time, or for ever; clients die; [`crate::ambiguity`] shows that a withdrawn claim's
//! requests are refused. A wake names the *place*: else the late wake of a lapsed place would grant its
//! successor, with validity counted from an attempt that is younger than the grant.
//!
//! **Invariants**
//! 1. Holds that their clients believe valid fit together.
//! 2. The engine keeps a hold for at least as long as its client believes in it.
//! 3. Grants follow the line: no live place waits before one that is granted.
//! 4. From *every* state, once requests are prompt, each live waiter is granted in time, even if no wake comes.
//!
//! A place that waits needs no expiry for 4, since it lapses with its offer: expiry only spares that window.

use stateright::{Model, Property};

use crate::line::{Action as A, Message as M, Phase as P, Stage as S};

/// Invariant 1.
pub const COMPATIBLE: &str = "valid holds fit together";
/// Invariant 2.
pub const BACKED: &str = "the engine backs each valid hold";
/// Invariant 3.
pub const IN_ORDER: &str = "grants follow the line";
/// Invariant 4.
pub const NEVER_STUCK: &str = "each live waiter is granted in time";

/// One planted error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Mutant {
    /// Validity of a hand-off counts from the arrival of its wake.
    ValidFromWake,
    /// A wake is trusted although it may be for an earlier place of the claim.
    TrustedWake,
    /// A waiter that was told to wait sleeps until it is woken.
    NoRecheck,
    /// An offer waits for its client without limit.
    NoClaimWindow,
    /// A place in the line never expires. Harmless, as said above.
    ImmortalPlace,
    /// Whoever fits is granted, also past a place that waits.
    Barging,
}

/// How a place wants to hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// With others that share.
    Shared,
    /// With so many others at most, itself included.
    Permit(usize),
}

/// The model and its bounds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Line<const N: usize> {
    modes: [Mode; N],
    claims: u8,
    deaths: u8,
    lease: u8,
    window: u8,
    place: u8,
    ticks: Option<u8>,
    mutant: Option<Mutant>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Phase {
    Idle,
    Waiting,
    Holding,
    Leaving,
    Dead,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Message {
    Attempt,
    Renew,
    Wait(u8),
    Granted,
    Gone,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Stage {
    Waiting,
    Offered,
    Held,
}

#[derive(Clone, Debug, Hash, PartialEq)]
struct Place {
    client: usize,
    id: u8,
    stage: Stage,
    left: u8,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq)]
struct Client {
    phase: Phase,
    claims: u8,
    /// For how long the client believes its hold valid.
    valid: u8,
    /// The request or reply under way, and the time since the request was sent.
    net: Option<(Message, u8)>,
    /// The place of the last attempt that was answered "wait", and the time since that was sent.
    asked: Option<(u8, u8)>,
    wake: Option<u8>,
}

/// The engine's line, the clients, and what travels between them.
#[derive(Clone, Debug, Hash, PartialEq)]
pub struct State<const N: usize> {
    clients: [Client; N],
    line: Vec<Place>,
    deaths: u8,
    ticks: Option<u8>,
}

/// One step: of the clocks, or of one client, its messages and its place.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, clippy::exhaustive_enums, reason = "named by the story above")]
pub enum Action {
    Tick,
    Ask(usize),
    Serve(usize),
    Hear(usize),
    Wake(usize),
    Stop(usize),
    Withdraw(usize),
    Die(usize),
}

const IDLE: Client = Client { phase: P::Idle, claims: 0, valid: 0, net: None, asked: None, wake: None };

/// Whether holds of these modes may be valid together.
fn fit(modes: &[Mode]) -> bool {
    modes.len() <= 1
        || modes.iter().all(|mode| match mode {
            Mode::Exclusive => false,
            Mode::Shared => *mode == modes[0],
            Mode::Permit(limit) => *mode == modes[0] && modes.len() <= *limit,
        })
}

impl Client {
    /// What comes too late to be valid is not a hold: a waiter asks again, and keeps its place.
    fn believe(&mut self, left: u8) {
        if self.valid.max(left) > 0 {
            *self = Self { phase: P::Holding, valid: self.valid.max(left), asked: None, wake: None, ..*self };
        }
    }

    fn leave(&mut self) {
        let net = self.net.filter(|(message, _)| matches!(message, M::Attempt | M::Renew));
        *self = Self { phase: P::Leaving, net, claims: self.claims, ..IDLE };
    }
}

impl<const N: usize> Line<N> {
    /// A line of one client per mode, each of which may make so many claims, and so many of which may die.
    #[must_use]
    pub fn new(modes: [Mode; N], claims: u8, deaths: u8) -> Self {
        Self { modes, claims, deaths, lease: 2, window: 1, place: 1, ticks: None, mutant: None }
    }

    /// The same with other bounds, in ticks, than 2 for a hold, 1 for an offer and 1 for a place.
    #[must_use]
    pub fn lasting(self, lease: u8, window: u8, place: u8) -> Self {
        Self { lease, window, place, ..self }
    }

    /// The same, followed only for so many ticks.
    #[must_use]
    pub fn until(self, ticks: u8) -> Self {
        Self { ticks: Some(ticks), ..self }
    }

    /// The same with an error in it.
    #[must_use]
    pub fn with(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn ask(&self, of: &mut Client) -> bool {
        let sleeps = self.is(Mutant::NoRecheck) && of.asked.is_some();
        let verb = match of.phase {
            P::Idle if of.claims > 0 => M::Attempt,
            P::Waiting if of.net.is_none() && !sleeps => M::Attempt,
            P::Holding if of.net.is_none() => M::Renew,
            _ => return false,
        };
        if of.phase == P::Idle {
            (of.phase, of.claims) = (P::Waiting, of.claims - 1);
        }
        of.net = Some((verb, 0));
        true
    }

    fn serve(&self, s: &mut State<N>, c: usize) -> bool {
        let Some((verb @ (M::Attempt | M::Renew), age)) = s.clients[c].net else { return false };
        s.line.retain(|place| place.left > 0);
        if verb == M::Attempt && s.line.iter().all(|place| place.client != c) {
            let used = [s.clients[c].wake, s.clients[c].asked.map(|(id, _)| id)];
            let id = u8::from(used.contains(&Some(0)))
                + u8::from(used.contains(&Some(0)) && used.contains(&Some(1)));
            s.line.push(Place { client: c, id, stage: S::Waiting, left: self.place });
        }
        self.promote(s, Some(c));
        let reply = match s.line.iter_mut().find(|place| place.client == c) {
            Some(place) if place.stage != S::Waiting => {
                (place.stage, place.left) = (S::Held, self.lease);
                M::Granted
            }
            Some(place) if verb == M::Attempt => {
                place.left = self.place;
                M::Wait(place.id)
            }
            _ => M::Gone,
        };
        let listens = matches!(s.clients[c].phase, P::Waiting | P::Holding);
        s.clients[c].net = listens.then_some((reply, age));
        true
    }

    /// Drops what has expired, then offers the hold to the longest prefix of the line that fits.
    fn promote(&self, s: &mut State<N>, asker: Option<usize>) {
        s.line.retain(|place| place.left > 0);
        let mut granted = Vec::new();
        for place in &mut s.line {
            granted.push(self.modes[place.client]);
            if !fit(&granted) {
                granted.pop();
                if self.is(Mutant::Barging) {
                    continue;
                }
                break;
            }
            if place.stage == S::Waiting {
                (place.stage, place.left) = (S::Offered, self.window);
                if asker != Some(place.client) && s.clients[place.client].phase == P::Waiting {
                    s.clients[place.client].wake = Some(place.id);
                }
            }
        }
    }

    fn hear(&self, of: &mut Client) -> bool {
        let Some((reply @ (M::Wait(_) | M::Granted | M::Gone), age)) = of.net else { return false };
        of.net = None;
        match (of.phase, reply) {
            (P::Waiting, M::Wait(id)) => of.asked = Some((id, age.min(self.window))),
            (P::Waiting | P::Holding, M::Granted) => of.believe(self.lease - age),
            (P::Holding, M::Gone) => of.leave(),
            _ => {}
        }
        true
    }

    fn wake(&self, of: &mut Client) -> bool {
        let Some(id) = of.wake.take() else { return false };
        if let (P::Waiting, Some((known, age))) = (of.phase, of.asked) {
            let trusted = id == known || self.is(Mutant::TrustedWake);
            let age = if self.is(Mutant::ValidFromWake) { 0 } else { age };
            if trusted {
                of.believe(self.window - age);
            }
        }
        true
    }

    fn tick(&self, s: &mut State<N>) {
        s.ticks = s.ticks.map(|left| left.saturating_sub(1));
        for of in &mut s.clients {
            of.valid = of.valid.saturating_sub(1);
            if of.phase == P::Holding && of.valid == 0 {
                of.leave();
            }
            of.net = of.net.map(|(message, age)| (message, self.lease.min(age + 1)));
            of.asked = of.asked.map(|(id, age)| (id, self.window.min(age + 1)));
        }
        for place in &mut s.line {
            let lives_on = match place.stage {
                S::Waiting => self.is(Mutant::ImmortalPlace),
                S::Offered => self.is(Mutant::NoClaimWindow),
                S::Held => false,
            };
            place.left = place.left.saturating_sub(u8::from(!lives_on));
        }
    }

    /// Does what is possible, and says whether it was.
    fn apply(&self, s: &mut State<N>, action: A) -> bool {
        match action {
            A::Tick if s.ticks == Some(0) => return false,
            A::Tick => self.tick(s),
            A::Ask(c) => return self.ask(&mut s.clients[c]),
            A::Serve(c) => return self.serve(s, c),
            A::Hear(c) => return self.hear(&mut s.clients[c]),
            A::Wake(c) => return self.wake(&mut s.clients[c]),
            A::Stop(c) if matches!(s.clients[c].phase, P::Waiting | P::Holding) => s.clients[c].leave(),
            A::Withdraw(c) if s.clients[c].phase == P::Leaving => {
                s.clients[c] = Client { claims: s.clients[c].claims, ..IDLE };
                s.line.retain(|place| place.client != c);
                self.promote(s, None);
            }
            A::Die(c) if s.deaths > 0 && !matches!(s.clients[c].phase, P::Idle | P::Dead) => {
                s.clients[c].leave();
                (s.clients[c].phase, s.clients[c].claims) = (P::Dead, 0);
                s.deaths -= 1;
            }
            _ => return false,
        }
        true
    }

    /// Invariant 4: what follows if from here on requests are prompt, holds short, and no wake arrives.
    fn recovers(&self, s: &State<N>) -> bool {
        let mut s = s.clone();
        let clients = 0..N;
        let mut waiting: Vec<_> = clients.clone().filter(|c| s.clients[*c].phase == P::Waiting).collect();
        for _ in 0..2 * (self.lease + self.window + self.place) {
            for c in clients.clone() {
                for act in [A::Serve, A::Hear, A::Ask, A::Serve, A::Hear] {
                    if s.clients[c].phase == P::Waiting {
                        self.apply(&mut s, act(c));
                    }
                }
                if s.clients[c].phase == P::Holding {
                    waiting.retain(|other| *other != c);
                    self.apply(&mut s, A::Stop(c));
                }
                self.apply(&mut s, A::Withdraw(c));
                self.apply(&mut s, A::Serve(c));
            }
            if waiting.is_empty() {
                return true;
            }
            self.tick(&mut s);
        }
        false
    }

    fn valid(&self, s: &State<N>) -> Vec<Mode> {
        (0..N).filter(|c| s.clients[*c].phase == P::Holding).map(|c| self.modes[c]).collect()
    }

    /// How many holds of this line-up can be valid together.
    fn capacity(&self) -> usize {
        let alike = |mode| self.modes.iter().copied().filter(|other| *other == mode).collect::<Vec<_>>();
        let most = |modes: Vec<_>| (1..=modes.len()).filter(|n| fit(&modes[..*n])).max();
        self.modes.iter().filter_map(|mode| most(alike(*mode))).max().unwrap_or(0)
    }
}

impl<const N: usize> Model for Line<N> {
    type State = State<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<State<N>> {
        let client = Client { claims: self.claims, ..IDLE };
        vec![State { clients: [client; N], line: Vec::new(), deaths: self.deaths, ticks: self.ticks }]
    }

    fn actions(&self, _: &State<N>, actions: &mut Vec<A>) {
        let each = [A::Ask, A::Serve, A::Hear, A::Wake, A::Stop, A::Withdraw, A::Die];
        actions.push(A::Tick);
        actions.extend((0..N).flat_map(|c| each.map(|act| act(c))));
    }

    fn next_state(&self, last: &State<N>, action: A) -> Option<State<N>> {
        let mut next = last.clone();
        self.apply(&mut next, action).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(COMPATIBLE, |m: &Self, s: &State<N>| fit(&m.valid(s))),
            Property::always(BACKED, |_: &Self, s: &State<N>| {
                let backed = |c, valid| {
                    s.line.iter().any(|p| p.client == c && p.stage != S::Waiting && p.left >= valid)
                };
                s.clients.iter().enumerate().all(|(c, of)| of.phase != P::Holding || backed(c, of.valid))
            }),
            Property::always(IN_ORDER, |_: &Self, s: &State<N>| {
                s.line.iter().filter(|p| p.left > 0).is_sorted_by_key(|p| p.stage == S::Waiting)
            }),
            Property::always(NEVER_STUCK, Self::recovers),
            Property::sometimes("as many hold as fit", |m: &Self, s: &State<N>| {
                m.valid(s).len() == m.capacity()
            }),
            Property::sometimes("a hold rests on its wake alone", |_: &Self, s: &State<N>| {
                s.line.iter().any(|p| p.stage == S::Offered && s.clients[p.client].phase == P::Holding)
            }),
            Property::sometimes("a late wake meets a later place of its claim", |_: &Self, s: &State<N>| {
                s.line.iter().any(|p| s.clients[p.client].wake.is_some_and(|id| id != p.id))
            }),
        ]
    }
}
