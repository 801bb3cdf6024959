//! Sees what all processes believe at once, which nobody in the real world can.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tenure_core::engine::Engine;
use tenure_core::engine::memory::Memory;
use tenure_core::event::{Event, Observer, Via, What};
use tenure_core::{ClaimId, FencingToken, Guard, Key, Mode};
use tokio::time::Instant;

use super::freeze::Freezer;
use super::{TTL, Tally};

/// How late a loss may be told: the keeper looks at a suspended machine's clocks once a second.
const SIGNAL_SLACK: Duration = Duration::from_millis(1_500);

#[derive(Debug)]
pub(super) struct Referee {
    judges_exclusion: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    keys: BTreeMap<String, Book>,
    withdrawn: HashSet<ClaimId>,
    /// When a claim was last granted or renewed: its lease ends at the latest one TTL later.
    stamped: HashMap<ClaimId, Instant>,
    serial: u64,
    tally: Tally,
    verdict: Option<String>,
}

/// What the referee writes down of one key.
#[derive(Debug, Default)]
struct Book {
    holders: Vec<Holder>,
    tokens: HashSet<FencingToken>,
    highest: Option<FencingToken>,
    register: Register,
}

#[derive(Debug)]
struct Holder {
    serial: u64,
    mode: Mode,
    guard: Arc<Guard>,
}

/// A resource that checks tokens.
#[derive(Debug, Default)]
struct Register {
    mark: Option<FencingToken>,
    value: u64,
    accepted: u64,
}

/// What was known of a key when a claim was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked(Option<FencingToken>);

