//! Futures and guards that are dropped: nothing is left behind.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tenure_core::engine::{Contender, Engine, Stray, Withdrawn};
use tenure_core::{Fairness, Released};
use tokio::task::JoinSet;

use super::cases;
use crate::site::Site;
use crate::stage::{Stage, poll_once};
use crate::tools::{eventually, granted, in_time};

/// How many await points an operation has at most.
const POLLS_MAX: usize = 10;

cases![
    an_acquire_dropped_at_any_point_leaves_nothing_c027,
    a_storm_of_dropped_attempts_shifts_no_answer_and_leaves_nothing_c027_c030,
    a_wait_dropped_at_any_point_leaves_nothing_c027_c034,
    a_wait_dropped_while_the_key_comes_leaves_nothing_c027,
    a_release_dropped_at_any_point_is_finished_c027_c033,
    lock_all_dropped_at_any_point_leaves_nothing_c027_c112,
    a_dropped_leader_leaves_its_place_to_the_next,
    a_guard_can_be_dropped_anywhere_c037,
    a_guard_dropped_on_a_runtime_that_ends_or_never_runs_again_is_given_up_c037,
    many_who_drop_their_guards_take_turns_c031_c115,
];

/// Polls a future so many times, letting everybody else run in between, and drops it.
async fn poll_and_drop<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(output) = poll_once(future.as_mut()).await {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

async fn an_acquire_dropped_at_any_point_leaves_nothing_c027<S: Site>(stage: &Stage<S>) {
    let tenure = stage.tenure().await;
    for polls in 0..=POLLS_MAX {
        for fairness in [Fairness::Handover, Fairness::StrictFifo] {
            let lock = tenure.lock(stage.name("k")).fairness(fairness);
            drop(poll_and_drop(lock.acquire(), polls).await);
            stage.until_places("k", 0).await;
            drop(poll_and_drop(lock.try_acquire(), polls).await);
            stage.until_places("k", 0).await;
            drop(poll_and_drop(lock.wait_for(Duration::from_secs(50)), polls).await);
            stage.until_places("k", 0).await;
        }
    }
    // The last attempt may have been on its way while the line was still seen empty.
    let free = async || !tenure.lock(stage.name("k")).try_acquire().await.unwrap().is_busy();
    eventually("the key is free", free).await;
}

/// All are one client's, so an answer that is shifted by one would reach somebody else.
async fn a_storm_of_dropped_attempts_shifts_no_answer_and_leaves_nothing_c027_c030<S: Site>(
    stage: &Stage<S>,
) {
    let engine = stage.client().await;
    let mut storm = JoinSet::new();
    for n in 0..200 {
        let (mut dropped, mut sure) = (
            engine.contend(stage.claim(&format!("k{}", n % 7))),
            engine.contend(stage.claim(&format!("own/{n}"))),
        );
        storm.spawn(async move {
            // Each is given up at another point: before, while and after it is sent.
            let limit = Duration::from_micros(n * 20);
            let is_cut = tokio::time::timeout(limit, dropped.attempt()).await.is_err();
            let stray = if is_cut { Stray::Possible } else { Stray::Impossible };
            dropped.withdraw(stray).await.unwrap();
            granted(&mut sure).await;
            assert_eq!(sure.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
        });
    }
    while let Some(one) = storm.join_next().await {
        one.unwrap();
    }
}

async fn a_wait_dropped_at_any_point_leaves_nothing_c027_c034<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let holder = one.lock(stage.name("k")).acquire().await.unwrap();
    for polls in 0..=POLLS_MAX {
        for lock in [two.rw_lock(stage.name("k")).read(), two.lock(stage.name("k"))] {
            assert!(poll_and_drop(lock.acquire(), polls).await.is_none());
            stage.until_places("k", 1).await;
            drop(poll_and_drop(lock.wait_for(Duration::from_secs(50)), polls).await);
            stage.until_places("k", 1).await;
        }
    }
    assert!(holder.is_held());
    assert_eq!(holder.release().await.unwrap(), Released::Cleanly);
}

async fn a_wait_dropped_while_the_key_comes_leaves_nothing_c027<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    for polls in 1..=POLLS_MAX {
        let holder = one.lock(stage.name("k")).acquire().await.unwrap();
        let lock = two.lock(stage.name("k"));
        let mut wait = Box::pin(lock.acquire());
        for _ in 0..polls {
            assert!(poll_once(wait.as_mut()).await.is_pending());
            tokio::task::yield_now().await;
        }
        // The grant is on its way, or has come, when the wait is dropped.
        holder.release().await.unwrap();
        if polls % 2 == 0 {
            let _ = poll_once(wait.as_mut()).await;
        }
        drop(wait);
        stage.until_places("k", 0).await;
    }
}

async fn a_release_dropped_at_any_point_is_finished_c027_c033<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    for polls in 0..=POLLS_MAX {
        let guard = one.lock(stage.name("k")).acquire().await.unwrap();
        drop(poll_and_drop(guard.release(), polls).await);
        stage.until_places("k", 0).await;
        let guard = in_time("the key is free", two.lock(stage.name("k")).acquire()).await.unwrap();
        guard.release().await.unwrap();
    }
}

