//! What the claims, holds and tasks of one client share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::engine::{DynEngine, Facts};
use crate::event::{Event, Observer, What};
use crate::keeper::Keeper;
use crate::lease::Clock;
use crate::{Claim, ClaimId, FencingToken, Identity, Key};

/// How far ahead of our wall clock a token may be and still raise the floor.
const DAY_MICROS: u64 = 24 * 3600 * 1_000_000;

/// What the claims, holds and the keeper of one client share.
pub(crate) struct Shared {
    pub(crate) engine: Box<dyn DynEngine>,
    pub(crate) facts: Facts,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) identity: Arc<Identity>,
    observer: Option<Arc<dyn Observer>>,
    dice: Mutex<StdRng>,
    /// Where this client's grid of renewals lies, as a share of its step: those of other clients lie elsewhere.
    pub(crate) phase: f64,
    /// The highest token that this client has seen, of any key: an engine that lost its state starts above it.
    floor: AtomicU64,
}

/// An observer that panics must not take a keeper or a destructor with it; the panic hook has told of it.
fn tell(observer: &dyn Observer, event: Event) {
    drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| observer.observe(&event))));
}

impl Shared {
    pub(crate) fn new(
        engine: Box<dyn DynEngine>,
        clock: Arc<dyn Clock>,
        identity: Arc<Identity>,
        observer: Option<Arc<dyn Observer>>,
        seed: Option<u64>,
    ) -> Self {
        let mut dice = match seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        };
        Self {
            facts: engine.facts(),
            engine,
            keeper: Arc::new(Keeper::new(Arc::clone(&clock))),
            clock,
            identity,
            observer,
            phase: dice.random(),
            dice: Mutex::new(dice),
            floor: AtomicU64::new(0),
        }
    }

    /// Whether anybody hears the events: what only they need is not worked out otherwise.
    pub(crate) fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    pub(crate) fn emit(&self, claim: &Claim, what: What) {
        if let Some(observer) = &self.observer {
            tell(&**observer, Event { key: claim.key.clone(), claim: Some(claim.id), what });
        }
    }

    /// Tells of a caller that gave up, whose claim was that of its cohort or none.
    pub(crate) fn emit_gave_up(&self, key: &Key, waited: Duration) {
        if let Some(observer) = &self.observer {
            tell(&**observer, Event { key: key.clone(), claim: None, what: What::GaveUp { waited } });
        }
    }

    pub(crate) fn new_claim_id(&self) -> ClaimId {
        ClaimId::from_bits(self.dice.lock().unwrap_or_else(PoisonError::into_inner).random())
    }

    /// Between half and one and a half of a duration, so that many do not come at once.
    pub(crate) fn jitter(&self, around: Duration) -> Duration {
        let share: f64 = self.dice.lock().unwrap_or_else(PoisonError::into_inner).random();
        around.mul_f64(0.5 + share)
    }

    pub(crate) fn floor(&self) -> Option<FencingToken> {
        FencingToken::new(self.floor.load(Ordering::Acquire))
    }

    pub(crate) fn saw(&self, token: FencingToken) {
        // A token far ahead of any clock is damaged or forged; believing it would use up the range for every key.
        let horizon = self.clock.wall_micros().saturating_add(DAY_MICROS);
        if token.get() <= horizon {
            self.floor.fetch_max(token.get(), Ordering::AcqRel);
        }
    }
}
