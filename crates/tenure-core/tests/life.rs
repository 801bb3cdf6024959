//! The life of a claim, on the memory engine and real time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tenure_core::engine::memory::Memory;
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{LossCause, Options, Released, Tenure};

#[tokio::test]
async fn a_lock_is_held_and_released() {
    let tenure = Tenure::new(Memory::new());
    let guard = tenure.lock("a").acquire().await.unwrap();
    assert!(guard.is_held());
    assert!(tenure.lock("a").try_acquire().await.unwrap().is_busy());
    let first = guard.token();
    assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
    let guard = tenure.lock("a").try_acquire().await.unwrap().guard().unwrap();
    assert!(guard.token() > first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c115_tasks_of_one_process_exclude_each_other() {
    let engine = Memory::new();
    let clients = [Tenure::new(engine.clone()), Tenure::new(engine)];
    let inside = Arc::new(AtomicU64::new(0));
    let highest = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64 {
        let (tenure, inside, highest) = (clients[n % 2].clone(), Arc::clone(&inside), Arc::clone(&highest));
        tasks.spawn(async move {
            for _ in 0..50 {
                let guard = tenure.lock("hot").ttl(Duration::from_secs(5)).acquire().await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                let token = guard.token().get();
                assert!(highest.fetch_max(token, Ordering::SeqCst) < token);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.release().await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(clients[0].inspect("hot").await.unwrap().places, vec![]);
}

#[tokio::test]
async fn a_guard_that_is_dropped_on_its_runtime_gives_the_key_back_before_the_drop_is_over() {
    let tenure = Tenure::new(Memory::new());
    for _ in 0..100 {
        drop(tenure.lock("a").acquire().await.unwrap());
        assert_eq!(tenure.inspect("a").await.unwrap().places, vec![]);
    }
}

#[tokio::test]
async fn work_that_ends_before_the_longest_hold_is_not_cut() {
    let tenure = Tenure::new(Memory::new());
    let guard = tenure.lock("a").max_hold(Duration::from_millis(80)).acquire().await.unwrap();
    assert_eq!(guard.run(tokio::time::sleep(Duration::from_millis(5))).await, Ok(()));
    let loss = guard.run(std::future::pending::<()>()).await.unwrap_err();
    assert_eq!(loss.cause, LossCause::MaxHold);
    assert!(matches!(guard.release().await.unwrap(), Released::AlreadyLost(_)));
}

#[tokio::test]
async fn who_looks_late_is_told_what_ended_the_hold_first() {
    let (tenure, keeper) = Tenure::with_own_keeper(Memory::new(), Options::default());
    // Nobody renews, and nobody notices the first end before the second one.
    drop(keeper);
    let lock = tenure.lock("a").ttl(Duration::from_millis(150));
    let (long, short) = (Duration::from_millis(250), Duration::from_millis(50));
    for (max_hold, cause) in [(short, LossCause::MaxHold), (long, LossCause::Expired)] {
        let guard = lock.clone().max_hold(max_hold).wait_for(Duration::from_secs(20)).await.unwrap();
        let guard = guard.guard().unwrap();
        let until = SystemClock.now().after(long);
        while !SystemClock.now().reached(until) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(guard.check().unwrap_err().cause, cause);
    }
}

#[tokio::test]
async fn c093_a_reader_that_asks_for_the_write_lock_keeps_its_read_lock() {
    let tenure = Tenure::new(Memory::new());
    let lock = tenure.rw_lock("a");
    let read = lock.read().acquire().await.unwrap();
    // There is no upgrade: the writer waits behind every reader, also behind its own.
    assert!(lock.write().try_acquire().await.unwrap().is_busy());
    assert!(lock.write().wait_for(Duration::from_millis(20)).await.unwrap().is_busy());
    assert_eq!(read.verify().await.unwrap(), Ok(()));
    assert_eq!(read.release().await.unwrap(), Released::Cleanly);
    // The two that gave up leave the line in the background.
    assert!(lock.write().wait_for(Duration::from_secs(20)).await.unwrap().guard().is_some());
}
