//! Three servers, of which one is killed, frozen or stays behind.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::engine::{Contender, Engine, Renewal, Stray, Validity, Withdrawn};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{Tenure, Ttl};
use tenure_etcd::Etcd;

/// The options of a client that goes to another server soon.
fn quick(url: &str) -> tenure_etcd::EtcdOptions {
    options(url).with_response_timeout(Duration::from_millis(1000))
}

async fn leader_of(cluster: &EtcdCluster) -> usize {
    let mut leader = None;
    eventually("there is a leader", async || {
        leader = cluster.leader();
        leader.is_some()
    })
    .await;
    leader.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c065_when_the_leader_is_killed_holds_stand_and_waiters_are_granted() {
    let mut cluster = EtcdCluster::three().unwrap();
    let leader = leader_of(&cluster).await;
    let engine = Etcd::open(&quick(&cluster.url())).await.unwrap();
    let (one, two) =
        (Tenure::new(engine.clone()), Tenure::new(Etcd::open(&quick(&cluster.url())).await.unwrap()));
    let guard = one.lock("k").acquire().await.unwrap();
    let waiter = tokio::spawn(async move { two.lock("k").acquire().await });
    eventually("it waits", async || places(&engine, "k").await == 2).await;
    cluster.kill(leader);
    eventually("the hold stands", async || guard.verify().await.is_ok_and(|verified| verified.is_ok())).await;
    let token = guard.token();
    guard.release().await.unwrap();
    let next = in_time("the waiter is granted", waiter).await.unwrap().unwrap();
    assert!(next.token() > token);
    next.release().await.unwrap();
    let fresh = one.lock("other").acquire().await.unwrap();
    fresh.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c024_a_holder_that_vanishes_with_the_leader_frees_the_key_within_its_bound() {
    let mut cluster = EtcdCluster::three().unwrap();
    let leader = leader_of(&cluster).await;
    let ttl = Duration::from_secs(4);
    let mut wish = claim("k");
    wish.ttl = Ttl::new(ttl).unwrap();
    let dying = Etcd::open(&quick(&cluster.url())).await.unwrap();
    let grant = granted(&mut dying.contend(wish)).await;
    drop(dying);
    cluster.kill(leader);
    let since = SystemClock.now();
    let heir = Etcd::open(&quick(&cluster.url())).await.unwrap();
    let mut heir = heir.contend(claim("k"));
    let next = granted_at_last(&mut heir).await;
    assert!(next.tokens.first > grant.tokens.first);
    // Twice the TTL and the time of an election are what is promised; the rest is for a busy machine.
    assert!(SystemClock.now().since(since) < ttl * 2 + Duration::from_secs(15));
    assert_eq!(heir.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_a_frozen_follower_goes_to_another_server() {
    let cluster = EtcdCluster::three().unwrap();
    let leader = leader_of(&cluster).await;
    let follower = (leader + 1) % 3;
    // To the follower first: a client begins anywhere, so as often as it takes.
    let lone = Etcd::open(&quick(&cluster.url_of(follower))).await.unwrap();
    let all = Etcd::open(&quick(&cluster.url())).await.unwrap();
    let (mut on_follower, mut anywhere) = (lone.contend(claim("a")), all.contend(claim("b")));
    granted(&mut on_follower).await;
    granted(&mut anywhere).await;
    cluster.process(follower).freeze();
    assert!(on_follower.renew().await.is_err(), "nobody answers there");
    eventually("it is renewed elsewhere", async || matches!(anywhere.renew().await, Ok(Renewal::Renewed(_))))
        .await;
    anywhere.withdraw(Stray::Impossible).await.unwrap();
    cluster.process(follower).thaw();
    eventually("it is renewed again", async || matches!(on_follower.renew().await, Ok(Renewal::Renewed(_))))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c062_a_server_that_stayed_behind_does_not_answer_with_what_was() {
    let mut cluster = EtcdCluster::three().unwrap();
    let leader = leader_of(&cluster).await;
    let (behind, ahead) = ((leader + 1) % 3, (leader + 2) % 3);
    let engine = Etcd::open(&quick(&cluster.url_of(ahead))).await.unwrap();
    let mut holder = engine.contend(claim("k"));
    let first = granted(&mut holder).await;
    cluster.kill(behind);
    // What happens now, that server does not know of.
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    let mut next = engine.contend(claim("k"));
    let second = granted(&mut next).await;
    cluster.revive(behind).unwrap();
    let late = Etcd::open(&quick(&cluster.url_of(behind))).await.unwrap();
    let line = late.inspect(&key("k")).await.unwrap();
    assert_eq!(line.last_token, Some(second.tokens.first), "it saw {line:?}, where {first:?} was before");
    assert_eq!(waits(&mut late.contend(claim("k"))).await.ahead, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c025_while_a_leader_stalls_the_order_of_tokens_is_kept() {
    let cluster = EtcdCluster::three().unwrap();
    let leader = leader_of(&cluster).await;
    let urls: Vec<_> = (0..3).filter(|n| *n != leader).map(|n| cluster.port(n)).collect();
    let url = format!("etcd://127.0.0.1:{},127.0.0.1:{}", urls[0], urls[1]);
    let engine = Etcd::open(&quick(&url)).await.unwrap();
    let mut wish = claim("k");
    wish.ttl = Ttl::new(Duration::from_secs(4)).unwrap();
    let mut holder = engine.contend(wish);
    let mut last = granted(&mut holder).await.tokens.first;
    cluster.process(leader).freeze();
    // While the others elect, and after the old leader has come back with leases that it believes to have ended.
    for thawed in [false, true] {
        for _ in 0..5 {
            let mut next = engine.contend(claim("k"));
            // An early loss is a bug of such servers, and no harm to tokens.
            eventually("the holder leaves", async || holder.withdraw(Stray::Impossible).await.is_ok()).await;
            let token = granted_at_last(&mut next).await.tokens.first;
            assert!(token > last, "{token} after {last}");
            (holder, last) = (next, token);
        }
        if !thawed {
            cluster.process(leader).thaw();
        }
    }
    let renewed = holder.renew().await;
    assert!(!matches!(renewed, Ok(Renewal::Renewed(Validity::Lifetime))), "{renewed:?}");
}
