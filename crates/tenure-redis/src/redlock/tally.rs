//! Counting answers: what a majority says, and when it is decided.
//!
//! # Invariants
//! 1. Any two quorums have a node in common.
//! 2. Only nodes that count are counted *for* something. A node that has started recently, or whose answer did not
//!    come, is never counted for, and never counted as certainly against.

use std::time::Duration;

use tenure_core::engine::{Effect, EngineError, EngineErrorKind, Gone, Retry, Withdrawn};

/// What one node said.
#[derive(Debug)]
pub(crate) enum Vote<T> {
    /// An answer, and whether the node counts.
    Said { what: T, counts: bool },
    /// No answer.
    Failed(EngineError),
}

impl<T> Vote<T> {
    /// What was said, by a node that counts or not.
    pub(crate) fn said(&self) -> Option<&T> {
        match self {
            Self::Said { what, .. } => Some(what),
            Self::Failed(_) => None,
        }
    }

    /// What was said by a node that counts.
    pub(crate) fn counted(&self) -> Option<&T> {
        match self {
            Self::Said { what, counts: true } => Some(what),
            _ => None,
        }
    }

    /// Whether the request may be under way still.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Failed(error) if error.effect() == Effect::Unknown)
    }
}

/// How many of `nodes` are a majority.
pub(crate) fn quorum(nodes: usize) -> usize {
    nodes / 2 + 1
}

/// How long one node is waited for while nothing is decided: a small part of the TTL, but long enough for a busy
/// machine to answer. What comes too late to be worth having is refused above, by the clock.
pub(crate) fn patience(ttl: Duration, answers_within: Duration) -> Duration {
    const FLOOR: Duration = Duration::from_millis(500);
    (ttl / 20).clamp(FLOOR, answers_within.max(FLOOR))
}

/// Why too few nodes have answered: the trouble that most of them have, and who has which.
pub(crate) fn too_few<T>(votes: &[Vote<T>], addresses: &[String]) -> EngineError {
    let failed = votes.iter().zip(addresses).filter_map(|(vote, address)| match vote {
        Vote::Failed(error) => Some((error, address)),
        Vote::Said { .. } => None,
    });
    let failed: Vec<_> = failed.collect();
    let (kind, retry) = match failed.first() {
        // All say the same, and it will not pass: that is what the caller must hear.
        Some((first, _)) if failed.iter().all(|(error, _)| error.kind() == first.kind()) => {
            let useless = failed.len() >= quorum(votes.len())
                && failed.iter().all(|(error, _)| error.retry() == Retry::Useless);
            (first.kind(), if useless { Retry::Useless } else { Retry::Worth })
        }
        _ => (EngineErrorKind::Unreachable, Retry::Worth),
    };
    let certain =
        votes.iter().all(|vote| matches!(vote, Vote::Failed(error) if error.effect() == Effect::None));
    let effect = if certain { Effect::None } else { Effect::Unknown };
    let young = votes.iter().filter(|vote| matches!(vote, Vote::Said { counts: false, .. })).count();
    let mut why: Vec<_> = failed.iter().map(|(error, address)| format!("{address}: {error}")).collect();
    if young > 0 {
        why.push(format!(
            "{young} started less than the longest TTL ago and may have forgotten locks: they count when it has \
             passed, or with allow=young in the URL"
        ));
    }
    let (counted, nodes) = (votes.iter().filter(|vote| vote.counted().is_some()).count(), votes.len());
    let message = format!("only {counted} of {nodes} nodes count now ({})", why.join("; "));
    EngineError::new(kind, effect, retry, message)
}

/// Why a claim is gone, from all who say that it is: an operator's word goes before the client's, and both before
/// that of a node that has never heard of it.
pub(crate) fn worst(reasons: impl IntoIterator<Item = Gone>) -> Gone {
    reasons.into_iter().fold(Gone::Absent, |worst, gone| match (worst, gone) {
        (Gone::Evicted, _) | (_, Gone::Evicted) => Gone::Evicted,
        (Gone::Withdrawn, _) | (_, Gone::Withdrawn) => Gone::Withdrawn,
        _ => Gone::Absent,
    })
}

/// What a withdrawal found: a hold if a majority may have had it, else a wait if anybody had a place.
pub(crate) fn withdrawn(votes: &[Vote<Withdrawn>]) -> Withdrawn {
    let count = |what| votes.iter().filter(|vote| vote.said() == Some(&what)).count();
    let (held, waited) = (count(Withdrawn::Held), count(Withdrawn::Waited));
    let silent = votes.iter().filter(|vote| vote.said().is_none()).count();
    if held > 0 && held + silent >= quorum(votes.len()) {
        Withdrawn::Held
    } else if held + waited > 0 {
        Withdrawn::Waited
    } else {
        Withdrawn::Absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<T>(what: T) -> Vote<T> {
        Vote::Said { what, counts: true }
    }

    fn failed<T>(effect: Effect) -> Vote<T> {
        Vote::Failed(EngineError::new(EngineErrorKind::Unreachable, effect, Retry::Worth, "away"))
    }

    #[test]
    fn any_two_quorums_have_a_node_in_common() {
        for nodes in [3, 5, 7, 9] {
            assert!(2 * quorum(nodes) > nodes && quorum(nodes) < nodes);
        }
    }

    #[test]
    fn a_node_is_waited_for_a_small_part_of_the_ttl() {
        let second = Duration::from_secs(1);
        assert_eq!(patience(second * 16, second), second * 4 / 5);
        assert_eq!(patience(second / 20, second), second / 2);
        assert_eq!(patience(second * 3600, second), second);
    }

    #[test]
    fn a_hold_is_withdrawn_when_a_majority_may_have_had_it() {
        use Withdrawn::{Absent, Held, Waited};
        let silent = || failed(Effect::Unknown);
        assert_eq!(withdrawn(&[said(Held), said(Held), said(Absent)]), Held);
        assert_eq!(withdrawn(&[said(Held), silent(), said(Absent)]), Held);
        assert_eq!(withdrawn(&[said(Held), said(Waited), said(Waited)]), Waited);
        assert_eq!(withdrawn(&[said(Absent), said(Absent), silent()]), Absent);
    }

    #[test]
    fn a_failure_has_no_effect_only_when_no_node_can_have_applied_anything() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let none = too_few::<()>(&[failed(Effect::None), failed(Effect::None), failed(Effect::None)], &names);
        assert_eq!((none.effect(), none.retry()), (Effect::None, Retry::Worth));
        let some = too_few(&[failed(Effect::None), failed(Effect::None), said(())], &names);
        assert_eq!(some.effect(), Effect::Unknown);
        assert!(some.to_string().contains("1 of 3") && some.to_string().contains("a: away"), "{some}");
        let young = Vote::Said { what: (), counts: false };
        let young = too_few(&[young, failed(Effect::None), said(())], &names);
        assert!(young.to_string().contains("longest TTL"), "{young}");
    }

    #[test]
    fn an_operators_word_goes_before_all_others() {
        assert_eq!(worst([Gone::Absent, Gone::Evicted, Gone::Withdrawn]), Gone::Evicted);
        assert_eq!(worst([Gone::Absent, Gone::Withdrawn]), Gone::Withdrawn);
        assert_eq!(worst([]), Gone::Absent);
    }
}
