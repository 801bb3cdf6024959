//! The network between a worker inside this process and the engine in memory.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_core::engine::distant::{self, Fate};

/// After how long a client takes a request for lost.
const TIMEOUT_MS: std::ops::Range<u64> = 100..3_000;

/// How bad the network of one worker is.
#[derive(Debug)]
pub(crate) struct Weather(Mutex<State>);

#[derive(Debug)]
struct State {
    dice: StdRng,
    bad: Bad,
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
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(State { dice: StdRng::seed_from_u64(seed), bad: Bad::Nothing }))
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
        match state.bad {
            Bad::Nothing => Fate { arrives, again: None, answered, timeout },
            Bad::Cut => Fate { arrives: None, again: None, answered: None, timeout },
            Bad::Late(max) => {
                let late = max.mul_f64(state.dice.random());
                match state.dice.random_range(0..4) {
                    0 => Fate { arrives: Some(late), again: None, answered, timeout },
                    1 => Fate { arrives, again: None, answered: Some(late), timeout },
                    2 => Fate { arrives, again: Some(late), answered, timeout },
                    _ => Fate { arrives, again: None, answered, timeout },
                }
            }
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
