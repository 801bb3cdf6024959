//! Lease arithmetic keeps its guarantees, and the errors that break them are found.

use tenure_models::lease::{BACKED, Lease, Mutant, NO_OVERLAP, NO_REVIVAL};
use tenure_models::{search, shortest};

fn caught(mutant: Mutant, invariant: &'static str, steps: usize) {
    let run = shortest(&Lease::new(4).with(mutant), invariant);
    assert_eq!(run.as_ref().map(Vec::len), Some(steps), "{run:?}");
}

#[test]
fn intervals_of_validity_never_overlap() {
    let outcome = search(&Lease::new(4));
    assert!(outcome.is_clean(), "{outcome:?}");
    assert!(outcome.states > 50_000, "{outcome:?}");
}

#[test]
fn the_mutant_that_counts_validity_from_the_reply_is_caught() {
    caught(Mutant::FromReply, NO_OVERLAP, 10);
}

#[test]
fn the_mutant_without_a_timer_of_its_own_is_caught() {
    caught(Mutant::NoTimer, NO_OVERLAP, 11);
    caught(Mutant::NoTimer, BACKED, 8);
}

#[test]
fn the_mutant_whose_renewal_creates_is_caught() {
    caught(Mutant::RenewalCreates, NO_REVIVAL, 7);
}

#[test]
fn the_mutant_without_a_margin_is_caught() {
    caught(Mutant::NoMargin, NO_OVERLAP, 10);
}

#[test]
fn the_mutant_whose_clock_sleeps_with_the_machine_is_caught() {
    caught(Mutant::SleepingClock, NO_OVERLAP, 10);
}
