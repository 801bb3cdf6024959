//! Servers of an ensemble that are killed, frozen and cut off, one after another.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use support::*;
use tenure_core::Tenure;
use tenure_core::engine::{Contender, Engine, Renewal, Stray};
use tenure_zookeeper::Zookeeper;

/// Long enough for an election on a busy machine.
const PATIENT: Duration = Duration::from_secs(40);

async fn at_all(ensemble: &ZookeeperEnsemble) -> Zookeeper {
    open(&options(ensemble.hosts()).with_session(PATIENT)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c048_c062_holds_and_order_survive_the_loss_of_a_leader_and_a_follower_that_lags() {
    let mut ensemble = ZookeeperEnsemble::three(&[]).unwrap();
    let (one, two) = (at_all(&ensemble).await, at_all(&ensemble).await);
    let srvr = ensemble.servers()[0].say("srvr").unwrap();
    let facts = one.facts();
    assert_eq!(
        srvr.contains("version: 3.8.0"),
        facts.cautions.iter().any(|caution| caution.contains("3.8.0"))
    );
    let mut holder = one.contend(claim("k"));
    let first = granted(&mut holder).await;
    let mut waiter = two.contend(claim("k"));
    waits(&mut waiter).await;

    let leader = ensemble.leader().unwrap();
    ensemble.servers()[leader].kill();
    eventually("the hold is proven at another leader", async || {
        matches!(holder.renew().await, Ok(Renewal::Renewed(_)))
    })
    .await;
    assert_eq!(places(&two, "k").await, 2, "nobody has lost a place");
    holder.withdraw(Stray::Impossible).await.unwrap();
    let second = granted_at_last(&mut waiter).await;
    assert!(second.tokens.first > first.tokens.last());
    ensemble.servers()[leader].restart().unwrap();
    ensemble.wait_ready().unwrap();

    // One server stops and misses what happens meanwhile; then clients are at it again.
    let leader = ensemble.leader().unwrap();
    let lags = (leader + 1) % 3;
    ensemble.servers()[lags].process().freeze();
    eventually("the hold is proven at a server that runs", async || {
        matches!(waiter.renew().await, Ok(Renewal::Renewed(_)))
    })
    .await;
    let mut third = one.contend(claim("k"));
    eventually("another joins", async || third.attempt().await.is_ok()).await;
    eventually("it is released", async || waiter.withdraw(Stray::Impossible).await.is_ok()).await;
    let third = granted_at_last(&mut third).await;
    assert!(third.tokens.first > second.tokens.last());
    ensemble.servers()[lags].process().thaw();
    let there = open(&at(ensemble.servers()[lags].port()).with_session(PATIENT)).await;
    let line = there.inspect(&key("k")).await.unwrap();
    assert_eq!(line.places.len(), 1, "it has synchronised before it answered");
    assert_eq!(line.last_token, Some(third.tokens.first));
    let fourth = there.contend(claim("k")).attempt().await.unwrap();
    assert!(matches!(fourth, tenure_core::engine::Attempt::Waiting(_)), "{fourth:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c004_a_client_of_a_server_that_is_cut_off_from_its_leader_proves_nothing() {
    let mut ensemble = ZookeeperEnsemble::three(&[]).unwrap();
    let leader = ensemble.leader().unwrap();
    let port = ensemble.servers()[(leader + 1) % 3].port();
    let alone = open(&at(port).with_session(PATIENT)).await;
    let mut holder = alone.contend(claim("k"));
    granted(&mut holder).await;
    // Two of three are gone: the last one may go on reading for a while, and agrees on nothing.
    for other in [leader, (leader + 2) % 3] {
        ensemble.servers()[other].process().freeze();
    }
    assert!(holder.renew().await.is_err(), "a hold was proven by a minority");
    for other in [leader, (leader + 2) % 3] {
        ensemble.servers()[other].process().thaw();
    }
    eventually("it is proven again", async || matches!(holder.renew().await, Ok(Renewal::Renewed(_)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intervals_never_overlap_and_tokens_rise_while_leaders_are_killed() {
    let mut ensemble = ZookeeperEnsemble::three(&[]).unwrap();
    let (inside, highest, grants) =
        (Arc::new(AtomicI64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for _ in 0..3 {
        let lock = Tenure::new(at_all(&ensemble).await).lock("k");
        let (inside, highest, grants) = (Arc::clone(&inside), Arc::clone(&highest), Arc::clone(&grants));
        let stop = Arc::clone(&stop);
        workers.push(tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                // While nobody leads, there may be errors; never two holders.
                let Ok(guard) = lock.acquire().await else { continue };
                let mine = inside.fetch_add(1, Ordering::SeqCst);
                let token = guard.token().get();
                let before = highest.fetch_max(token, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                let held = guard.is_held();
                inside.fetch_sub(1, Ordering::SeqCst);
                assert!(!held || (mine == 0 && before < token), "two holders, or a token that fell");
                grants.fetch_add(1, Ordering::SeqCst);
                drop(guard.release().await);
            }
        }));
    }
    for _ in 0..2 {
        let seen = grants.load(Ordering::SeqCst);
        eventually("locks are taken", async || grants.load(Ordering::SeqCst) > seen + 20).await;
        let mut leader = None;
        eventually("somebody leads", async || {
            leader = ensemble.leader();
            leader.is_some()
        })
        .await;
        ensemble.servers()[leader.unwrap()].restart().unwrap();
    }
    let seen = grants.load(Ordering::SeqCst);
    eventually("locks are taken again", async || grants.load(Ordering::SeqCst) > seen + 20).await;
    stop.store(true, Ordering::SeqCst);
    for worker in workers {
        in_time("the workers end", worker).await.unwrap();
    }
}
