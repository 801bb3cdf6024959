//! Rules 1 to 4 of the contract: whom a verb concerns, places, wakes and renewals.

use std::num::NonZeroU32;
use std::time::Duration;

use tenure_core::engine::{
    Attempt, Contender, Engine, Gone, Renewal, Restamp, Standing, Stray, Wake, Withdrawn,
};
use tenure_core::{FencingToken, IfBusy, Mode, Ttl};

use super::cases;
use crate::site::Site;
use crate::stage::{Stage, poll_once};
use crate::tools::{eventually, granted, granted_at_last, holds, in_time, now, waits};

cases![
    rule_1_a_release_never_hits_somebody_else_c031_c032,
    rule_1_a_delayed_renewal_or_restamp_touches_nobody_else,
    rule_1_two_contenders_of_one_claim_are_one,
    rule_1_a_grant_names_its_claim_c030[Permits],
    rule_2_a_repeated_attempt_makes_no_second_place_c035,
    rule_2_a_repeated_attempt_answers_with_the_same_grant_c026,
    rule_2_a_claim_that_does_not_wait_leaves_nothing_c113,
    rule_2_a_place_that_is_not_reattempted_expires_c104 [Leases],
    rule_2_a_place_that_is_reattempted_stays_c105 [Leases, Arrival],
    rule_2_the_places_of_a_vanished_client_end_c104 [Vanish],
    rule_3_changed_is_level_triggered_c103,
    rule_3_changed_is_cancel_safe_c027,
    rule_3_a_contender_that_has_not_looked_is_woken_too,
    rule_3_a_release_wakes_all_whom_it_enables_c103,
    rule_3_an_offer_nobody_confirms_lapses_after_the_claim_window_c106,
    rule_3_a_pushed_grant_is_confirmed_by_renewing,
    rule_4_renewal_never_creates_c010,
    rule_4_a_renewal_of_a_waiter_grants_nothing,
    rule_4_a_hold_that_is_not_renewed_expires_and_stays_dead_c010 [Leases],
    rule_4_a_renewed_hold_stays [Leases],
    rule_4_each_hold_has_a_term_of_its_own_c109 [Leases],
];

