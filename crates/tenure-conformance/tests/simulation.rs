//! The simulation keeps every promise, and notices each planted flaw.
//!
//! Run fresh seeds with `cargo xtask sim --seeds 100000 --from N`; a seed that fails joins [`REMEMBERED`].

use tenure_conformance::simulation::{self, Tally};
use tenure_core::flaw::Flaw;

/// Seeds that have failed once, each with what it found.
const REMEMBERED: &[u64] = &[];

/// How many seeds are tried for each flaw.
const SEEDS_PER_FLAW: u64 = 3_000;

fn caught_by(flaw: Flaw, promise: &str) {
    let caught = (0..SEEDS_PER_FLAW).filter_map(|seed| simulation::run(seed, Some(flaw)).err());
    let mut others = Vec::new();
    for violation in caught {
        if violation.what.starts_with(promise) {
            println!("{flaw:?} is caught by {violation}");
            return;
        }
        others.push(violation);
    }
    panic!("{flaw:?} is not caught as a breach of {promise:?}; other breaches: {others:?}");
}

#[test]
fn fixed_seeds_keep_every_promise() {
    let mut total = Tally::default();
    for seed in REMEMBERED.iter().copied().chain(0..2_000) {
        match simulation::run(seed, None) {
            Ok(tally) => total = total.and(tally),
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("{total:?}");
    // A storm in which nothing happens would prove nothing.
    assert!(total.grants > 20_000 && total.faults > 20_000 && total.disasters > 5_000, "{total:?}");
    assert!(total.losses > 1_000 && total.refused > 20, "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..50 {
        assert_eq!(simulation::run(seed, None), simulation::run(seed, None));
    }
}

#[test]
fn the_mutant_that_counts_validity_from_the_reply_is_caught() {
    caught_by(Flaw::ValidityFromReply, "exclusion");
}

#[test]
fn the_mutant_without_a_timer_while_it_renews_is_caught() {
    caught_by(Flaw::NoTimerWhileRenewing, "signal");
}

#[test]
fn the_mutant_whose_renewal_recreates_is_caught() {
    caught_by(Flaw::RenewalThatRecreates, "ghosts");
}

#[test]
fn the_mutant_that_releases_by_name_is_caught() {
    caught_by(Flaw::ReleaseByName, "exclusion");
}

#[test]
fn the_mutant_without_a_tombstone_is_caught() {
    caught_by(Flaw::NoTombstone, "ghosts");
}

#[test]
fn the_mutant_whose_places_never_expire_is_caught() {
    caught_by(Flaw::ImmortalPlaces, "progress");
}

#[test]
fn the_mutant_that_takes_a_wake_for_a_grant_is_caught() {
    caught_by(Flaw::WakeWithoutRecheck, "exclusion");
}

#[test]
fn the_mutant_whose_token_is_only_a_counter_is_caught() {
    caught_by(Flaw::CounterOnlyToken, "tokens");
}
