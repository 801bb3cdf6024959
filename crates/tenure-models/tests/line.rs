//! The line keeps its guarantees, and the errors that break them are found.

use tenure_models::line::Mode::{Exclusive, Permit, Shared};
use tenure_models::line::{BACKED, COMPATIBLE, IN_ORDER, Line, Mutant, NEVER_STUCK};
use tenure_models::{search, shortest};

/// Two that exclude each other, each with two claims; one client may die.
fn pair() -> Line<2> {
    Line::new([Exclusive; 2], 2, 1)
}

fn clean<const N: usize>(line: &Line<N>, states: usize) {
    let outcome = search(line);
    assert!(outcome.is_clean(), "{outcome:?}");
    assert!(outcome.states > states, "{outcome:?}");
}

fn caught<const N: usize>(line: &Line<N>, invariant: &'static str, steps: usize) {
    let run = shortest(line, invariant);
    assert_eq!(run.as_ref().map(Vec::len), Some(steps), "{run:?}");
}

#[test]
fn the_clean_line_never_has_two_valid_holders_and_never_gets_stuck() {
    clean(&pair(), 150_000);
}

#[test]
fn readers_share_and_a_writer_is_alone_in_its_turn() {
    clean(&Line::new([Shared, Exclusive, Shared], 1, 0).until(2), 500_000);
}

#[test]
fn no_more_permits_are_valid_than_the_limit() {
    clean(&Line::new([Permit(2); 3], 1, 0).until(2), 100_000);
}

#[test]
fn the_mutant_that_counts_validity_from_the_wake_is_caught() {
    caught(&pair().with(Mutant::ValidFromWake), COMPATIBLE, 12);
    caught(&pair().with(Mutant::ValidFromWake), BACKED, 9);
}

#[test]
fn the_mutant_that_trusts_a_wake_for_an_earlier_place_is_caught() {
    caught(&pair().with(Mutant::TrustedWake), COMPATIBLE, 15);
}

#[test]
fn the_mutant_that_waits_for_a_wake_without_looking_again_is_caught() {
    caught(&pair().with(Mutant::NoRecheck), NEVER_STUCK, 3);
}

#[test]
fn the_mutant_without_a_claim_window_is_caught() {
    caught(&pair().with(Mutant::NoClaimWindow), NEVER_STUCK, 8);
}

#[test]
fn a_dead_waiters_place_that_never_expires_costs_its_claim_window_and_no_more() {
    let outcome = search(&pair().with(Mutant::ImmortalPlace));
    assert!(outcome.broken.is_empty(), "{outcome:?}");
}

#[test]
fn the_mutant_in_which_readers_overtake_a_writer_is_caught() {
    caught(&Line::new([Shared, Exclusive, Shared], 1, 0).with(Mutant::Barging), IN_ORDER, 6);
}