async fn rule_1_a_release_never_hits_somebody_else_c031_c032<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.client().await, stage.client().await);
    let mut first = one.contend(stage.claim("k"));
    granted(&mut first).await;
    assert_eq!(first.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    let mut second = two.contend(stage.claim("k"));
    let grant = granted(&mut second).await;
    let mut stranger = one.contend(stage.claim("k"));
    for stray in [Stray::Impossible, Stray::Possible, Stray::Impossible] {
        assert_eq!(first.withdraw(stray).await.unwrap(), Withdrawn::Absent);
        assert_eq!(stranger.withdraw(stray).await.unwrap(), Withdrawn::Absent);
    }
    assert!(holds(&mut second).await);
    assert_eq!(stage.claims("k").await, [grant.claim]);
    assert_eq!(second.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
}

async fn rule_1_a_delayed_renewal_or_restamp_touches_nobody_else<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let mut first = engine.contend(stage.claim("k"));
    granted(&mut first).await;
    first.withdraw(Stray::Impossible).await.unwrap();
    let mut second = engine.contend(stage.claim("k"));
    granted(&mut second).await;
    let before = stage.line("k").await.last_token;
    assert!(!holds(&mut first).await);
    assert!(matches!(first.restamp().await.unwrap(), Restamp::Gone(_)));
    assert_eq!(stage.line("k").await.last_token, before);
    assert!(holds(&mut second).await);
    second.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_1_two_contenders_of_one_claim_are_one<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let claim = stage.claim("k");
    let (mut caller, mut keeper) = (engine.contend(claim.clone()), engine.contend(claim));
    let grant = granted(&mut caller).await;
    assert!(holds(&mut keeper).await);
    assert_eq!(granted(&mut keeper).await.tokens.first, grant.tokens.first);
    assert_eq!(keeper.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    assert!(!holds(&mut caller).await);
    assert_eq!(caller.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
}

async fn rule_1_a_grant_names_its_claim_c030<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let limit = NonZeroU32::new(8).unwrap();
    let mut contenders = Vec::new();
    for _ in 0..8 {
        let mut claim = stage.claim("k");
        claim.mode = Mode::Permit { limit };
        let mut contender = engine.contend(claim.clone());
        assert_eq!(granted(&mut contender).await.claim, claim.id);
        contenders.push(contender);
    }
    for mut contender in contenders {
        contender.withdraw(Stray::Impossible).await.unwrap();
    }
}

async fn rule_2_a_repeated_attempt_makes_no_second_place_c035<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let (first, second) = (stage.claim("k"), stage.claim("k"));
    let mut holder = engine.contend(first.clone());
    let mut lanes = [engine.contend(second.clone()), engine.contend(second.clone())];
    granted(&mut holder).await;
    for n in 0..6 {
        granted(&mut holder).await;
        waits(&mut lanes[n % 2]).await;
        assert_eq!(stage.claims("k").await, [first.id, second.id]);
    }
    assert_eq!(lanes[0].withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Waited);
    assert_eq!(stage.claims("k").await, [first.id]);
    holder.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_2_a_repeated_attempt_answers_with_the_same_grant_c026<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let claim = stage.claim("k");
    let grant = granted(&mut engine.contend(claim.clone())).await;
    // The reply was lost and the connection with it: another contender asks again.
    let again = granted(&mut engine.contend(claim.clone())).await;
    assert_eq!((again.claim, again.tokens, again.slot), (grant.claim, grant.tokens, grant.slot));
    engine.contend(claim).withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_2_a_claim_that_does_not_wait_leaves_nothing_c113<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let holder = stage.claim("k");
    granted(&mut engine.contend(holder.clone())).await;
    let mut hasty = stage.claim("k");
    hasty.if_busy = IfBusy::Leave;
    for _ in 0..3 {
        match engine.contend(hasty.clone()).attempt().await.unwrap() {
            Attempt::Busy(busy) => assert_eq!(busy.ahead, 1),
            other => panic!("expected busy, not {other:?}"),
        }
        assert_eq!(stage.claims("k").await, [holder.id]);
    }
    engine.contend(holder).withdraw(Stray::Impossible).await.unwrap();
    granted(&mut engine.contend(hasty.clone())).await;
    engine.contend(hasty).withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_2_a_place_that_is_not_reattempted_expires_c104<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.client().await, stage.client().await);
    let (holder, dead) = (stage.claim("k"), stage.claim("k"));
    granted(&mut one.contend(holder.clone())).await;
    let mut dead_waiter = one.contend(dead.clone());
    waits(&mut dead_waiter).await;
    let mut waiter = two.contend(stage.claim("k"));
    eventually("the dead place has gone", async || waits(&mut waiter).await.ahead == 1).await;
    assert!(!stage.claims("k").await.contains(&dead.id));
    // Whoever was thrown out is told where it stands now, and may join again at the end.
    assert_eq!(waits(&mut dead_waiter).await.ahead, 2);
    dead_waiter.withdraw(Stray::Impossible).await.unwrap();
    waiter.withdraw(Stray::Impossible).await.unwrap();
    one.contend(holder).withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_2_a_place_that_is_reattempted_stays_c105<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let (holder, early) = (stage.claim("k"), stage.claim("k"));
    granted(&mut engine.contend(holder.clone())).await;
    let mut first = engine.contend(early.clone());
    let since = now();
    let mut looked = since;
    waits(&mut first).await;
    while now().since(since) < stage.facts.claim_window * 3 / 2 {
        tokio::time::sleep(stage.facts.claim_window / 20).await;
        waits(&mut first).await;
        if now().since(looked) > stage.facts.claim_window / 2 {
            // The machine has kept us from looking: nothing can be said about the place.
            first.withdraw(Stray::Impossible).await.unwrap();
            waits(&mut first).await;
        }
        looked = now();
    }
    let mut second = engine.contend(stage.claim("k"));
    assert_eq!(waits(&mut second).await.ahead, 2, "the place was lost");
    for mut contender in [first, second, engine.contend(holder)] {
        contender.withdraw(Stray::Impossible).await.unwrap();
    }
}

