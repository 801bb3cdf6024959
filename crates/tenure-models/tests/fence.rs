//! Fencing keeps its guarantees, and the errors that break them are found.

use tenure_models::fence::{Fence, Mutant, NO_LOST_UPDATE, OWN_RISING, RISING};
use tenure_models::{search, shortest};

fn failover() -> Fence {
    Fence::new(6, 4, 1)
}

fn caught(fence: Fence, mutant: Mutant, invariant: &'static str, steps: usize) {
    let run = shortest(&fence.with(mutant), invariant);
    assert_eq!(run.as_ref().map(Vec::len), Some(steps), "{run:?}");
}

#[test]
fn tokens_rise_and_no_update_is_lost_across_a_failover() {
    let outcome = search(&failover());
    assert!(outcome.is_clean(), "{outcome:?}");
    assert!(outcome.states > 100_000, "{outcome:?}");
}

#[test]
fn each_clients_tokens_rise_across_a_restore() {
    let outcome = search(&failover().with_restores());
    assert!(outcome.is_clean(), "{outcome:?}");
    assert!(outcome.states > 300_000, "{outcome:?}");
}

#[test]
fn the_mutant_with_a_mere_counter_is_caught() {
    caught(failover(), Mutant::CounterOnly, RISING, 3);
    caught(failover(), Mutant::CounterOnly, NO_LOST_UPDATE, 9);
}

#[test]
fn the_mutant_with_a_mere_clock_is_caught() {
    caught(failover(), Mutant::ClockOnly, RISING, 3);
}

#[test]
fn the_mutant_that_ignores_what_the_client_has_seen_is_caught() {
    caught(failover().with_restores(), Mutant::NoFloor, OWN_RISING, 4);
}

#[test]
fn the_mutant_whose_tokens_run_ahead_of_the_clock_is_caught() {
    caught(failover(), Mutant::RunAhead, RISING, 7);
}

#[test]
fn the_mutant_that_excuses_the_floor_from_the_clock_is_caught() {
    caught(failover(), Mutant::ExcusedFloor, RISING, 7);
}

#[test]
fn the_mutant_without_fence_in_is_caught() {
    caught(failover(), Mutant::NoFenceIn, NO_LOST_UPDATE, 9);
}

#[test]
fn the_mutant_without_a_gate_is_caught() {
    caught(failover(), Mutant::NoGate, NO_LOST_UPDATE, 9);
}
