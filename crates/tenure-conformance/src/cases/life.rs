//! The life of a hold as users meet it: guards, loss, shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tenure_core::engine::{Liveness, Standing, Withdrawn};
use tenure_core::{ErrorKind, LossCause, Options, Released, Tenure};

use super::cases;
use crate::site::Site;
use crate::stage::Stage;
use crate::tools::{eventually, in_time, now};

cases![
    a_guard_tells_its_state,
    a_guard_that_outlives_its_client_is_kept_and_withdrawn,
    a_lost_guard_that_outlives_its_client_is_withdrawn_too,
    a_blocked_runtime_does_not_lose_the_hold_c013,
    an_evicted_holder_is_told_and_its_release_says_so_c032_c040,
    work_under_a_guard_ends_with_the_hold_c039,
    the_successor_acts_after_the_last_act_of_its_predecessor_c039,
    max_hold_ends_a_hold_whatever_its_owner_does_c015,
    a_client_that_vanished_blocks_nobody_and_knows_it_c001_c007[Leases],
    a_quarantine_follows_a_hold_that_was_not_released[Leases],
    a_waiter_with_a_quarantine_gets_a_hold_that_stands[Quarantine],
    a_waiting_client_keeps_its_place_for_long_c105[Arrival],
    a_hold_of_many_terms_stays_renewed,
    shutdown_drains_and_refuses,
    an_evicted_waiter_gets_an_error,
    an_offer_is_not_counted_on_for_longer_than_the_ttl,
];

/// An offer stands for the claim window, but once it is confirmed the engine counts the TTL, from then on. Found by
/// `tenure verify`: a holder with a TTL below the window believed in the window, and did not renew in time.
async fn an_offer_is_not_counted_on_for_longer_than_the_ttl<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let ttl = Duration::from_millis(400);
    for _ in 0..3 {
        let guard = one.lock(stage.name("k")).acquire().await.unwrap();
        let lock = two.lock(stage.name("k")).ttl(ttl);
        let waiter = tokio::spawn(async move { lock.acquire().await });
        stage.until_places("k", 2).await;
        guard.release().await.unwrap();
        let guard = in_time("the waiter is granted", waiter).await.unwrap().unwrap();
        if two.facts().liveness == Liveness::Lease {
            let remaining = guard.remaining().expect("a lease has an end");
            assert!(remaining <= ttl, "{remaining:?} remain of a TTL of {ttl:?}");
        }
        drop(guard.release().await);
    }
}

async fn a_guard_tells_its_state<S: Site>(stage: &Stage<S>) {
    let tenure = stage.tenure().await;
    let ttl = Duration::from_secs(5);
    let guard = tenure.lock(stage.name("k")).ttl(ttl).acquire().await.unwrap();
    assert!(guard.is_held() && guard.check().is_ok());
    let place = stage.places("k").await.remove(0);
    assert_eq!(place.claim, guard.claim());
    let Standing::Holds { token, expires_in, .. } = place.standing else { panic!("it holds") };
    assert_eq!(token, guard.token());
    assert_eq!(guard.remaining().is_some(), guard.until().is_some());
    assert_eq!(guard.remaining().is_some(), expires_in.is_some());
    if let Some(left) = guard.remaining() {
        assert!(left < ttl && !left.is_zero());
    }
    assert!(guard.verify().await.unwrap().is_ok());
    assert!(guard.lost().now_or_never().is_none());
    assert_eq!(guard.run(async { 42 }).await, Ok(42));
    assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
}

async fn a_guard_that_outlives_its_client_is_kept_and_withdrawn<S: Site>(stage: &Stage<S>) {
    let ttl = Duration::from_secs(2);
    let tenure = stage.tenure().await;
    let guard = tenure.lock(stage.name("k")).ttl(ttl).acquire().await.unwrap();
    drop(tenure);
    let since = now();
    while now().since(since) < ttl * 3 / 2 {
        tokio::time::sleep(ttl / 10).await;
        assert!(guard.is_held());
    }
    assert_eq!(stage.claims("k").await, [guard.claim()]);
    drop(guard);
    stage.until_places("k", 0).await;
}