async fn rule_2_the_places_of_a_vanished_client_end_c104<S: Site>(stage: &Stage<S>) {
    let (victim, other) = (stage.client().await, stage.client().await);
    let mut short = stage.claim("k");
    // Two others must join before it ends, on a busy machine as well.
    short.ttl = Ttl::new(Duration::from_secs(3)).unwrap();
    let token = granted(&mut victim.contend(short)).await.tokens.first;
    waits(&mut victim.contend(stage.claim("k"))).await;
    let mut heir = other.contend(stage.claim("k"));
    waits(&mut heir).await;
    stage.site.vanish(victim).await;
    assert!(granted_at_last(&mut heir).await.tokens.first > token);
    assert_eq!(stage.places("k").await.len(), 1);
    heir.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_3_changed_is_level_triggered_c103<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.client().await, stage.client().await);
    let mut holder = one.contend(stage.claim("k"));
    granted(&mut holder).await;
    let mut waiter = two.contend(stage.claim("k"));
    waits(&mut waiter).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    // Nobody listened while it happened, and who asks twice is told twice.
    for _ in 0..3 {
        in_time("the waiter is told", waiter.changed()).await.unwrap();
    }
    granted(&mut waiter).await;
    waiter.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_3_changed_is_cancel_safe_c027<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.client().await, stage.client().await);
    for polls in 0..6 {
        let mut holder = one.contend(stage.claim("k"));
        granted_at_last(&mut holder).await;
        let mut waiter = two.contend(stage.claim("k"));
        waits(&mut waiter).await;
        for _ in 0..3 {
            let mut told = Box::pin(waiter.changed());
            for _ in 0..polls {
                if poll_once(told.as_mut()).await.is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let mut told = Box::pin(waiter.changed());
        let _ = poll_once(told.as_mut()).await;
        holder.withdraw(Stray::Impossible).await.unwrap();
        // Perhaps it has just been told; it is forgotten before anybody has heard it.
        drop(told);
        in_time("the waiter is told all the same", waiter.changed()).await.unwrap();
        granted_at_last(&mut waiter).await;
        waiter.withdraw(Stray::Impossible).await.unwrap();
    }
}

async fn rule_3_a_contender_that_has_not_looked_is_woken_too<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.client().await, stage.client().await);
    let mut holder = one.contend(stage.claim("k"));
    granted(&mut holder).await;
    let claim = stage.claim("k");
    waits(&mut two.contend(claim.clone())).await;
    let mut lane = two.contend(claim);
    let woken = async {
        loop {
            in_time("a wake", lane.changed()).await.unwrap();
            if let Attempt::Granted(grant) = lane.attempt().await.unwrap() {
                return grant;
            }
        }
    };
    let release = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        holder.withdraw(Stray::Impossible).await.unwrap();
    };
    tokio::join!(woken, release);
    lane.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_3_a_release_wakes_all_whom_it_enables_c103<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let mut writer = engine.contend(stage.claim("k"));
    granted(&mut writer).await;
    let mut readers = Vec::new();
    for _ in 0..5 {
        let mut claim = stage.claim("k");
        claim.mode = Mode::Shared;
        let mut reader = stage.client().await.contend(claim);
        waits(&mut reader).await;
        readers.push(reader);
    }
    writer.withdraw(Stray::Impossible).await.unwrap();
    for reader in &mut readers {
        in_time("each reader is told", reader.changed()).await.unwrap();
        granted(reader).await;
    }
    assert_eq!(stage.places("k").await.len(), 5);
    for mut reader in readers {
        reader.withdraw(Stray::Impossible).await.unwrap();
    }
}

async fn rule_3_an_offer_nobody_confirms_lapses_after_the_claim_window_c106<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.client().await, stage.client().await);
    let mut holder = one.contend(stage.claim("k"));
    granted(&mut holder).await;
    let mut silent = one.contend(stage.claim("k"));
    waits(&mut silent).await;
    let mut next = two.contend(stage.claim("k"));
    waits(&mut next).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    // The silent one is first in the line and never answers; its TTL is longer than this trial waits.
    let token = granted_at_last(&mut next).await.tokens.first;
    assert!(!holds(&mut silent).await, "an offer that has lapsed was confirmed");
    // The late one joins again, at the end.
    assert_eq!(waits(&mut silent).await.ahead, 1);
    next.withdraw(Stray::Impossible).await.unwrap();
    assert!(granted_at_last(&mut silent).await.tokens.first > token);
    silent.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_3_a_pushed_grant_is_confirmed_by_renewing<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.client().await, stage.client().await);
    let mut holder = one.contend(stage.claim("k"));
    let before = granted(&mut holder).await.tokens.first;
    let claim = stage.claim("k");
    let mut waiter = two.contend(claim.clone());
    waits(&mut waiter).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    // An engine may push the grant, or only say that it is worth looking; both must end in one hold.
    let token = match in_time("a wake", waiter.changed()).await.unwrap() {
        Wake::Granted(grant) => {
            assert_eq!(grant.claim, claim.id);
            assert!(matches!(waiter.renew().await.unwrap(), Renewal::Renewed(_)));
            grant.tokens.first
        }
        Wake::LookAgain => granted(&mut waiter).await.tokens.first,
    };
    assert!(token > before);
    assert_eq!(holding_tokens(stage, "k").await, [token]);
    waiter.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_4_renewal_never_creates_c010<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let claim = stage.claim("k");
    assert_eq!(engine.contend(claim.clone()).renew().await.unwrap(), Renewal::Gone(Gone::Absent));
    assert_eq!(engine.contend(claim.clone()).restamp().await.unwrap(), Restamp::Gone(Gone::Absent));
    assert!(stage.places("k").await.is_empty());
    let mut contender = engine.contend(claim);
    granted(&mut contender).await;
    contender.withdraw(Stray::Impossible).await.unwrap();
    assert!(!holds(&mut contender).await);
    assert!(stage.places("k").await.is_empty());
}

