//! A key that one process uses alone costs no look at its line, on a real server of its own.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::sync::atomic::Ordering;

use support::*;
use tenure_core::engine::{Contender, Engine, Stray};
use tenure_zookeeper::Zookeeper;

/// No folder is removed but by a test.
const KEPT: &[&str] = &["-Dznode.container.checkIntervalMs=3600000"];

/// Takes and gives a key; its token.
async fn cycle(zookeeper: &Zookeeper, name: &str) -> u64 {
    let mut holder = zookeeper.contend(claim(name));
    let token = granted(&mut holder).await.tokens.first.get();
    holder.withdraw(Stray::Impossible).await.unwrap();
    token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_nobody_else_uses_is_had_by_one_request_and_given_back_by_one() {
    let server = ZookeeperEnsemble::single(KEPT).unwrap();
    let proxy = Proxy::before(server.port(), Proxy::length_first).unwrap();
    let (alone, other) = (open(&at(proxy.port())).await, open(&at(server.port())).await);
    let count = counting(&proxy);
    let (mut token, mut costs) = (0, Vec::new());
    for round in 0..16 {
        let before = count.load(Ordering::SeqCst);
        // One by one: somebody else was there; holds; is gone again.
        if [8, 12].contains(&round) {
            let others = cycle(&other, "k").await;
            assert!(others > token, "{others} after {token}");
            token = others;
        }
        let mut holder = other.contend(claim("k"));
        if round == 10 {
            token = granted(&mut holder).await.tokens.first.get();
            let mut waiter = alone.contend(claim("k"));
            waits(&mut waiter).await;
            holder.withdraw(Stray::Impossible).await.unwrap();
            let next = granted_at_last(&mut waiter).await.tokens.first.get();
            assert!(next > token, "{next} after {token}");
            token = next;
            waiter.withdraw(Stray::Impossible).await.unwrap();
        }
        let next = cycle(&alone, "k").await;
        assert!(next > token, "{next} after {token}");
        token = next;
        costs.push(count.load(Ordering::SeqCst) - before);
    }
    assert_eq!(costs[4..8], [2; 4], "{costs:?}");
    assert_eq!(costs[8], 3, "the line was read after somebody else had been there: {costs:?}");
    assert_eq!(costs[15], 2, "{costs:?}");
}

/// The next one has the number that the next one in the old folder would have had, and is not alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c081_a_folder_that_was_made_again_is_not_taken_for_the_one_before() {
    let server = ZookeeperEnsemble::single(KEPT).unwrap();
    let (alone, other) = (open(&at(server.port())).await, open(&at(server.port())).await);
    let by_hand = raw(server.port()).await;
    for rounds in [1, 3, 6] {
        for _ in 0..rounds {
            cycle(&alone, "k").await;
        }
        by_hand.delete("/tenure/k", None).await.unwrap();
        for _ in 1..rounds {
            cycle(&other, "k").await;
        }
        let mut holder = other.contend(claim("k"));
        let token = granted(&mut holder).await.tokens.first;
        let mut waiter = alone.contend(claim("k"));
        waits(&mut waiter).await;
        holder.withdraw(Stray::Impossible).await.unwrap();
        assert!(granted_at_last(&mut waiter).await.tokens.first > token);
        waiter.withdraw(Stray::Impossible).await.unwrap();
        by_hand.delete("/tenure/k", None).await.unwrap();
    }
}
