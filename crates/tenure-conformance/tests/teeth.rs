//! The suite notices engines that break a rule. What breaks the keeper's rules is caught by simulation.

use tenure_conformance::try_on_memory;
use tenure_core::flaw::{Flaw, with_flaw};

/// The trial passes on the sound engine and fails on the flawed one.
fn catches(trial: &str, flaw: Flaw) {
    assert_eq!(try_on_memory(trial), Ok(()));
    let caught = with_flaw(Some(flaw), || try_on_memory(trial));
    assert!(caught.is_err(), "{trial} does not notice {flaw:?}");
}

#[test]
fn a_release_by_name_is_caught() {
    catches("rule_1_a_release_never_hits_somebody_else_c031_c032", Flaw::ReleaseByName);
}

#[test]
fn places_that_never_expire_are_caught() {
    catches("rule_3_an_offer_nobody_confirms_lapses_after_the_claim_window_c106", Flaw::ImmortalPlaces);
}

#[test]
fn a_renewal_that_recreates_is_caught() {
    catches("rule_4_renewal_never_creates_c010", Flaw::RenewalThatRecreates);
}

#[test]
fn a_withdrawal_without_tombstone_is_caught() {
    catches("rule_5_a_tombstone_refuses_a_late_attempt_c029", Flaw::NoTombstone);
}

#[test]
fn a_token_that_is_only_a_counter_is_caught() {
    catches("rule_6_tokens_rise_although_everything_was_forgotten_c049", Flaw::CounterOnlyToken);
}