async fn a_lost_guard_that_outlives_its_client_is_withdrawn_too<S: Site>(stage: &Stage<S>) {
    let tenure = stage.tenure().await;
    let lock = tenure.lock(stage.name("k")).max_hold(Duration::from_millis(100));
    let guard = lock.acquire().await.unwrap();
    drop((lock, tenure));
    assert_eq!(in_time("the hold ends", guard.lost()).await.cause, LossCause::MaxHold);
    // Time enough for the keeper to think that nothing is left to keep.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(guard);
    let since = now();
    stage.until_places("k", 0).await;
    assert!(now().since(since) < Duration::from_secs(20), "the place was left to its lease");
}

async fn a_blocked_runtime_does_not_lose_the_hold_c013<S: Site>(stage: &Stage<S>) {
    let ttl = Duration::from_secs(2);
    let lock = stage.tenure().await.lock(stage.name("k")).ttl(ttl);
    let blocked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let guard = lock.acquire().await.unwrap();
            block(ttl * 2);
            assert!(guard.is_held(), "the hold was lost while its runtime was blocked");
            assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
        });
    });
    let joined = tokio::task::spawn_blocking(move || blocked.join());
    in_time("the blocked runtime ends", joined).await.unwrap().unwrap();
}

#[allow(clippy::disallowed_methods, reason = "this is user code that blocks its runtime")]
fn block(duration: Duration) {
    std::thread::sleep(duration);
}

async fn an_evicted_holder_is_told_and_its_release_says_so_c032_c040<S: Site>(stage: &Stage<S>) {
    let (one, operator) = (stage.tenure().await, stage.tenure().await);
    let guard = one.lock(stage.name("k")).acquire().await.unwrap();
    let place = stage.places("k").await.remove(0);
    assert_eq!(operator.evict(stage.name("k"), place.claim).await.unwrap(), Withdrawn::Held);
    // Nobody polls `lost`; the state says it all the same.
    eventually("the holder is told", async || !guard.is_held()).await;
    let loss = guard.check().expect_err("it was broken");
    assert_eq!((loss.cause, loss.token), (LossCause::Revoked, guard.token()));
    assert_eq!(in_time("whoever asks is told", guard.lost()).await, loss);
    let next = operator.lock(stage.name("k")).acquire().await.unwrap();
    assert!(next.token() > guard.token());
    assert_eq!(guard.release().await.unwrap(), Released::AlreadyLost(loss));
    assert!(next.verify().await.unwrap().is_ok(), "a late release hit the successor");
    next.release().await.unwrap();
}

async fn work_under_a_guard_ends_with_the_hold_c039<S: Site>(stage: &Stage<S>) {
    struct Ends(Arc<AtomicU64>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let tenure = stage.tenure().await;
    let guard = tenure.lock(stage.name("k")).acquire().await.unwrap();
    let ended = Arc::new(AtomicU64::new(0));
    let work = {
        let ends = Ends(Arc::clone(&ended));
        async move {
            let _ends = ends;
            std::future::pending::<()>().await;
        }
    };
    let evict = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        tenure.evict(stage.name("k"), guard.claim()).await.unwrap();
    };
    let (outcome, ()) = in_time("the work ends", async { tokio::join!(guard.run(work), evict) }).await;
    assert_eq!(outcome.expect_err("it was broken").cause, LossCause::Revoked);
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    assert!(guard.run(std::future::pending::<()>()).await.is_err(), "a loss is final");
}

