//! Rules 5 to 8 of the contract: withdrawals, tokens, effects and whose clock it is.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::future::join;
use tenure_core::engine::{
    Contender, Effect, Engine, EngineErrorKind, Gone, Grant, Liveness, Permits, Renewal, Restamp, Standing,
    Stray, Validity, Withdrawn,
};
use tenure_core::{FencingToken, Mode, Ttl};

use super::cases;
use super::rules_1_to_4::holding_tokens;
use crate::site::Site;
use crate::stage::Stage;
use crate::tools::{eventually, gone, granted, granted_at_last, holds, now, waits};

cases![
    rule_5_withdraw_is_legal_in_every_state,
    rule_5_withdraw_is_idempotent_c111[Permits],
    rule_5_two_withdrawals_at_once_are_one_c031,
    rule_5_a_tombstone_refuses_a_late_attempt_c029,
    rule_5_a_late_attempt_of_a_holder_is_refused_too_c029,
    rule_6_tokens_rise_over_all_grants_in_every_mode_c049,
    rule_6_tokens_rise_over_expiry_c049[Leases],
    rule_6_a_fresh_token_is_above_all_before_it,
    rule_6_spare_tokens_belong_to_the_grant,
    rule_6_a_renewal_keeps_the_token,
    rule_6_what_the_client_has_seen_is_a_floor_c050[Floor],
    rule_6_tokens_rise_although_everything_was_forgotten_c049[Forget],
    rule_7_a_refusal_without_effect_left_nothing,
    rule_8_deadlines_are_spans_of_the_engines_clock_c019[Leases],
    rule_8_the_term_includes_the_quarantine[Leases],
    rule_8_a_living_holder_is_not_robbed_by_age_c098[Lifetimes],
];

async fn rule_5_withdraw_is_legal_in_every_state<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    for stray in [Stray::Impossible, Stray::Possible] {
        let unsent = &mut engine.contend(stage.claim("k"));
        assert_eq!(unsent.withdraw(stray).await.unwrap(), Withdrawn::Absent);

        let (mut holder, mut waiter) = (engine.contend(stage.claim("k")), engine.contend(stage.claim("k")));
        granted(&mut holder).await;
        waits(&mut waiter).await;
        assert_eq!(waiter.withdraw(stray).await.unwrap(), Withdrawn::Waited);
        assert_eq!(holder.withdraw(stray).await.unwrap(), Withdrawn::Held);

        // Offered or only enabled, but never confirmed.
        let (mut holder, mut offered) = (engine.contend(stage.claim("k")), engine.contend(stage.claim("k")));
        granted(&mut holder).await;
        waits(&mut offered).await;
        holder.withdraw(stray).await.unwrap();
        assert_ne!(offered.withdraw(stray).await.unwrap(), Withdrawn::Absent);

        let claim = stage.claim("k");
        let mut evicted = engine.contend(claim.clone());
        granted(&mut evicted).await;
        engine.evict(&claim.key, claim.id).await.unwrap();
        assert_eq!(evicted.withdraw(stray).await.unwrap(), Withdrawn::Absent);
        assert!(stage.places("k").await.is_empty());
    }
}

