//! The program on a real etcd server.
//!
//! Slow: starts a server
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::Bench;
use tenure_servers::etcd::EtcdCluster;

#[test]
fn the_program_runs_shows_lists_and_breaks_on_etcd() {
    let cluster = EtcdCluster::single().unwrap();
    let bench = Bench::at(cluster.url());
    bench.end_of(["run", "jobs/1", "--", "true"]).with_code(0);
    let held = bench.hold(&[], "jobs/1");
    bench.end_of(["run", "-n", "jobs/1", "--", "true"]).with_code(120);
    let waiter = bench.start(&mut bench.tenure(["run", "jobs/1", "--", "true"]));
    bench.wait_for_waiters("jobs/1", 1);
    let listed = bench.end_of(["list", "jobs/"]).with_code(0).stdout;
    assert!(listed.contains("jobs/1"), "{listed}");
    let broken = bench.end_of(["break", "--yes", "jobs/1"]).with_code(0);
    assert!(broken.stdout.contains("jobs/1") || broken.stderr.contains("jobs/1"), "{broken:?}");
    waiter.ended().with_code(0);
    drop(held);
    bench.assert_free("jobs/1");
    let status = bench.end_of(["status", "jobs/1"]).with_code(0);
    assert!(status.stdout.starts_with("jobs/1 is free"), "{}", status.stdout);
    let version = cluster.etcdctl(0, &["version"]).unwrap();
    let old = version.contains("version: 3.4.23");
    assert!(!old || status.stderr.contains("15247"), "c025: a known bug is told: {}", status.stderr);
}

#[test]
fn a_cluster_that_is_not_there_is_told() {
    let [port] = tenure_servers::free_ports().unwrap();
    let bench = Bench::at(format!("etcd://127.0.0.1:{port}"));
    let ended = bench.end_of(["run", "-n", "k", "--", "true"]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("cannot connect"), "{}", ended.stderr);
}