async fn the_successor_acts_after_the_last_act_of_its_predecessor_c039<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let acts = Arc::new(AtomicU64::new(0));
    let guard = one.lock(stage.name("k")).acquire().await.unwrap();
    let successor = {
        let (lock, acts) = (two.lock(stage.name("k")), Arc::clone(&acts));
        tokio::spawn(async move {
            let guard = lock.acquire().await.unwrap();
            assert_eq!(acts.load(Ordering::SeqCst), 2, "the predecessor was still at work");
            guard.release().await.unwrap();
        })
    };
    stage.until_places("k", 2).await;
    let work = async {
        acts.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
        acts.fetch_add(1, Ordering::SeqCst);
    };
    guard.run(work).await.unwrap();
    guard.release().await.unwrap();
    in_time("the successor ends", successor).await.unwrap();
}

async fn max_hold_ends_a_hold_whatever_its_owner_does_c015<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    // Long enough that a slow machine does not end the lease first.
    let lock = one.lock(stage.name("k")).ttl(Duration::from_secs(3)).max_hold(Duration::from_millis(300));
    let guard = lock.acquire().await.unwrap();
    assert_eq!(in_time("the hold ends", guard.lost()).await.cause, LossCause::MaxHold);
    assert!(!guard.is_held());
    if stage.facts.liveness == tenure_core::engine::Liveness::Lease {
        let next = in_time("the key is free", two.lock(stage.name("k")).acquire()).await.unwrap();
        next.release().await.unwrap();
    } else {
        // The living are told, never robbed: the place is kept until the guard is dropped.
        assert!(two.lock(stage.name("k")).try_acquire().await.unwrap().is_busy());
    }
    assert!(
        matches!(guard.release().await.unwrap(), Released::AlreadyLost(loss) if loss.cause == LossCause::MaxHold)
    );
    let next = in_time("the key is free", two.lock(stage.name("k")).acquire()).await.unwrap();
    next.release().await.unwrap();
}

async fn a_client_that_vanished_blocks_nobody_and_knows_it_c001_c007<S: Site>(stage: &Stage<S>) {
    let (paused, keeper) = Tenure::with_own_keeper(stage.client().await, Options::default());
    // A paused process keeps nothing.
    drop(keeper);
    let ttl = Duration::from_millis(600);
    let guard = paused.lock(stage.name("k")).ttl(ttl).acquire().await.unwrap();
    let other = stage.tenure().await;
    let next = in_time("the key is free", other.lock(stage.name("k")).acquire()).await.unwrap();
    // Its validity had ended before anybody else was granted, and it knows without having been told.
    assert!(!guard.is_held());
    assert_eq!(guard.check().expect_err("it has expired").cause, LossCause::Expired);
    assert_eq!(guard.remaining(), Some(Duration::ZERO));
    assert!(next.token() > guard.token());
    assert!(matches!(guard.release().await.unwrap(), Released::AlreadyLost(_)));
    assert!(next.verify().await.unwrap().is_ok());
    next.release().await.unwrap();
}

async fn a_quarantine_follows_a_hold_that_was_not_released<S: Site>(stage: &Stage<S>) {
    let (paused, keeper) = Tenure::with_own_keeper(stage.client().await, Options::default());
    drop(keeper);
    let (ttl, quarantine) = (Duration::from_secs(1), Duration::from_secs(1));
    let since = now();
    let guard = paused.lock(stage.name("k")).ttl(ttl).quarantine(quarantine).acquire().await.unwrap();
    assert!(guard.remaining() <= Some(ttl), "a holder counted on its quarantine");
    let other = stage.tenure().await;
    let next = in_time("the key is free", other.lock(stage.name("k")).acquire()).await.unwrap();
    assert!(now().since(since) >= ttl + quarantine);
    assert!(!guard.is_held());
    next.release().await.unwrap();
    // A clean release skips it.
    let clean = other.lock(stage.name("k")).quarantine(Duration::from_secs(3600)).acquire().await.unwrap();
    clean.release().await.unwrap();
    let free = stage.tenure().await.lock(stage.name("k")).try_acquire().await.unwrap();
    free.guard().expect("a clean release needs no quarantine").release().await.unwrap();
}

