//! The bookkeeping of one key's line, for engines that keep it themselves.
//!
//! A ledger is plain data: an engine loads it, lets one verb act on it at one instant of its own clock, stores it and
//! tells those whom the verb has enabled. The memory engine keeps ledgers in a map, the local engine in files; a
//! script on a server mirrors them. What differs between engines is only how a place dies ([`Terms::expiry`]).
//!
//! # Invariants
//! 1. A claim has at most one place.
//! 2. Before a verb acts, what is dead by then is gone: expired leases, unconfirmed grants past their window, places
//!    whose owner has died.
//! 3. After a verb, every place in the granted prefix has a token, and nobody else has.
//! 4. `last_token` never falls, and is at least every token ever granted.
//! 5. A claim with a tombstone never gets a place.
//! 6. A renewal never makes a place.

use std::num::NonZeroU32;
use std::time::Duration;

use super::line;
use super::{
    Attempt, Effect, EngineError, EngineErrorKind, Gone, Grant, Renewal, Restamp, Retry, Standing, Stray,
    Validity, Waiting, Withdrawn,
};
use crate::flaw::{self, Flaw};
use crate::{Claim, ClaimId, FencingToken, IfBusy, Key, Mode, TokenBlock, TokenSource};

/// A deadline that never comes.
const NEVER: u64 = u64::MAX;

/// The line of one key. `T` is what the engine keeps with each place: who claims, or which process owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger<T> {
    /// The highest token ever granted or reserved; zero before the first.
    pub last_token: u64,
    /// The places, in order of arrival.
    pub places: Vec<Place<T>>,
    /// Claims that must not come back.
    pub tombstones: Vec<Tombstone>,
}

/// One place of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<T> {
    /// The claim.
    pub claim: ClaimId,
    /// Its mode.
    pub mode: Mode,
    /// The term it asks for, in microseconds: TTL and quarantine.
    pub term: u64,
    /// How many spare tokens it wants with a grant.
    pub spare: u32,
    /// The highest token its client has seen.
    pub floor: u64,
    /// What it does.
    pub state: State,
    /// Since when it does, by the engine's clock.
    pub since: u64,
    /// What the engine keeps with it.
    pub tag: T,
}

/// What a place of a ledger does; deadlines by the engine's clock, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "engines store every state")]
pub enum State {
    /// It waits, and is dropped at `expires` unless it is attempted again.
    Waiting {
        /// When it is dropped.
        expires: u64,
    },
    /// It was granted by somebody else's verb, and lapses at `lapses` unless it is confirmed.
    Offered {
        /// Its tokens.
        tokens: TokenBlock,
        /// Its permit.
        slot: u32,
        /// When the offer lapses.
        lapses: u64,
    },
    /// It holds, until `expires` unless it is renewed.
    Held {
        /// Its tokens.
        tokens: TokenBlock,
        /// Its permit.
        slot: u32,
        /// When it expires.
        expires: u64,
    },
}

/// A claim that must not come back before `expires`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The claim.
    pub claim: ClaimId,
    /// Whether an operator took it out.
    pub evicted: bool,
    /// When the tombstone may be forgotten.
    pub expires: u64,
}

/// The engine's side of a verb: its clocks and its rules.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The engine's clock for deadlines, in microseconds from any fixed point.
    pub now: u64,
    /// The engine's clock for tokens, in microseconds since 1970.
    pub wall_micros: u64,
    /// How long an offer stands, in microseconds.
    pub window: u64,
    /// How a place dies.
    pub expiry: Expiry,
}

/// How a place dies without its client's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "the ledger must answer both")]
pub enum Expiry {
    /// By deadline.
    Lease,
    /// With its owner, which `alive` judges.
    Owner,
}

/// The permits of a line have agreed on another limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the line is in use with a limit of {stored}")]
pub struct LimitDiffers {
    /// The limit in force.
    pub stored: NonZeroU32,
}

impl LimitDiffers {
    /// The error of the attempt on `key`: certainly not applied, and useless to repeat while the line is in use.
    #[must_use]
    pub fn on(self, key: &Key) -> EngineError {
        let kind = EngineErrorKind::LimitMismatch { stored: self.stored };
        let limit = self.stored;
        let message = format!(
            "{key:?} is in use with a limit of {limit}: ask for that limit, or wait until the line is empty"
        );
        EngineError::new(kind, Effect::None, Retry::Useless, message)
    }
}