async fn lock_all_dropped_at_any_point_leaves_nothing_c027_c112<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let holder = one.lock(stage.name("b")).acquire().await.unwrap();
    for polls in 0..=POLLS_MAX {
        let all = two.lock_all(["a", "b", "c"].map(|name| stage.name(name)));
        assert!(poll_and_drop(all.acquire(), polls).await.is_none());
        for (name, places) in [("a", 0), ("b", 1), ("c", 0)] {
            stage.until_places(name, places).await;
        }
    }
    holder.release().await.unwrap();
}

async fn a_dropped_leader_leaves_its_place_to_the_next<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.tenure().await, stage.tenure().await);
    let holder = one.lock(stage.name("k")).acquire().await.unwrap();
    let lock = two.lock(stage.name("k"));
    let (mut leader, mut second) = (Box::pin(lock.acquire()), Box::pin(lock.acquire()));
    assert!(poll_once(leader.as_mut()).await.is_pending());
    eventually("the leader waits", async || {
        let _ = poll_once(leader.as_mut()).await;
        stage.places("k").await.len() == 2
    })
    .await;
    assert!(poll_once(second.as_mut()).await.is_pending());
    let place = stage.claims("k").await[1];
    drop(leader);
    assert!(poll_once(second.as_mut()).await.is_pending());
    assert_eq!(stage.claims("k").await[1], place, "the place belongs to the client");
    holder.release().await.unwrap();
    let guard = in_time("the next has the turn", second).await.unwrap();
    guard.release().await.unwrap();
}

async fn a_guard_can_be_dropped_anywhere_c037<S: Site>(stage: &Stage<S>) {
    let tenure = stage.tenure().await;
    let lock = || tenure.lock(stage.name("k"));
    let guard = lock().acquire().await.unwrap();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    stage.until_places("k", 0).await;

    let guard = lock().acquire().await.unwrap();
    let panics = std::thread::Builder::new().name("panics on purpose".into()).spawn(move || {
        let _guard = guard;
        // Without the hook: nobody needs to read of a panic that is wanted.
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(panics.unwrap().join().is_err());
    stage.until_places("k", 0).await;

    let waits = lock();
    let unwound = AssertUnwindSafe(async {
        let _guard = waits.acquire().await.unwrap();
        std::panic::resume_unwind(Box::new("on purpose"))
    });
    assert!(unwound.catch_unwind().await.map(|(): ()| ()).is_err());
    stage.until_places("k", 0).await;

    // On another runtime than it was acquired on, which ends at once.
    let guard = lock().acquire().await.unwrap();
    let elsewhere = std::thread::spawn(move || runtime().block_on(async move { drop(guard) }));
    elsewhere.join().unwrap();
    stage.until_places("k", 0).await;

    // The runtime on which it was acquired has ended.
    let acquires = lock();
    let guard = std::thread::spawn(move || {
        let runtime = runtime();
        let guard = runtime.block_on(acquires.acquire()).unwrap();
        drop(runtime);
        guard
    });
    let guard = guard.join().unwrap();
    assert!(guard.is_held());
    drop(guard);
    stage.until_places("k", 0).await;
}

/// What a drop begins on a runtime must not depend on that runtime.
async fn a_guard_dropped_on_a_runtime_that_ends_or_never_runs_again_is_given_up_c037<S: Site>(
    stage: &Stage<S>,
) {
    let tenure = stage.tenure().await;
    for ends in [true, false] {
        // No lease ends in time: only a withdrawal frees the key.
        let lock = tenure.lock(stage.name("k")).ttl(Duration::from_secs(3_600));
        let acquires_and_drops = std::thread::spawn(move || {
            let runtime = runtime();
            runtime.block_on(async { drop(lock.acquire().await.unwrap()) });
            if ends {
                drop(runtime);
                return None;
            }
            Some(runtime)
        });
        let never_runs_again = acquires_and_drops.join().unwrap();
        stage.until_places("k", 0).await;
        if let Some(runtime) = never_runs_again {
            runtime.shutdown_background();
        }
    }
}

/// Withdrawals that nobody awaits, some of them said twice, are on their way while others hold.
async fn many_who_drop_their_guards_take_turns_c031_c115<S: Site>(stage: &Stage<S>) {
    let clients = [stage.tenure().await, stage.tenure().await];
    let inside = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    for n in 0..8 {
        let lock = clients[n % 2].lock(stage.name("k"));
        let lock = if n % 3 == 0 { lock.fairness(Fairness::StrictFifo) } else { lock };
        let inside = Arc::clone(&inside);
        tasks.spawn(async move {
            for _ in 0..8 {
                let guard = lock.acquire().await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold at once");
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                assert!(guard.is_held());
                drop(guard);
            }
        });
    }
    while let Some(task) = in_time("the key goes round", tasks.join_next()).await {
        task.unwrap();
    }
    stage.until_places("k", 0).await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
