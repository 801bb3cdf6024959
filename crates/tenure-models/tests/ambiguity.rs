//! Withdrawal keeps its guarantees, and the errors that break them are found.

use tenure_models::ambiguity::{Ambiguity, Mutant, NO_FOREIGN_RELEASE, NO_GHOST, ONE_PLACE};
use tenure_models::{search, shortest};

fn caught(mutant: Mutant, invariant: &'static str, steps: usize) {
    let run = shortest(&Ambiguity::new(2, 1, 1).with(mutant), invariant);
    assert_eq!(run.as_ref().map(Vec::len), Some(steps), "{run:?}");
}

#[test]
fn after_an_answered_withdrawal_the_claim_never_holds_again() {
    let outcome = search(&Ambiguity::new(2, 1, 1));
    assert!(outcome.is_clean(), "{outcome:?}");
    assert!(outcome.states > 200_000, "{outcome:?}");
}

#[test]
fn the_mutant_without_tombstone_is_caught() {
    caught(Mutant::NoTombstone, NO_GHOST, 5);
}

#[test]
fn the_mutant_whose_tombstone_dies_with_the_last_message_is_caught() {
    caught(Mutant::ShortTombstone, NO_GHOST, 6);
}

#[test]
fn the_mutant_that_releases_by_name_is_caught() {
    caught(Mutant::ReleaseByName, NO_FOREIGN_RELEASE, 6);
}

#[test]
fn the_mutant_that_joins_again_at_each_attempt_is_caught() {
    caught(Mutant::SecondPlace, ONE_PLACE, 3);
    caught(Mutant::SecondPlace, NO_GHOST, 6);
}

#[test]
fn the_mutant_that_takes_any_reply_for_its_own_is_caught() {
    caught(Mutant::NamelessReply, NO_GHOST, 4);
}
