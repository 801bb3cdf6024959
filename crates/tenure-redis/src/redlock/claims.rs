//! What is known of the claims of this process: their verbs are one after the other, whoever asks.
//!
//! A claim has contenders on two lanes. Each round of one lane must be over before the next begins, or one could take
//! back at a node what the other has just counted.
//!
//! # Invariants
//! 1. At most one round of a claim is under way.
//! 2. A node that has not answered an attempt is remembered until it has answered something later, or a term has
//!    passed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tenure_core::ClaimId;

use super::tally::Vote;

/// The claims that somebody speaks for.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<HashMap<ClaimId, Weak<Course>>>);

/// The course of one claim.
#[derive(Debug)]
pub(crate) struct Course {
    claim: ClaimId,
    claims: Arc<Claims>,
    /// Held for the length of a round.
    pub(crate) state: tokio::sync::Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// At which nodes an attempt may be under way still.
    pub(crate) strays: Vec<bool>,
    /// Whether it was withdrawn since its last attempt.
    pub(crate) left: bool,
    /// Whether somebody sees to it that the strays are remembered.
    pub(crate) lingers: bool,
}

impl Claims {
    /// The course of a claim, with so many nodes.
    pub(crate) fn course(self: &Arc<Self>, claim: ClaimId, nodes: usize) -> Arc<Course> {
        let mut known = self.lock();
        if let Some(course) = known.get(&claim).and_then(Weak::upgrade) {
            return course;
        }
        let state = State { strays: vec![false; nodes], left: false, lingers: false };
        let course =
            Arc::new(Course { claim, claims: Arc::clone(self), state: tokio::sync::Mutex::new(state) });
        known.insert(claim, Arc::downgrade(&course));
        course
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClaimId, Weak<Course>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        let mut known = self.claims.lock();
        // Another course of the same claim may have begun already.
        if known.get(&self.claim).is_some_and(|course| course.strong_count() == 0) {
            known.remove(&self.claim);
        }
    }
}

impl State {
    /// Remembers who has answered an attempt.
    pub(crate) fn heard<T>(&mut self, votes: &[Vote<T>]) {
        for (stray, vote) in self.strays.iter_mut().zip(votes) {
            match vote {
                Vote::Said { .. } => *stray = false,
                Vote::Failed(_) => *stray |= vote.is_unknown(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_core::engine::{Effect, EngineError, EngineErrorKind, Retry};

    #[test]
    fn contenders_of_one_claim_share_its_course_and_leave_nothing() {
        let claims = Arc::new(Claims::default());
        let (one, two) = (ClaimId::from_bits(1), ClaimId::from_bits(2));
        let first = claims.course(one, 3);
        assert!(Arc::ptr_eq(&first, &claims.course(one, 3)));
        let second = claims.course(two, 3);
        assert_eq!(claims.len(), 2);
        drop((first, second));
        assert_eq!(claims.len(), 0);
    }

    #[test]
    fn a_node_that_was_silent_is_remembered_until_it_answers() {
        let silent = || {
            Vote::Failed(EngineError::new(EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth, ""))
        };
        let refused =
            || Vote::Failed(EngineError::new(EngineErrorKind::Unreachable, Effect::None, Retry::Worth, ""));
        let said = || Vote::Said { what: (), counts: true };
        let mut state = State { strays: vec![false; 3], left: false, lingers: false };
        state.heard(&[said(), silent(), refused()]);
        assert_eq!(state.strays, [false, true, false]);
        state.heard(&[silent(), refused(), said()]);
        assert_eq!(state.strays, [true, true, false]);
        state.heard(&[said(), said(), said()]);
        assert_eq!(state.strays, [false; 3]);
    }
}