async fn rule_5_withdraw_is_idempotent_c111<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let mode = Mode::Permit { limit: NonZeroU32::new(2).unwrap() };
    let permit = || {
        let mut claim = stage.claim("k");
        claim.mode = mode;
        engine.contend(claim)
    };
    let (mut a, mut b, mut c, mut d) = (permit(), permit(), permit(), permit());
    granted(&mut a).await;
    granted(&mut b).await;
    waits(&mut c).await;
    waits(&mut d).await;
    // A permit given back twice is one permit.
    assert_eq!(a.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    assert_eq!(a.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
    granted(&mut c).await;
    waits(&mut d).await;
    assert_eq!(holding_tokens(stage, "k").await.len(), 2);
    for mut contender in [b, c, d] {
        contender.withdraw(Stray::Impossible).await.unwrap();
    }
}

/// The keeper may say a withdrawal again while the caller's lane still says it.
async fn rule_5_two_withdrawals_at_once_are_one_c031<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    for _ in 0..5 {
        let (claim, mut next) = (stage.claim("k"), engine.contend(stage.claim("k")));
        let (mut one, mut two) = (engine.contend(claim.clone()), engine.contend(claim));
        granted(&mut one).await;
        let (first, second) = join(one.withdraw(Stray::Impossible), two.withdraw(Stray::Impossible)).await;
        first.unwrap();
        second.unwrap();
        granted(&mut next).await;
        assert_eq!(two.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
        assert!(holds(&mut next).await);
        next.withdraw(Stray::Impossible).await.unwrap();
    }
}

async fn rule_5_a_tombstone_refuses_a_late_attempt_c029<S: Site>(stage: &Stage<S>) {
    let (lane, keeper) = {
        let client = stage.client().await;
        (client.clone(), client)
    };
    let claim = stage.claim("k");
    // The attempt is still on its way when the claim is withdrawn on another connection.
    keeper.contend(claim.clone()).withdraw(Stray::Possible).await.unwrap();
    for _ in 0..3 {
        assert_eq!(gone(&mut lane.contend(claim.clone())).await, Gone::Withdrawn);
        assert!(stage.places("k").await.is_empty());
    }
    let mut next = lane.contend(stage.claim("k"));
    granted(&mut next).await;
    next.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_5_a_late_attempt_of_a_holder_is_refused_too_c029<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let (held, other) = (stage.claim("k"), stage.claim("k"));
    granted(&mut engine.contend(held.clone())).await;
    waits(&mut engine.contend(other.clone())).await;
    assert_eq!(engine.contend(other.clone()).withdraw(Stray::Possible).await.unwrap(), Withdrawn::Waited);
    assert_eq!(engine.contend(held.clone()).withdraw(Stray::Possible).await.unwrap(), Withdrawn::Held);
    for claim in [held, other] {
        let mut late = engine.contend(claim);
        assert_eq!(gone(&mut late).await, Gone::Withdrawn);
        assert_eq!(late.renew().await.unwrap(), Renewal::Gone(Gone::Withdrawn));
    }
    assert!(stage.places("k").await.is_empty());
}

async fn rule_6_tokens_rise_over_all_grants_in_every_mode_c049<S: Site>(stage: &Stage<S>) {
    let clients = [stage.client().await, stage.client().await];
    let mut last = None;
    for round in 0..60 {
        let mode = match round % 3 {
            1 => Mode::Shared,
            2 if stage.facts.permits == Permits::Kept => Mode::Permit { limit: NonZeroU32::new(3).unwrap() },
            _ => Mode::Exclusive,
        };
        let together = if mode == Mode::Exclusive { 1 } else { 3 };
        let mut holders = Vec::new();
        for n in 0..together {
            let mut claim = stage.claim("k");
            claim.mode = mode;
            claim.spare_tokens = round % 5;
            let mut holder = clients[n % 2].contend(claim);
            let block = granted(&mut holder).await.tokens;
            assert!(Some(block.first) > last, "{block:?} after {last:?}");
            last = Some(block.last());
            holders.push(holder);
        }
        for mut holder in holders {
            holder.withdraw(Stray::Impossible).await.unwrap();
        }
    }
    assert!(stage.line("k").await.last_token >= last);
}

async fn rule_6_tokens_rise_over_expiry_c049<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let mut last = None;
    for _ in 0..4 {
        let mut claim = stage.claim("k");
        claim.ttl = Ttl::MIN;
        let token = granted_at_last(&mut engine.contend(claim)).await.tokens.first;
        assert!(Some(token) > last);
        last = Some(token);
    }
}

async fn rule_6_a_fresh_token_is_above_all_before_it<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let mut claim = stage.claim("k");
    claim.spare_tokens = 4;
    let mut holder = engine.contend(claim);
    let mut last = granted(&mut holder).await.tokens.last();
    for _ in 0..3 {
        let Restamp::Fresh(fresh) = holder.restamp().await.unwrap() else { panic!("the hold stands") };
        assert!(fresh.first > last);
        assert_eq!(holding_tokens(stage, "k").await, [fresh.first]);
        last = fresh.last();
    }
    holder.withdraw(Stray::Impossible).await.unwrap();
    let mut next = engine.contend(stage.claim("k"));
    assert!(granted(&mut next).await.tokens.first > last);
    next.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_6_spare_tokens_belong_to_the_grant<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        let mut claim = stage.claim("k");
        claim.spare_tokens = 64;
        let mut holder = engine.contend(claim);
        let block = granted(&mut holder).await.tokens;
        assert!(block.spare <= 64);
        for token in block.first.get()..=block.last().get() {
            assert!(seen.insert(token), "token {token} was given twice");
        }
        holder.withdraw(Stray::Impossible).await.unwrap();
    }
}

async fn rule_6_a_renewal_keeps_the_token<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let mut holder = engine.contend(stage.claim("k"));
    let token = granted(&mut holder).await.tokens.first;
    for _ in 0..3 {
        assert!(holds(&mut holder).await);
        assert_eq!(granted(&mut holder).await.tokens.first, token);
        assert_eq!(holding_tokens(stage, "k").await, [token]);
    }
    holder.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_6_what_the_client_has_seen_is_a_floor_c050<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let mut holder = engine.contend(stage.claim("k"));
    let first = granted(&mut holder).await.tokens.first;
    holder.withdraw(Stray::Impossible).await.unwrap();
    // Another client has seen a higher token than the engine remembers.
    let mut claim = stage.claim("k");
    claim.floor = FencingToken::new(first.get() + 3_600_000_000);
    let mut informed = engine.contend(claim.clone());
    let second = granted(&mut informed).await.tokens.first;
    assert!(Some(second) > claim.floor);
    informed.withdraw(Stray::Impossible).await.unwrap();
    let mut unaware = engine.contend(stage.claim("k"));
    assert!(granted(&mut unaware).await.tokens.first > second);
    unaware.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_6_tokens_rise_although_everything_was_forgotten_c049<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let mut last = None;
    for _ in 0..5 {
        let grant = granted(&mut engine.contend(stage.claim("k"))).await;
        assert!(Some(grant.tokens.first) > last);
        last = Some(grant.tokens.last());
        stage.site.forget().await;
    }
}

