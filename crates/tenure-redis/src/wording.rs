//! What verbs say to their scripts besides the claim: words, which claims of one kind often have in common.

use tenure_core::engine::{Stray, answers};
use tenure_core::{Claim, FencingToken, IfBusy};

/// What an attempt says, whose grant is to come to this connection.
pub(crate) fn attempt(claim: &Claim, connection: u64, card: &str) -> String {
    let how = match claim.if_busy {
        IfBusy::Join => "join",
        IfBusy::Leave => "leave",
    };
    let ((mode, limit), term) = (answers::mode_words(claim.mode), term(claim));
    let (spare, floor) = (claim.spare_tokens, floor(claim));
    format!("{how} {mode} {limit} {term} {spare} {floor} {connection:016x} {card}")
}

/// What a renewal says.
pub(crate) fn renewal(claim: &Claim) -> String {
    term(claim).to_string()
}

/// What a fresh stamp says.
pub(crate) fn restamp(claim: &Claim) -> String {
    format!("{} {}", claim.spare_tokens, floor(claim))
}

/// What a withdrawal says.
pub(crate) fn withdrawal(claim: &Claim, stray: Stray) -> String {
    let stray = match stray {
        Stray::Possible => "possible",
        Stray::Impossible => "impossible",
    };
    format!("{stray} {}", term(claim))
}

fn term(claim: &Claim) -> u128 {
    answers::term(claim).as_micros()
}

fn floor(claim: &Claim) -> u64 {
    claim.floor.map_or(0, FencingToken::get)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tenure_conformance::tools::claim as a_claim;

    use super::*;
    use crate::names;

    #[test]
    fn no_words_of_a_verb_for_many_are_as_long_as_a_claim() {
        let mut claim = a_claim("k");
        assert_eq!(names::mine(claim.id).len(), names::MINE);
        for bits in 0..64 {
            claim.quarantine = Duration::from_micros(1 << bits);
            let leaving = [Stray::Possible, Stray::Impossible].map(|stray| withdrawal(&claim, stray));
            for words in leaving.into_iter().chain([renewal(&claim)]) {
                assert!(words.len() < names::MINE, "{words}");
            }
        }
        // The shortest attempt: all else that it may say is longer.
        claim.quarantine = Duration::ZERO;
        let shortest = attempt(&claim, 0, &format!("{:016x}", 0));
        assert!(shortest.starts_with("join x 0 ") && shortest.len() > names::MINE, "{shortest}");
    }
}