async fn rule_4_a_renewal_of_a_waiter_grants_nothing<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let (first, second) = (stage.claim("k"), stage.claim("k"));
    granted(&mut engine.contend(first.clone())).await;
    let mut waiter = engine.contend(second);
    waits(&mut waiter).await;
    assert!(!holds(&mut waiter).await);
    assert!(matches!(waiter.restamp().await.unwrap(), Restamp::Gone(_)));
    assert_eq!(holding_tokens(stage, "k").await.len(), 1);
    waiter.withdraw(Stray::Impossible).await.unwrap();
    assert!(holds(&mut engine.contend(first.clone())).await);
    engine.contend(first).withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_4_a_hold_that_is_not_renewed_expires_and_stays_dead_c010<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.client().await, stage.client().await);
    let ttl = Duration::from_millis(500);
    let mut claim = stage.claim("k");
    claim.ttl = Ttl::new(ttl).unwrap();
    let mut forgotten = one.contend(claim);
    let sent = now();
    let token = granted(&mut forgotten).await.tokens.first;
    let mut next = two.contend(stage.claim("k"));
    let later = granted_at_last(&mut next).await.tokens.first;
    assert!(now().since(sent) >= ttl, "the hold was given away before its lease had ended");
    assert!(later > token);
    assert!(!holds(&mut forgotten).await);
    next.withdraw(Stray::Impossible).await.unwrap();
    // The key is free again; the old hold is dead all the same.
    assert!(!holds(&mut forgotten).await);
    assert!(stage.places("k").await.is_empty());
}

async fn rule_4_a_renewed_hold_stays<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let ttl = Duration::from_secs(2);
    let mut claim = stage.claim("k");
    claim.ttl = Ttl::new(ttl).unwrap();
    let mut holder = engine.contend(claim);
    granted(&mut holder).await;
    let since = now();
    let mut asked = since;
    while now().since(since) < ttl * 2 {
        tokio::time::sleep(ttl / 20).await;
        let held = holds(&mut holder).await;
        assert!(held || now().since(asked) > ttl * 9 / 10, "a hold that was renewed in time is gone");
        if !held {
            // The machine kept us from renewing.
            granted(&mut holder).await;
        }
        asked = now();
        if let Standing::Holds { expires_in: Some(left), .. } = stage.places("k").await[0].standing {
            assert!(left <= ttl);
        }
    }
    holder.withdraw(Stray::Impossible).await.unwrap();
}

async fn rule_4_each_hold_has_a_term_of_its_own_c109<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let (mut short, mut long) = (stage.claim("k"), stage.claim("k"));
    (short.mode, long.mode) = (Mode::Shared, Mode::Shared);
    short.ttl = Ttl::new(Duration::from_millis(400)).unwrap();
    granted(&mut engine.contend(short)).await;
    granted(&mut engine.contend(long.clone())).await;
    eventually("only the long one is left", async || stage.claims("k").await == [long.id]).await;
    let mut reader = engine.contend(long);
    assert!(holds(&mut reader).await);
    let mut writer = engine.contend(stage.claim("k"));
    waits(&mut writer).await;
    reader.withdraw(Stray::Impossible).await.unwrap();
    granted_at_last(&mut writer).await;
    writer.withdraw(Stray::Impossible).await.unwrap();
}

/// The tokens of all holds of a key, as an onlooker sees them.
pub(super) async fn holding_tokens<S: Site>(stage: &Stage<S>, name: &str) -> Vec<FencingToken> {
    let places = stage.places(name).await;
    let token = |standing| match standing {
        Standing::Holds { token, .. } => Some(token),
        Standing::Waits => None,
    };
    places.iter().filter_map(|place| token(place.standing)).collect()
}