async fn rule_7_a_refusal_without_effect_left_nothing<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let has_permits = engine.facts().permits == Permits::Kept;
    let stored = NonZeroU32::new(3).unwrap();
    let mut agreed = stage.claim("k");
    if has_permits {
        agreed.mode = Mode::Permit { limit: stored };
    }
    let mut holder = engine.contend(agreed);
    granted(&mut holder).await;
    let before = stage.claims("k").await;
    for limit in [1, 2, 4, u32::MAX] {
        let mut claim = stage.claim("k");
        claim.mode = Mode::Permit { limit: NonZeroU32::new(limit).unwrap() };
        let mut refused = engine.contend(claim);
        let error = refused.attempt().await.expect_err("another limit is in force, or none is possible");
        if has_permits {
            assert_eq!(error.kind(), EngineErrorKind::LimitMismatch { stored });
            assert!(error.to_string().contains('3'), "{error}");
        } else {
            assert_eq!(error.kind(), EngineErrorKind::Unsupported);
        }
        assert_eq!(error.effect(), Effect::None);
        assert_eq!(stage.claims("k").await, before);
    }
    holder.withdraw(Stray::Impossible).await.unwrap();
    // Nothing of the refused is in the way, and an empty line agrees on a new limit.
    let mut claim = stage.claim("k");
    if has_permits {
        claim.mode = Mode::Permit { limit: NonZeroU32::MIN };
    }
    let mut holder = engine.contend(claim);
    granted(&mut holder).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_8_deadlines_are_spans_of_the_engines_clock_c019<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let ttl = Duration::from_secs(20);
    let mut claim = stage.claim("k");
    claim.ttl = Ttl::new(ttl).unwrap();
    let sent = now();
    let Grant { validity, .. } = granted(&mut engine.contend(claim.clone())).await;
    assert!(matches!(validity, Validity::Lease(granted) if granted >= ttl && granted <= ttl * 4));
    let mut waiter = engine.contend(stage.claim("k"));
    let look_in = waits(&mut waiter).await.look_in.expect("a lease ahead ends some time");
    assert!(look_in <= ttl * 4);
    let left = |views: Vec<tenure_core::engine::PlaceView>| match views[0].standing {
        Standing::Holds { expires_in, .. } => expires_in.expect("a lease ends"),
        Standing::Waits => panic!("the first place holds"),
    };
    let first = left(stage.places("k").await);
    let mut second = first;
    // Some engines tell what is left in whole seconds.
    eventually("the engine's clock goes on", async || {
        second = left(stage.places("k").await);
        second < first
    })
    .await;
    // Never more than was granted, never less than what has passed by our clock could have used up.
    let spent = now().since(sent);
    assert!(second + spent + Duration::from_secs(1) >= ttl, "{second:?} left after {spent:?} of {ttl:?}");
    waiter.withdraw(Stray::Impossible).await.unwrap();
    engine.contend(claim).withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_8_the_term_includes_the_quarantine<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let mut claim = stage.claim("k");
    claim.ttl = Ttl::new(Duration::from_millis(200)).unwrap();
    claim.quarantine = Duration::from_millis(600);
    let sent = now();
    let grant = granted(&mut engine.contend(claim.clone())).await;
    assert!(matches!(grant.validity, Validity::Lease(granted) if granted >= claim.term()));
    let mut next = engine.contend(stage.claim("k"));
    granted_at_last(&mut next).await;
    assert!(now().since(sent) >= claim.term());
    next.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_8_a_living_holder_is_not_robbed_by_age_c098<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.client().await, stage.client().await);
    let mut claim = stage.claim("k");
    claim.ttl = Ttl::MIN;
    let mut holder = one.contend(claim);
    let grant = granted(&mut holder).await;
    if stage.facts.liveness == Liveness::Process {
        assert_eq!(grant.validity, Validity::Lifetime);
    }
    let mut waiter = two.contend(stage.claim("k"));
    let since = now();
    while now().since(since) < Ttl::MIN.duration() * 10 {
        waits(&mut waiter).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(holds(&mut holder).await);
    for mut contender in [waiter, holder] {
        contender.withdraw(Stray::Impossible).await.unwrap();
    }
}
