//! Users' own transactions, which only a holder can commit.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::{Options, Tenure};
use tenure_etcd::EtcdGuardError;
use tenure_etcd::rpc::Compare;

async fn value(cluster: &EtcdCluster, key: &str) -> String {
    cluster.etcdctl(0, &["get", key, "--print-value-only"]).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_commits_and_after_its_release_nothing_is_written() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    let tenure = Tenure::new(etcd.clone());
    let guard = tenure.lock("orders").acquire().await.unwrap();
    let done = etcd.txn(&guard).put("data", "1").put("more", "2").commit().await.unwrap();
    assert!(done.succeeded);
    // The user's own condition decides between two ways, both under the fence.
    let absent = Compare::created_at(b"data", 0);
    let done = etcd.txn(&guard).when(absent).put("data", "2").commit().await.unwrap();
    assert!(!done.succeeded, "the data was there");
    assert_eq!(value(&cluster, "data").await, "1");
    let gate = etcd.gate(&guard).unwrap();
    assert_eq!(u64::try_from(gate.create_revision).unwrap(), guard.token().get());
    let late = etcd.txn(&guard).put("data", "late").delete("more");
    guard.release().await.unwrap();
    assert!(matches!(late.commit().await, Err(EtcdGuardError::Stale { .. })));
    assert_eq!((value(&cluster, "data").await, value(&cluster, "more").await), ("1".into(), "2".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c001_a_stale_holder_cannot_commit_although_it_knows_of_nothing() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    // A paused process keeps nothing.
    let (paused, keeper) = Tenure::with_own_keeper(etcd.clone(), Options::default());
    drop(keeper);
    let guard = paused.lock("orders").ttl(Duration::from_secs(2)).acquire().await.unwrap();
    let late = etcd.txn(&guard).put("data", "late");
    let other = open(&cluster).await;
    let heir = Tenure::new(other.clone()).lock("orders").acquire().await.unwrap();
    other.txn(&heir).put("data", "fresh").commit().await.unwrap();
    assert!(matches!(late.commit().await, Err(EtcdGuardError::Stale { .. })));
    assert_eq!(value(&cluster, "data").await, "fresh");
    heir.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_survives_the_move_to_a_longer_lease_and_not_a_handover() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    let (first, second) = (Tenure::new(open(&cluster).await), Tenure::new(etcd.clone()));
    let holder = first.lock("k").acquire().await.unwrap();
    let lock = second.lock("k");
    let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
    eventually("it waits", async || places(&etcd, "k").await == 2).await;
    holder.release().await.unwrap();
    let guard = in_time("it is granted", waiter).await.unwrap();
    let early = etcd.txn(&guard).put("data", "1");
    let before = etcd.gate(&guard).unwrap();
    eventually("it has moved", async || etcd.gate(&guard).is_some_and(|gate| gate != before)).await;
    early.commit().await.unwrap();
    assert_eq!(value(&cluster, "data").await, "1");
    // Another task of this process takes over, with a token of its own.
    let late = etcd.txn(&guard).put("data", "late");
    let lock = second.lock("k");
    let next = tokio::spawn(async move { lock.acquire().await.unwrap() });
    let release = tokio::spawn(async move {
        // So that the next one waits when it is released.
        tokio::time::sleep(Duration::from_millis(50)).await;
        guard.release().await.unwrap();
    });
    let next = in_time("it is handed over", next).await.unwrap();
    release.await.unwrap();
    assert!(matches!(late.commit().await, Err(EtcdGuardError::Stale { .. })));
    etcd.txn(&next).put("data", "2").commit().await.unwrap();
    assert_eq!(value(&cluster, "data").await, "2");
    next.release().await.unwrap();
}
