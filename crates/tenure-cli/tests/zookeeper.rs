//! The program on a real ZooKeeper server.
//!
//! Slow: starts a server
#![cfg(feature = "zookeeper")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rustix::process::{Signal, kill_process};
use support::Bench;
use tenure_servers::zookeeper::ZookeeperEnsemble;

/// The token that a command under the lock sees.
fn token(bench: &Bench, at: &str) -> u64 {
    let ended = bench.end_of(["run", "--at", at, "nightly", "-c", "echo $TENURE_TOKEN"]).with_code(0);
    ended.stdout.trim().parse().unwrap()
}

#[test]
fn run_status_list_and_break_work_on_zookeeper() {
    let (server, bench) = (ZookeeperEnsemble::single(&[]).unwrap(), Bench::new());
    let at = server.url();
    let first = token(&bench, &at);
    let held = bench.hold(&["--at", &at], "nightly");
    let shown = bench.end_of(["status", "--at", &at, "nightly"]).with_code(0).stdout;
    assert!(shown.starts_with("nightly is held by echo $$") && shown.contains("holds"), "{shown}");
    let listed = bench.end_of(["list", "--at", &at]).with_code(0).stdout;
    assert!(listed.contains("nightly"), "{listed}");
    bench.end_of(["run", "--at", &at, "-n", "nightly", "--", "true"]).with_code(120);
    bench.end_of(["break", "--at", &at, "--yes", "nightly"]).with_code(0);
    // Its command is ended, for it may not go on beside the next one.
    held.end().with_code(121);
    assert!(token(&bench, &at) > first);
    assert_eq!(bench.end_of(["list", "--at", &at]).with_code(0).stdout, "");
}

#[test]
fn c001_c036_a_program_that_is_stopped_for_longer_than_its_session_has_lost_its_lock() {
    let (server, bench) = (ZookeeperEnsemble::single(&[]).unwrap(), Bench::new());
    let at = format!("{}?session-ms=6000&allow=longer-terms", server.url());
    let held = bench.hold(&["--at", &at], "nightly");
    let pid = held.pid();
    kill_process(pid, Signal::STOP).unwrap();
    // The next one waits until the server has ended the session, and no longer.
    let next = token(&bench, &at);
    kill_process(pid, Signal::CONT).unwrap();
    let ended = held.end().with_code(121);
    assert!(ended.stderr.contains("lost"), "{}", ended.stderr);
    assert!(token(&bench, &at) > next);
}

#[test]
fn an_ensemble_that_is_away_and_a_chroot_that_is_missing_say_what_to_change() {
    let (server, bench) = (ZookeeperEnsemble::single(&[]).unwrap(), Bench::new());
    let missing = format!("{}/nowhere", server.url());
    let refused = bench.end_of(["run", "--at", &missing, "a", "--", "true"]).with_code(123);
    assert!(refused.stderr.contains("/nowhere") && refused.stderr.contains("--at"), "{}", refused.stderr);
    let away = format!("zookeeper://u:secret@127.0.0.1:{}", server.port());
    drop(server);
    let refused = bench.end_of(["status", "--at", &away, "a"]).with_code(122);
    assert!(!refused.stderr.contains("secret"), "{}", refused.stderr);
    let tls = bench.end_of(["status", "--at", "zookeepers://h", "a"]).with_code(64);
    assert!(tls.stderr.contains("TLS"), "{}", tls.stderr);
}