/// Whom a verb concerned besides its own claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<T> {
    /// The claim.
    pub claim: ClaimId,
    /// What the engine keeps with it.
    pub tag: T,
    /// The offer it was made, none when it was evicted.
    pub grant: Option<Grant>,
}

impl<T> Default for Ledger<T> {
    fn default() -> Self {
        Self { last_token: 0, places: Vec::new(), tombstones: Vec::new() }
    }
}

impl<T: Clone> Ledger<T> {
    /// Whether nothing of it has to be kept but the last token.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.places.is_empty() && self.tombstones.is_empty()
    }

    /// Brings the ledger to `terms.now`: drops what is dead, offers what has become free.
    pub fn settle(&mut self, terms: &Terms, alive: &mut dyn FnMut(&T) -> bool) -> Vec<Told<T>> {
        self.bury(terms, alive);
        self.promote(terms, None)
    }

    /// [`super::Contender::attempt`]. Refused when the claim is a permit and the line is in use with another limit;
    /// the ledger is then only brought to the present, which may have enabled others.
    pub fn attempt(
        &mut self,
        claim: &Claim,
        tag: &T,
        terms: &Terms,
        alive: &mut dyn FnMut(&T) -> bool,
    ) -> (Result<Attempt, LimitDiffers>, Vec<Told<T>>) {
        self.bury(terms, alive);
        if let Some(gone) = self.tombstone(claim.id) {
            return (Ok(Attempt::Gone(gone)), self.promote(terms, None));
        }
        let joined = self.position(claim.id).is_none();
        if joined {
            if let Err(differs) = self.check_limit(claim.mode) {
                return (Err(differs), self.promote(terms, None));
            }
            self.places.push(Place::waiting(claim, tag.clone(), terms));
        }
        let told = self.promote(terms, Some(claim.id));
        let me = self.position(claim.id).unwrap_or(self.places.len() - 1);
        let attempt = match self.places[me].confirm(claim, terms) {
            Some(grant) => Attempt::Granted(grant),
            None if joined && claim.if_busy == IfBusy::Leave => {
                self.places.remove(me);
                Attempt::Busy(self.waiting(me, terms))
            }
            None => {
                self.places[me].state = State::Waiting { expires: terms.waiting_expires() };
                Attempt::Waiting(self.waiting(me, terms))
            }
        };
        (Ok(attempt), told)
    }

    /// [`super::Contender::renew`].
    pub fn renew(
        &mut self,
        claim: &Claim,
        tag: &T,
        terms: &Terms,
        alive: &mut dyn FnMut(&T) -> bool,
    ) -> (Renewal, Vec<Told<T>>) {
        self.bury(terms, alive);
        if flaw::planted(Flaw::RenewalThatRecreates) && self.places.is_empty() {
            self.places.push(Place::waiting(claim, tag.clone(), terms));
        }
        let told = self.promote(terms, flaw::planted(Flaw::RenewalThatRecreates).then_some(claim.id));
        let held = self.position(claim.id).and_then(|me| self.places[me].confirm(claim, terms));
        let renewal = match held {
            Some(grant) => Renewal::Renewed(grant.validity),
            None => Renewal::Gone(self.tombstone(claim.id).unwrap_or(Gone::Absent)),
        };
        (renewal, told)
    }

    /// [`super::Contender::restamp`].
    pub fn restamp(
        &mut self,
        claim: &Claim,
        terms: &Terms,
        alive: &mut dyn FnMut(&T) -> bool,
    ) -> (Restamp, Vec<Told<T>>) {
        self.bury(terms, alive);
        let told = self.promote(terms, None);
        let me = self.position(claim.id).filter(|me| self.places[*me].state.is_granted());
        let fresh = me.and_then(|me| {
            let fresh =
                self.next_tokens(claim.floor.map_or(0, FencingToken::get), claim.spare_tokens, terms)?;
            self.places[me].state.set_tokens(fresh);
            Some(fresh)
        });
        let restamp = match fresh {
            Some(fresh) => Restamp::Fresh(fresh),
            None => Restamp::Gone(self.tombstone(claim.id).unwrap_or(Gone::Absent)),
        };
        (restamp, told)
    }

    /// [`super::Contender::withdraw`].
    pub fn withdraw(
        &mut self,
        claim: &Claim,
        stray: Stray,
        terms: &Terms,
        alive: &mut dyn FnMut(&T) -> bool,
    ) -> (Withdrawn, Vec<Told<T>>) {
        self.bury(terms, alive);
        let withdrawn = match self.remove(claim.id) {
            Withdrawn::Absent if flaw::planted(Flaw::PermitsAsCounter) && claim.mode.limit().is_some() => {
                self.places
                    .first()
                    .map(|first| first.claim)
                    .map_or(Withdrawn::Absent, |first| self.remove(first))
            }
            withdrawn => withdrawn,
        };
        if stray == Stray::Possible && !flaw::planted(Flaw::NoTombstone) {
            self.entomb(claim.id, false, micros(claim.term()), terms);
        }
        (withdrawn, self.promote(terms, None))
    }

    /// [`super::Engine::evict`].
    pub fn evict(
        &mut self,
        claim: ClaimId,
        terms: &Terms,
        alive: &mut dyn FnMut(&T) -> bool,
    ) -> (Withdrawn, Vec<Told<T>>) {
        self.bury(terms, alive);
        let Some(at) = self.position(claim) else { return (Withdrawn::Absent, self.promote(terms, None)) };
        let (term, tag) = (self.places[at].term, self.places[at].tag.clone());
        let withdrawn = self.remove(claim);
        self.entomb(claim, true, term, terms);
        let mut told = self.promote(terms, None);
        told.push(Told { claim, tag, grant: None });
        (withdrawn, told)
    }

    /// How a place stands at `now`.
    #[must_use]
    pub fn standing(place: &Place<T>, now: u64) -> Standing {
        match place.state {
            State::Waiting { .. } => Standing::Waits,
            State::Offered { tokens, slot, lapses: ends } | State::Held { tokens, slot, expires: ends } => {
                let expires_in = (ends != NEVER).then(|| Duration::from_micros(ends.saturating_sub(now)));
                Standing::Holds { token: tokens.first, slot, expires_in }
            }
        }
    }

    fn position(&self, claim: ClaimId) -> Option<usize> {
        self.places.iter().position(|place| place.claim == claim)
    }

    fn tombstone(&self, claim: ClaimId) -> Option<Gone> {
        let tombstone = self.tombstones.iter().find(|tombstone| tombstone.claim == claim)?;
        Some(if tombstone.evicted { Gone::Evicted } else { Gone::Withdrawn })
    }

    fn entomb(&mut self, claim: ClaimId, evicted: bool, term: u64, terms: &Terms) {
        let expires = terms.now.saturating_add(term);
        match self.tombstones.iter_mut().find(|tombstone| tombstone.claim == claim) {
            Some(known) => known.expires = known.expires.max(expires),
            None => self.tombstones.push(Tombstone { claim, evicted, expires }),
        }
    }

    fn remove(&mut self, claim: ClaimId) -> Withdrawn {
        let at = match self.position(claim) {
            None if flaw::planted(Flaw::ReleaseByName) && !self.places.is_empty() => 0,
            None => return Withdrawn::Absent,
            Some(at) => at,
        };
        if self.places.remove(at).state.is_granted() { Withdrawn::Held } else { Withdrawn::Waited }
    }

    /// Drops what is dead at `terms.now`.
    fn bury(&mut self, terms: &Terms, alive: &mut dyn FnMut(&T) -> bool) {
        let expired = |state: &State| match state {
            State::Waiting { expires } => *expires <= terms.now && !flaw::planted(Flaw::ImmortalPlaces),
            State::Offered { lapses, .. } => *lapses <= terms.now && !flaw::planted(Flaw::ImmortalPlaces),
            State::Held { expires, .. } => *expires <= terms.now,
        };
        let owned = terms.expiry == Expiry::Owner;
        self.places.retain(|place| !expired(&place.state) && (!owned || alive(&place.tag)));
        self.tombstones.retain(|tombstone| tombstone.expires > terms.now);
    }

    /// Gives a token to every place that the rule grants and that has none. All but `mine` are told.
    fn promote(&mut self, terms: &Terms, mine: Option<ClaimId>) -> Vec<Told<T>> {
        let granted = line::granted(self.places.iter().map(|place| place.mode));
        let mut told = Vec::new();
        for at in 0..granted {
            if self.places[at].state.is_granted() {
                continue;
            }
            let (floor, spare) = (self.places[at].floor, self.places[at].spare);
            // Only a forged floor at the end of the range can leave us without a token; then nobody is granted.
            let Some(tokens) = self.next_tokens(floor, spare, terms) else { break };
            let slot = self.free_slot(at);
            let place = &mut self.places[at];
            place.state = State::Offered { tokens, slot, lapses: terms.now.saturating_add(terms.window) };
            place.since = terms.now;
            if mine != Some(place.claim) {
                let grant =
                    Some(place.grant(tokens, slot, Validity::Lease(Duration::from_micros(terms.window))));
                told.push(Told { claim: place.claim, tag: place.tag.clone(), grant });
            }
        }
        told
    }

    fn next_tokens(&mut self, floor: u64, spare: u32, terms: &Terms) -> Option<TokenBlock> {
        let clock_micros = if flaw::planted(Flaw::CounterOnlyToken) { 0 } else { terms.wall_micros };
        let floor = if flaw::planted(Flaw::CounterOnlyToken) { None } else { FencingToken::new(floor) };
        let tokens = TokenSource { last: self.last_token, clock_micros, floor }.next(spare)?;
        self.last_token = tokens.last().get();
        Some(tokens)
    }

    /// The lowest permit that no granted place has.
    fn free_slot(&self, at: usize) -> u32 {
        if self.places[at].mode.limit().is_none() {
            return 0;
        }
        let mut taken: Vec<_> = self.places.iter().filter_map(|place| place.state.slot()).collect();
        taken.sort_unstable();
        taken.iter().fold(0, |free, slot| if *slot == free { free + 1 } else { free })
    }

    fn check_limit(&self, mode: Mode) -> Result<(), LimitDiffers> {
        let Some(limit) = mode.limit() else { return Ok(()) };
        match self.places.iter().find_map(|place| place.mode.limit()) {
            Some(stored) if stored != limit => Err(LimitDiffers { stored }),
            _ => Ok(()),
        }
    }

    fn waiting(&self, ahead: usize, terms: &Terms) -> Waiting {
        let ends =
            self.places[..ahead].iter().map(|place| place.state.ends()).min().filter(|ends| *ends != NEVER);
        let look_in = ends.map(|ends| Duration::from_micros(ends.saturating_sub(terms.now)));
        Waiting { ahead, look_in, last_token: self.last_token }
    }
}