impl Referee {
    pub(super) fn new(judges_exclusion: bool) -> Self {
        Self { judges_exclusion, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accuse(state: &mut State, what: String) {
        state.verdict.get_or_insert(what);
    }

    pub(super) fn verdict(&self) -> Option<String> {
        self.state().verdict.clone()
    }

    pub(super) fn tally(&self) -> Tally {
        self.state().tally
    }

    /// Hears the events of one client.
    pub(super) fn observer(self: &Arc<Self>) -> impl Observer + use<> {
        let referee = Arc::clone(self);
        move |event: &Event| referee.hear(event)
    }

    #[allow(clippy::disallowed_methods, reason = "simulated time is tokio's")]
    fn hear(&self, event: &Event) {
        let Some(claim) = event.claim else { return };
        let mut state = self.state();
        match event.what {
            What::Granted { via: Via::Engine, .. } | What::Renewed { .. } => {
                state.stamped.insert(claim, Instant::now());
            }
            What::Withdrawn => {
                state.withdrawn.insert(claim);
            }
            What::Lost { .. } => state.tally.losses += 1,
            _ => {}
        }
    }

    pub(super) fn asked(&self, key: &str) -> Asked {
        Asked(self.state().keys.get(key).and_then(|book| book.highest))
    }

    /// A hold begins: judges tokens and exclusion. Returns the number under which it ends.
    pub(super) fn granted(&self, key: &str, mode: Mode, guard: &Arc<Guard>, asked: Asked) -> u64 {
        // Asking a guard may end its hold, which tells us of it: not while the book is open.
        let others = self.holders(key);
        let valid: Vec<_> =
            others.iter().filter(|(_, other)| other.is_held()).map(|(mode, _)| *mode).collect();
        let held = guard.is_held();
        let mut state = self.state();
        state.tally.grants += 1;
        state.serial += 1;
        let serial = state.serial;
        let judges_exclusion = self.judges_exclusion;
        let book = state.keys.entry(key.to_owned()).or_default();
        let token = guard.token();
        let mut wrong = None;
        if !book.tokens.insert(token) {
            wrong = Some(format!("tokens: {token} of {key:?} was given out twice"));
        } else if asked.0.is_some_and(|known| known >= token) {
            wrong =
                Some(format!("tokens: {token} of {key:?} is not above one known before it was asked for"));
        }
        book.highest = book.highest.max(Some(token));
        // Whoever else believes to hold, by its own clock, must fit with the newcomer.
        let fits = match mode {
            Mode::Exclusive => valid.is_empty(),
            Mode::Shared => valid.iter().all(|mode| *mode == Mode::Shared),
            Mode::Permit { limit } => valid.len() < limit.get() as usize,
        };
        if !fits && judges_exclusion && held {
            wrong = Some(format!(
                "exclusion: {mode} of {key:?} with token {token} while {} others hold it",
                valid.len()
            ));
        }
        book.holders.push(Holder { serial, mode, guard: Arc::clone(guard) });
        if let Some(wrong) = wrong {
            Self::accuse(&mut state, wrong);
        }
        serial
    }

    fn holders(&self, key: &str) -> Vec<(Mode, Arc<Guard>)> {
        let state = self.state();
        let holders = state.keys.get(key).into_iter().flat_map(|book| &book.holders);
        holders.map(|holder| (holder.mode, Arc::clone(&holder.guard))).collect()
    }

    /// The holder has stopped acting; from here on only the guard in its hand counts.
    pub(super) fn ended(&self, key: &str, serial: u64) {
        if let Some(book) = self.state().keys.get_mut(key) {
            book.holders.retain(|holder| holder.serial != serial);
        }
    }

    /// Judges whether a loss was told in time, without helping it along.
    #[allow(clippy::disallowed_methods, reason = "simulated time is tokio's")]
    pub(super) fn judge_signal(&self, guard: &Guard, freezer: &Freezer) {
        let mut state = self.state();
        let Some(stamped) = state.stamped.get(&guard.claim()).copied() else { return };
        let overdue = stamped.elapsed() > TTL + SIGNAL_SLACK;
        if overdue && !freezer.froze_within(SIGNAL_SLACK) && guard.lost().now_or_never().is_none() {
            let what = format!(
                "signal: the loss of {:?} {} with token {} is not told {:?} after its grant",
                guard.key(),
                guard.claim(),
                guard.token(),
                stamped.elapsed()
            );
            Self::accuse(&mut state, what);
        }
    }

    /// Fences in and reads; none when the token is stale.
    pub(super) fn enter(&self, key: &str, token: FencingToken) -> Option<u64> {
        let mut state = self.state();
        let register = &mut state.keys.entry(key.to_owned()).or_default().register;
        if register.mark.is_some_and(|mark| token < mark) {
            state.tally.refused += 1;
            return None;
        }
        register.mark = Some(token);
        Some(register.value)
    }

    /// Writes what was made of a read; the register refuses a stale token.
    pub(super) fn write(&self, key: &str, token: FencingToken, value: u64) {
        let mut state = self.state();
        let register = &mut state.keys.entry(key.to_owned()).or_default().register;
        if register.mark.is_some_and(|mark| token < mark) {
            state.tally.refused += 1;
            return;
        }
        register.mark = Some(token);
        register.value = value;
        register.accepted += 1;
        if register.value != register.accepted {
            let what =
                format!("fence: {key:?} has lost an update: {} of {}", register.value, register.accepted);
            Self::accuse(&mut state, what);
        }
    }

    /// Looks for claims in the lines that must not be there.
    pub(super) async fn inspect(&self, engine: &Memory) {
        for key in self.known_keys() {
            let Ok(line) = engine.inspect(&key).await else { continue };
            let mut state = self.state();
            let ghost = line
                .places
                .iter()
                .find(|place| state.withdrawn.contains(&place.claim))
                .map(|place| place.claim);
            if let Some(ghost) = ghost.filter(|_| self.judges_exclusion) {
                Self::accuse(
                    &mut state,
                    format!("ghosts: claim {ghost} is in the line of {key} after its withdrawal"),
                );
            }
        }
    }

    pub(super) async fn lines_are_empty(&self, engine: &Memory) -> Result<(), String> {
        for key in self.known_keys() {
            match engine.inspect(&key).await {
                Ok(line) if line.places.is_empty() => {}
                Ok(line) => return Err(format!("leaks: {key} still has {:?}", line.places)),
                Err(error) => return Err(format!("leaks: cannot look at {key}: {error}")),
            }
        }
        Ok(())
    }

    fn known_keys(&self) -> Vec<Key> {
        self.state().keys.keys().filter_map(|key| Key::new(key).ok()).collect()
    }
}
