//! Writes that are due at the same time are sent together.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use futures_util::future::join_all;
use support::*;
use tenure_core::engine::{Attempt, Contender, Engine, Stray, Withdrawn};
use tenure_etcd::{Etcd, EtcdContender};

/// How many requests have changed something since the server began, but for those for leases, of which there may be
/// too few when more claims come at the same time than before.
fn log_writes(cluster: &EtcdCluster) -> u64 {
    let [applied, granted] = ["etcd_server_proposals_applied_total", "etcd_debugging_lease_granted_total"]
        .map(|name| cluster.metric(0, name).unwrap() as u64);
    applied - granted
}

fn contenders(etcd: &Etcd, many: usize) -> Vec<EtcdContender> {
    (0..many).map(|at| etcd.contend(claim(&format!("k{at}")))).collect()
}

async fn all_granted(contenders: &mut [EtcdContender]) {
    let grants = join_all(contenders.iter_mut().map(granted_at_last)).await;
    assert_eq!(grants.len(), contenders.len());
}

async fn all_leave(contenders: &mut [EtcdContender]) {
    for left in join_all(contenders.iter_mut().map(|one| one.withdraw(Stray::Impossible))).await {
        assert_eq!(left.unwrap(), Withdrawn::Held);
    }
}

/// Contenders whose leases are there already.
async fn warmed_up(etcd: &Etcd, many: usize) -> Vec<EtcdContender> {
    let mut contenders = contenders(etcd, many);
    all_granted(&mut contenders).await;
    all_leave(&mut contenders).await;
    contenders
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_are_due_together_are_few_entries_in_the_log() {
    const MANY: usize = 64;
    // On a busy machine some come later than others, but never each by itself.
    const FEW: u64 = 16;
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    let mut contenders = warmed_up(&etcd, MANY).await;
    let before = log_writes(&cluster);
    all_granted(&mut contenders).await;
    let joined = log_writes(&cluster) - before;
    all_leave(&mut contenders).await;
    let left = log_writes(&cluster) - before - joined;
    assert!(joined <= FEW && left <= FEW, "{joined} entries for {MANY} locks, {left} for their release");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_nobody_fetches_holds_up_no_other() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    let mut contenders = warmed_up(&etcd, 8).await;
    // Sent, and then left alone: their tasks do something else, or wait for one of the others.
    let (parked, others) = contenders.split_at_mut(4);
    let (parked, done) = begin_and_park(parked.iter_mut().map(|one| one.attempt()));
    in_time("the others are granted", all_granted(others)).await;
    for seen in join_all(parked).await.into_iter().chain(done) {
        assert!(matches!(seen, Ok(Attempt::Granted(_))), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_is_never_written_twice_in_one_transaction() {
    const MANY: usize = 40;
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    let mut contenders: Vec<_> = (0..MANY).map(|_| etcd.contend(claim("k"))).collect();
    join_all(contenders.iter_mut().map(|one| one.attempt())).await.into_iter().for_each(|seen| {
        seen.unwrap();
    });
    let line = etcd.inspect(&key("k")).await.unwrap();
    assert_eq!(line.places.len(), MANY);
    let holders = join_all(contenders.iter_mut().map(holds)).await;
    assert_eq!(holders.into_iter().filter(|holds| *holds).count(), 1, "one holds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_refused_takes_no_other_with_it() {
    const MANY: usize = 16;
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    let mut contenders = warmed_up(&etcd, MANY).await;
    // Some of the leases that serve the next locks end behind our back.
    let leases = cluster.etcdctl(0, &["lease", "list"]).unwrap();
    for lease in leases.lines().skip(1).step_by(3) {
        cluster.etcdctl(0, &["lease", "revoke", lease.trim()]).unwrap();
    }
    all_granted(&mut contenders).await;
    all_leave(&mut contenders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_few_operations_at_once_is_asked_one_by_one() {
    const MANY: usize = 32;
    // The second takes as few by their size.
    for (limit, few) in [("--max-txn-ops", "8"), ("--max-request-bytes", "6000")] {
        let options = ["--unsafe-no-fsync", limit, few].map(str::to_owned).to_vec();
        let cluster = EtcdCluster::start::<1>(&EtcdStart { options, ..EtcdStart::default() }).unwrap();
        let etcd = open(&cluster).await;
        let mut contenders = contenders(&etcd, MANY);
        for _ in 0..2 {
            for tried in join_all(contenders.iter_mut().map(|one| one.attempt())).await {
                assert!(matches!(tried, Ok(Attempt::Granted(_))), "{limit}: {tried:?}");
            }
            all_leave(&mut contenders).await;
        }
    }
}
