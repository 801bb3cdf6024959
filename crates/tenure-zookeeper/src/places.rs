//! The claims that this process has at the ensemble, and those that must not come back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_core::{Claim, ClaimId};

use crate::place::Place;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    places: HashMap<ClaimId, Arc<Place>>,
    /// Those that are gone for good, and for how long that must be remembered; in the order in which they went.
    graves: VecDeque<(Moment, ClaimId)>,
}

impl Places {
    pub(crate) fn find(&self, claim: ClaimId) -> Option<Arc<Place>> {
        self.known().places.get(&claim).cloned()
    }

    pub(crate) fn enter(&self, claim: &Claim) -> Arc<Place> {
        let mut known = self.known();
        let place = known.places.entry(claim.id).or_insert_with(|| Arc::new(Place::new(claim.clone())));
        Arc::clone(place)
    }

    /// Forgets a claim of which nothing is left.
    pub(crate) fn forget(&self, claim: ClaimId) {
        self.known().places.remove(&claim);
    }

    /// Remembers for so long that a claim is gone for good, and forgets those for which that was long enough. A claim
    /// is buried once.
    pub(crate) fn bury(&self, claim: ClaimId, term: Duration) {
        let now = SystemClock.now();
        let mut known = self.known();
        known.graves.push_back((now.after(term), claim));
        while let Some((_, claim)) = known.graves.front().copied().filter(|(until, _)| now.reached(*until)) {
            known.graves.pop_front();
            known.places.remove(&claim);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
