//! The network between a worker inside this process and the engine in memory.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_core::engine::distant::{self, Fate};

/// After how long a client takes a request for lost.
const TIMEOUT_MS: std::ops::Range<u64> = 100..3_000;

/// The share of messages that a rough network has late.
const ROUGH_SHARE: f64 = 0.2;

/// How bad the network of one worker is.
#[derive(Debug)]
pub(crate) struct Weather(Mutex<State>);

#[derive(Debug)]
struct State {
    dice: StdRng,
    bad: Bad,
    /// By how much some messages are late even when nothing is wrong.
    rough: Option<Duration>,
}

/// What is wrong with a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Nothing.
    Nothing,
    /// Nothing passes.
    Cut,
    /// Requests and replies are late, by up to so much.
    Late(Duration),
}

impl Weather {
    pub(crate) fn new(seed: u64, rough: Option<Duration>) -> Self {
        Self(Mutex::new(State { dice: StdRng::seed_from_u64(seed), bad: Bad::Nothing, rough }))
    }

    pub(crate) fn turn(&self, bad: Bad) {
        self.state().bad = bad;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl distant::Weather for Weather {
    fn fate(&self) -> Fate {
        let mut state = self.state();
        let timeout = Duration::from_millis(state.dice.random_range(TIMEOUT_MS));
        let quick = |dice: &mut StdRng| Some(Duration::from_micros(dice.random_range(20..500)));
        let (arrives, answered) = (quick(&mut state.dice), quick(&mut state.dice));
        let usual = Fate { arrives, again: None, answered, timeout };
        let max = match state.bad {
            Bad::Cut => return Fate { arrives: None, answered: None, ..usual },
            Bad::Late(max) => Some(max),
            Bad::Nothing => state.rough.filter(|_| state.dice.random_bool(ROUGH_SHARE)),
        };
        let Some(max) = max else { return usual };
        let late = Some(max.mul_f64(state.dice.random()));
        match state.dice.random_range(0..3) {
            0 => Fate { arrives: late, ..usual },
            1 => Fate { answered: late, ..usual },
            _ => Fate { again: late, ..usual },
        }
    }

    fn loses_wake(&self) -> bool {
        let mut state = self.state();
        match state.bad {
            Bad::Nothing => false,
            Bad::Cut => true,
            Bad::Late(_) => state.dice.random_bool(0.2),
        }
    }
}
