//! Many waiters, and whom a release wakes.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use futures_util::future::join_all;
use support::*;
use tenure_core::engine::{Attempt, Contender, Engine, Renewal, Stray, Wake, Withdrawn};
use tenure_core::{Fairness, Tenure};
use tokio::sync::mpsc;

/// How many events the server has sent to watches since it began.
fn events(cluster: &EtcdCluster) -> u64 {
    cluster.metric(0, "etcd_debugging_mvcc_events_total").unwrap() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c103_each_release_wakes_one_of_a_thousand_waiters() {
    const WAITERS: usize = 1000;
    const AT_ONCE: usize = 50;
    const RELEASES: u64 = 10;
    let cluster = EtcdCluster::single().unwrap();
    let engine = open(&cluster).await;
    let holder = Tenure::new(engine.clone()).lock("k").acquire().await.unwrap();
    let (told, mut grants) = mpsc::unbounded_channel();
    let waiters = Tenure::new(open(&cluster).await);
    let mut tasks = tokio::task::JoinSet::new();
    // Not all at once: how many requests a busy machine answers in time is not what is asked here.
    for joined in (AT_ONCE..=WAITERS).step_by(AT_ONCE) {
        for _ in 0..AT_ONCE {
            let (lock, told) = (waiters.lock("k").fairness(Fairness::StrictFifo), told.clone());
            tasks.spawn(async move {
                let guard = lock.acquire().await.unwrap();
                told.send(guard).unwrap();
            });
        }
        eventually("they wait", async || places(&engine, "k").await == joined + 1).await;
    }
    let before = events(&cluster);
    holder.release().await.unwrap();
    for _ in 0..RELEASES {
        let guard = in_time("the next is granted", grants.recv()).await.unwrap();
        guard.release().await.unwrap();
    }
    let last = in_time("the next is granted", grants.recv()).await.unwrap();
    let woken = events(&cluster) - before;
    // Besides the next in line, a holder that has held for a while hears of its own leaving.
    assert!((RELEASES..=2 * (RELEASES + 1)).contains(&woken), "{woken} wakes for {} releases", RELEASES + 1);
    assert!(grants.try_recv().is_err(), "two hold at once");
    tasks.abort_all();
    drop(last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permit_that_comes_back_wakes_one_of_many_and_they_follow_in_order() {
    const WAITERS: usize = 40;
    let cluster = EtcdCluster::single().unwrap();
    let engine = open(&cluster).await;
    let (holders, waiters) = (Tenure::new(engine.clone()), Tenure::new(open(&cluster).await));
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(holders.semaphore("k", 3).permit().fairness(Fairness::StrictFifo).acquire().await.unwrap());
    }
    let (told, mut grants) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..WAITERS {
        let (lock, told) = (waiters.semaphore("k", 3).permit().fairness(Fairness::StrictFifo), told.clone());
        tasks.spawn(async move {
            let guard = lock.acquire().await.unwrap();
            told.send(guard).unwrap();
        });
        eventually("it waits", async || places(&engine, "k").await == 4 + at).await;
    }
    let before = events(&cluster);
    let mut slots = Vec::new();
    for guard in held {
        guard.release().await.unwrap();
        let next = in_time("the next is granted", grants.recv()).await.unwrap();
        slots.push(next.slot());
        drop(next);
        let next = in_time("the one after it is granted", grants.recv()).await.unwrap();
        slots.push(next.slot());
        tokio::spawn(async move { next.lost().await });
    }
    let woken = events(&cluster) - before;
    assert!(slots.iter().all(|slot| *slot < 3), "{slots:?}");
    assert!(woken < 6 * WAITERS as u64, "{woken} wakes of {WAITERS} waiters for 6 grants");
    tasks.abort_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_is_told_at_once_although_others_write_while_it_begins_to_listen() {
    const WAITERS: usize = 40;
    let cluster = EtcdCluster::single().unwrap();
    let engine = open(&cluster).await;
    for round in 0..5 {
        let holder = &mut engine.contend(claim(&format!("k{round}")));
        granted(holder).await;
        let mut waiters: Vec<_> = (0..WAITERS).map(|_| engine.contend(claim(&format!("k{round}")))).collect();
        for waiter in &mut waiters {
            waits(waiter).await;
        }
        // The store has gone on since each of them looked.
        granted(&mut engine.contend(claim(&format!("other{round}")))).await;
        let mut told: Vec<_> = waiters.iter_mut().map(|waiter| Box::pin(waiter.changed())).collect();
        let listening = async {
            // Watches that the server has to bring up to date wait for a round of a tenth of a second for it.
            for _ in 0..20 {
                let behind = cluster.metric(0, "etcd_debugging_mvcc_slow_watcher_total").unwrap_or(0.0);
                assert!(behind < 1.0, "{behind} watches are behind the store");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = futures_util::future::select_all(&mut told) => panic!("nothing has happened"),
            () = listening => {}
        }
        drop(told);
        holder.withdraw(Stray::Impossible).await.unwrap();
        assert_eq!(in_time("the first is told", waiters[0].changed()).await.unwrap(), Wake::LookAgain);
        granted(&mut waiters[0]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_between_a_look_and_the_begin_of_listening_is_told() {
    let cluster = EtcdCluster::single().unwrap();
    let engine = open(&cluster).await;
    let (mut holder, mut waiter) = (engine.contend(claim("k")), engine.contend(claim("k")));
    granted(&mut holder).await;
    waits(&mut waiter).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    for _ in 0..2 {
        assert_eq!(in_time("it is told", waiter.changed()).await.unwrap(), Wake::LookAgain);
    }
    granted(&mut waiter).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c103_who_holds_or_waits_is_not_kept_from_its_lease_by_any_number_who_come() {
    const COME: usize = 160;
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    // Some of those who come find leases that are idle, the others ask for theirs.
    let mut before: Vec<_> = (0..COME / 2).map(|at| etcd.contend(claim(&format!("before{at}")))).collect();
    join_all(before.iter_mut().map(granted_at_last)).await;
    join_all(before.iter_mut().map(|one| one.withdraw(Stray::Impossible))).await;
    let (mut holder, mut waiter) = (etcd.contend(claim("k")), etcd.contend(claim("k")));
    granted(&mut holder).await;
    waits(&mut waiter).await;
    let mut come: Vec<_> = (0..COME).map(|_| etcd.contend(claim("k"))).collect();
    // As when the server is slow: nobody has an answer.
    let (parked, done) = begin_and_park(come.iter_mut().map(|one| one.attempt()));
    assert_eq!(in_time("the waiter looks", waits(&mut waiter)).await.ahead, 1);
    let renewed = in_time("the holder renews", holder.renew()).await.unwrap();
    assert!(matches!(renewed, Renewal::Renewed(_)));
    let left = in_time("the holder leaves", holder.withdraw(Stray::Impossible)).await.unwrap();
    assert_eq!(left, Withdrawn::Held);
    in_time("the waiter is granted", granted(&mut waiter)).await;
    for seen in in_time("they join", join_all(parked)).await.into_iter().chain(done) {
        assert!(matches!(seen, Ok(Attempt::Waiting(_))), "{seen:?}");
    }
}
