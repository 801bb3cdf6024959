//! A majority of nodes keeps its guarantees, and the errors that break them are found.

use tenure_models::quorum::{EXCLUSIVE, Mutant, Quorum, RISING, UNBROKEN};
use tenure_models::{search, shortest};

fn caught(quorum: Quorum, mutant: Mutant, invariant: &'static str, steps: usize) {
    let run = shortest(&quorum.with(mutant), invariant);
    assert_eq!(run.as_ref().map(Vec::len), Some(steps), "{run:?}");
}

#[test]
fn c060_holders_of_a_majority_exclude_each_other_and_their_tokens_rise() {
    let outcome = search(&Quorum::new(4, 2, 1));
    assert!(outcome.is_clean(), "{outcome:?}");
    assert!(outcome.states > 200_000, "{outcome:?}");
}

#[test]
fn c060_tokens_of_readers_of_a_majority_are_unique_and_rise() {
    let outcome = search(&Quorum::new(2, 2, 1).shared());
    assert!(outcome.is_clean(), "{outcome:?}");
    assert!(outcome.states > 500_000, "{outcome:?}");
}

#[test]
fn c061_a_hold_that_a_majority_has_lost_is_not_renewed_although_nodes_are_flushed() {
    let outcome = search(&Quorum::new(3, 2, 0).with_flushes(1));
    assert!(outcome.is_clean(), "{outcome:?}");
    assert!(outcome.states > 50_000, "{outcome:?}");
}

#[test]
fn c060_the_mutant_that_does_not_write_its_token_back_is_caught() {
    caught(Quorum::new(3, 2, 0), Mutant::NoWriteBack, RISING, 12);
}

#[test]
fn c060_the_mutant_that_writes_back_below_what_a_node_has_given_is_caught() {
    caught(Quorum::new(2, 2, 0).shared(), Mutant::BlindWriteBack, RISING, 14);
}

#[test]
fn c058_c060_the_mutant_that_counts_an_amnesic_node_is_caught() {
    caught(Quorum::new(3, 2, 1), Mutant::AmnesicNode, EXCLUSIVE, 15);
    caught(Quorum::new(3, 2, 1), Mutant::AmnesicNode, RISING, 15);
}

#[test]
fn c061_the_mutant_that_regains_a_lost_hold_by_renewing_is_caught() {
    caught(Quorum::new(3, 2, 0).with_flushes(1), Mutant::RegainByRenewing, UNBROKEN, 9);
}