impl<T> Place<T> {
    fn waiting(claim: &Claim, tag: T, terms: &Terms) -> Self {
        Self {
            claim: claim.id,
            mode: claim.mode,
            term: micros(claim.term()),
            spare: claim.spare_tokens,
            floor: claim.floor.map_or(0, FencingToken::get),
            state: State::Waiting { expires: terms.waiting_expires() },
            since: terms.now,
            tag,
        }
    }

    /// Makes an offer a hold, or a hold a longer one; none when the place waits.
    fn confirm(&mut self, claim: &Claim, terms: &Terms) -> Option<Grant> {
        let (tokens, slot) = match self.state {
            State::Waiting { .. } => return None,
            State::Offered { tokens, slot, .. } | State::Held { tokens, slot, .. } => (tokens, slot),
        };
        let (expires, validity) = match terms.expiry {
            Expiry::Lease => (terms.now.saturating_add(micros(claim.term())), Validity::Lease(claim.term())),
            Expiry::Owner => (NEVER, Validity::Lifetime),
        };
        self.state = State::Held { tokens, slot, expires };
        Some(self.grant(tokens, slot, validity))
    }

    fn grant(&self, tokens: TokenBlock, slot: u32, validity: Validity) -> Grant {
        Grant { claim: self.claim, tokens, slot, validity }
    }
}

impl State {
    fn is_granted(&self) -> bool {
        !matches!(self, Self::Waiting { .. })
    }

    fn slot(&self) -> Option<u32> {
        match self {
            Self::Waiting { .. } => None,
            Self::Offered { slot, .. } | Self::Held { slot, .. } => Some(*slot),
        }
    }

    fn ends(&self) -> u64 {
        match self {
            Self::Waiting { expires: ends }
            | Self::Offered { lapses: ends, .. }
            | Self::Held { expires: ends, .. } => *ends,
        }
    }

    fn set_tokens(&mut self, fresh: TokenBlock) {
        if let Self::Offered { tokens, .. } | Self::Held { tokens, .. } = self {
            *tokens = fresh;
        }
    }
}

impl Terms {
    /// A waiting place lives as long as an offer would: its client looks again more often than that.
    fn waiting_expires(&self) -> u64 {
        match self.expiry {
            Expiry::Lease => self.now.saturating_add(self.window),
            Expiry::Owner => NEVER,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
