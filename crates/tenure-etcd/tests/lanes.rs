//! Several contenders of one claim, as the caller's, the keeper's and that of a withdrawal, which race for its leases.
//!
//! A request is left alone, as if its task did not get on, while another contender of the claim does its work. On a
//! busy machine such a request may have its answer at once; then the others find what it has done.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use futures_util::future::join_all;
use support::*;
use tenure_core::engine::{Attempt, Contender, Engine, Gone, Renewal, Stray, Withdrawn};

/// How often the server has refused a transaction for a lease that has ended.
const REFUSED: &str = "grpc_server_handled_total{grpc_code=\"NotFound\",grpc_method=\"Txn\",\
                       grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";

/// More requests than a connection has turns.
const MANY: usize = 200;

/// Ends the leases of waiters, of which clients know nothing.
fn revoke_short_leases(cluster: &EtcdCluster) {
    let leases = cluster.etcdctl(0, &["lease", "list"]).unwrap();
    for lease in leases.lines().skip(1).map(str::trim) {
        let said = cluster.etcdctl(0, &["lease", "timetolive", lease]).unwrap();
        if said.contains("TTL(5s)") {
            cluster.etcdctl(0, &["lease", "revoke", lease]).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c029_an_attempt_whose_place_another_lane_took_back_is_no_hold() {
    let cluster = EtcdCluster::single().unwrap();
    let (etcd, other) = (open(&cluster).await, open(&cluster).await);
    warm_up(&etcd).await;
    let wish = claim("k");
    let (mut lane, mut leaves) = (etcd.contend(wish.clone()), etcd.contend(wish));
    let (parked, _) = begin_and_park([lane.attempt()]);
    eventually("it was applied", async || places(&other, "k").await == 1).await;
    assert_eq!(leaves.withdraw(Stray::Possible).await.unwrap(), Withdrawn::Held);
    let mut next = other.contend(claim("k"));
    granted(&mut next).await;
    for late in join_all(parked).await {
        assert!(matches!(late, Ok(Attempt::Gone(Gone::Withdrawn))), "{late:?}");
    }
    assert!(holds(&mut next).await);
    assert_eq!(places(&other, "k").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c029_a_lease_under_which_an_attempt_may_still_arrive_is_given_to_nobody_else() {
    let (cluster, proxy, etcd) = behind_a_proxy().await;
    warm_up(&etcd).await;
    let wish = claim("k");
    let (mut lane, mut leaves) = (etcd.contend(wish.clone()), etcd.contend(wish.clone()));
    attempt_unanswered(&mut lane, &proxy).await;
    let (former, _) = place_of(&cluster, "k", wish.id);
    // Whoever leaves knows nothing of the attempt of the other lane.
    let left = at_last("it leaves", async || leaves.withdraw(Stray::Impossible).await).await;
    assert_eq!(left, Withdrawn::Held);
    let next = claim("k");
    granted(&mut etcd.contend(next.clone())).await;
    assert_ne!(place_of(&cluster, "k", next.id).0, former, "it has the name that may still be made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c035_an_attempt_that_is_refused_costs_no_place_of_another_lane() {
    let cluster = EtcdCluster::single().unwrap();
    let (etcd, other) = (open(&cluster).await, open(&cluster).await);
    let mut holder = other.contend(claim("k"));
    granted(&mut holder).await;
    warm_up(&etcd).await;
    revoke_short_leases(&cluster);
    let wish = claim("k");
    let (mut lane, mut second) = (etcd.contend(wish.clone()), etcd.contend(wish));
    // Behind others it would hang on a lease that has ended.
    let (parked, _) = begin_and_park([lane.attempt()]);
    eventually("it was refused", async || {
        cluster.metric(0, REFUSED).is_some_and(|refused| refused > 0.0) || places(&other, "k").await > 1
    })
    .await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    // In an empty line it hangs on the other one.
    let grant = granted(&mut second).await;
    for late in join_all(parked).await {
        assert!(matches!(&late, Ok(Attempt::Granted(found)) if found.tokens == grant.tokens), "{late:?}");
    }
    assert_eq!(places(&other, "k").await, 1);
    assert!(holds(&mut second).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c035_who_sees_a_place_gone_ends_no_lease_of_the_next_one() {
    let (cluster, proxy, etcd) = behind_a_proxy().await;
    warm_up(&etcd).await;
    let wish = claim("k");
    let (mut lane, mut second) = (etcd.contend(wish.clone()), etcd.contend(wish.clone()));
    // From now on all leases of the claim are ended when a place of it has gone.
    attempt_unanswered(&mut lane, &proxy).await;
    let former = granted_at_last(&mut lane).await;
    revoke_lease_of(&cluster, "k", wish.id);
    let (parked, _) = begin_and_park([lane.attempt()]);
    let grant = granted(&mut second).await;
    assert!(grant.tokens.first > former.tokens.first);
    for late in join_all(parked).await {
        assert!(matches!(&late, Ok(Attempt::Granted(found)) if found.tokens == grant.tokens), "{late:?}");
    }
    assert!(holds(&mut second).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_on_a_lease_that_another_lane_has_spared_finds_the_hold() {
    let cluster = EtcdCluster::single().unwrap();
    let (etcd, other) = (open(&cluster).await, open(&cluster).await);
    let mut holder = other.contend(claim("k"));
    granted(&mut holder).await;
    let wish = claim("k");
    let (mut lane, mut second) = (etcd.contend(wish.clone()), etcd.contend(wish.clone()));
    waits(&mut lane).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    granted(&mut lane).await;
    let (_, short) = place_of(&cluster, "k", wish.id);
    // Its renewal finds no turn on its connection, and the other lane has a connection and a runtime of its own.
    let key = key("free");
    let (crowd, _) = begin_and_park((0..MANY).map(|_| etcd.inspect(&key)));
    let (parked, _) = begin_and_park([lane.renew()]);
    let moved = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(second.renew())
    });
    let moved = tokio::task::spawn_blocking(|| moved.join().unwrap()).await.unwrap();
    assert!(matches!(moved, Ok(Renewal::Renewed(_))), "{moved:?}");
    cluster.etcdctl(0, &["lease", "revoke", &format!("{short:x}")]).unwrap();
    in_time("the crowd has its answers", join_all(crowd)).await;
    for late in join_all(parked).await {
        assert!(matches!(late, Ok(Renewal::Renewed(_))), "{late:?}");
    }
    assert!(holds(&mut lane).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c035_a_claim_that_was_away_for_longer_than_its_lease_makes_no_second_place() {
    let cluster = EtcdCluster::single().unwrap();
    let (etcd, other) = (open(&cluster).await, open(&cluster).await);
    granted(&mut other.contend(claim("k"))).await;
    let wish = short_claim("k", Duration::from_secs(3));
    let mut before = etcd.contend(wish.clone());
    waits(&mut before).await;
    // As when a new leader lets all leases begin anew, while the process stands still.
    let (name, lease) = place_of(&cluster, "k", wish.id);
    let since = now();
    while now().since(since) < Duration::from_secs(6) {
        cluster.etcdctl(0, &["lease", "keep-alive", "--once", &format!("{lease:x}")]).unwrap();
    }
    drop(before);
    waits(&mut etcd.contend(wish.clone())).await;
    assert_eq!(place_of(&cluster, "k", wish.id).0, name);
    assert_eq!(places(&other, "k").await, 2);
}