async fn a_waiter_with_a_quarantine_gets_a_hold_that_stands<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let holder = one.lock(stage.name("k")).acquire().await.unwrap();
    let lock = two.lock(stage.name("k")).quarantine(Duration::from_secs(3600));
    let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
    stage.until_places("k", 2).await;
    holder.release().await.unwrap();
    let guard = in_time("the waiter is granted", waiter).await.unwrap();
    for _ in 0..20 {
        assert!(guard.is_held(), "{:?}", guard.check());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
}

async fn a_waiting_client_keeps_its_place_for_long_c105<S: Site>(stage: &Stage<S>) {
    let (one, two, three) = (stage.tenure().await, stage.tenure().await, stage.tenure().await);
    let holder = one.lock(stage.name("k")).acquire().await.unwrap();
    let lock = two.lock(stage.name("k"));
    let early = tokio::spawn(async move { lock.acquire().await.unwrap() });
    stage.until_places("k", 2).await;
    let place = stage.claims("k").await[1];
    let lock = three.lock(stage.name("k"));
    let late = tokio::spawn(async move { lock.acquire().await.unwrap() });
    stage.until_places("k", 3).await;
    tokio::time::sleep(stage.facts.claim_window * 3 / 2).await;
    assert_eq!(stage.claims("k").await[1], place, "a living waiter lost its place");
    holder.release().await.unwrap();
    let early = in_time("the first is granted first", early).await.unwrap();
    assert_eq!(early.claim(), place);
    assert!(!late.is_finished());
    early.release().await.unwrap();
    in_time("then the second", late).await.unwrap().release().await.unwrap();
}

async fn a_hold_of_many_terms_stays_renewed<S: Site>(stage: &Stage<S>) {
    let ttl = Duration::from_secs(2);
    let guard = stage.tenure().await.lock(stage.name("k")).ttl(ttl).acquire().await.unwrap();
    let claim = guard.claim();
    let since = now();
    while now().since(since) < ttl * 4 {
        tokio::time::sleep(ttl / 10).await;
        assert!(guard.is_held(), "{:?}", guard.check());
        assert_eq!(stage.claims("k").await, [claim]);
    }
    assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
}

async fn shutdown_drains_and_refuses<S: Site>(stage: &Stage<S>) {
    let tenure = stage.tenure().await;
    let mut guards = Vec::new();
    for n in 0..40 {
        guards.push(tenure.lock(stage.name(&n.to_string())).acquire().await.unwrap());
    }
    let kept = guards.pop().unwrap();
    drop(guards);
    assert_eq!(tenure.shutdown(Duration::from_secs(30)).await, 0);
    assert_eq!(stage.keys(&stage.prefix).await.len(), 1, "only the living guard is left");
    assert!(kept.is_held());
    let refused = tenure.lock(stage.name("x")).acquire().await.expect_err("it was shut down");
    assert_eq!(refused.kind(), ErrorKind::Closed);
    assert_eq!(kept.release().await.unwrap(), Released::Cleanly);
    assert_eq!(tenure.shutdown(Duration::ZERO).await, 0);
}

async fn an_evicted_waiter_gets_an_error<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let holder = one.lock(stage.name("k")).acquire().await.unwrap();
    let lock = two.lock(stage.name("k"));
    let waiter = tokio::spawn(async move { lock.acquire().await });
    stage.until_places("k", 2).await;
    let claim = stage.claims("k").await[1];
    assert_eq!(one.evict(stage.name("k"), claim).await.unwrap(), Withdrawn::Waited);
    let error = in_time("the waiter is told", waiter).await.unwrap().expect_err("it was evicted");
    assert_eq!(error.kind(), ErrorKind::Evicted);
    assert!(holder.is_held());
    holder.release().await.unwrap();
}
