//! The network between a client and the engine: how bad it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_core::engine::distant::{self, Distant, Fate};
use tenure_core::engine::memory::Memory;
use tokio::time::Instant;

use super::DELAY_MAX;

/// After how long a client takes a request for lost: some soon, some only when a lease is long over.
const TIMEOUT_MS: std::ops::Range<u64> = 200..12_000;

/// The engine as one client reaches it.
pub(super) type Net = Distant<Memory, Weather>;

/// How bad the network is at the moment.
#[derive(Debug)]
pub(super) struct Weather {
    state: Mutex<State>,
    faults: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    dice: StdRng,
    cut_until: Option<Instant>,
    clear: bool,
}

impl Weather {
    pub(super) fn new(seed: u64, faults: Arc<AtomicU64>) -> Self {
        let state = State { dice: StdRng::seed_from_u64(seed), cut_until: None, clear: false };
        Self { state: Mutex::new(state), faults }
    }

    #[allow(clippy::disallowed_methods, reason = "simulated time is tokio's")]
    pub(super) fn cut(&self, time: Duration) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).cut_until = Some(Instant::now() + time);
    }

    pub(super) fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.cut_until = None;
        state.clear = true;
    }
}

impl distant::Weather for Weather {
    #[allow(clippy::disallowed_methods, reason = "simulated time is tokio's")]
    fn fate(&self) -> Fate {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let timeout = Duration::from_millis(state.dice.random_range(TIMEOUT_MS));
        let quick = |dice: &mut StdRng| Duration::from_micros(dice.random_range(50..2_000));
        let slow =
            |dice: &mut StdRng| Duration::from_millis(dice.random_range(1..DELAY_MAX.as_millis() as u64));
        if state.clear {
            let (arrives, answered) = (quick(&mut state.dice), quick(&mut state.dice));
            return Fate { arrives: Some(arrives), again: None, answered: Some(answered), timeout };
        }
        if state.cut_until.is_some_and(|until| until > Instant::now()) {
            self.faults.fetch_add(1, Ordering::Relaxed);
            return Fate { arrives: None, again: None, answered: None, timeout };
        }
        let dice = &mut state.dice;
        let mut fate = Fate { arrives: Some(quick(dice)), again: None, answered: Some(quick(dice)), timeout };
        match dice.random_range(0..100) {
            0..=3 => fate.arrives = None,
            4..=7 => fate.answered = None,
            8..=12 => fate.arrives = Some(slow(dice)),
            13..=17 => fate.answered = Some(slow(dice)),
            18..=22 => fate.again = Some(slow(dice)),
            _ => return fate,
        }
        self.faults.fetch_add(1, Ordering::Relaxed);
        fate
    }

    /// Whether a wake is lost.
    fn loses_wake(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = !state.clear && state.dice.random_bool(0.2);
        if lost {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
        lost
    }
}
