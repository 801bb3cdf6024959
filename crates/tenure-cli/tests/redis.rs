//! The program on real Redis servers: one primary, sentinels, and a cluster.
//!
//! Slow: starts servers
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use support::{Bench, tell};
use tenure_servers::free_ports;
use tenure_servers::redis::{RedisCluster, RedisServer, SentinelSet};

/// The token that a command under the lock sees.
fn token(bench: &Bench, at: &str) -> u64 {
    let ended = bench.end_of(["run", "--at", at, "nightly", "-c", "echo $TENURE_TOKEN"]).with_code(0);
    ended.stdout.trim().parse().unwrap()
}

/// What an operator does, from the first lock to the last.
fn works_at(at: &str) {
    let bench = Bench::new();
    let first = token(&bench, at);
    let held = bench.hold(&["--at", at], "nightly");
    let shown = bench.end_of(["status", "--at", at, "nightly"]).with_code(0).stdout;
    assert!(shown.starts_with("nightly is held by echo $$") && shown.contains("holds"), "{shown}");
    let listed = bench.end_of(["list", "--at", at]).with_code(0).stdout;
    assert!(listed.contains("nightly"), "{listed}");
    bench.end_of(["run", "--at", at, "-n", "nightly", "--", "true"]).with_code(120);
    bench.end_of(["break", "--at", at, "--yes", "nightly"]).with_code(0);
    // Its command is ended, for it may not go on beside the next one.
    held.end().with_code(121);
    assert!(token(&bench, at) > first);
    assert_eq!(bench.end_of(["list", "--at", at]).with_code(0).stdout, "");
}

#[test]
fn run_status_list_and_break_work_on_one_primary() {
    works_at(&RedisServer::start(&[]).unwrap().url());
}

#[test]
fn run_status_list_and_break_work_with_sentinels() {
    let set = SentinelSet::start(Duration::from_secs(15), &[], &[]).unwrap();
    works_at(&set.url());
    let refused = Bench::new().end_of(["status", "--at", &format!("{}-x", set.url()), "a"]).with_code(123);
    assert!(refused.stderr.contains("tenure-x") && refused.stderr.contains("--at"), "{}", refused.stderr);
}

#[test]
fn run_status_list_and_break_work_on_a_cluster() {
    let cluster = RedisCluster::start(Duration::from_secs(15), &[]).unwrap();
    works_at(&cluster.url());
}

#[test]
fn servers_that_are_away_or_refuse_us_say_what_to_change_and_no_password() {
    let ([port], bench) = (free_ports().unwrap(), Bench::new());
    for at in [
        format!("redis://u:secret@127.0.0.1:{port}"),
        format!("redis+sentinel://u:secret@127.0.0.1:{port}/main"),
        format!("redis+cluster://u:secret@127.0.0.1:{port}"),
    ] {
        for command in [&["status", "--at", &at, "a"][..], &["run", "--at", &at, "a", "--", "true"]] {
            let refused = bench.end_of(command).with_code(122);
            let words = &refused.stderr;
            assert!(words.contains("--at") && !words.contains("secret"), "{words}");
            assert_eq!(words.lines().count(), 1, "{words}");
        }
    }
    let locked = RedisServer::start(&["--requirepass", "other"]).unwrap();
    let at = format!("redis://:secret@127.0.0.1:{}", locked.port());
    let refused = bench.end_of(["status", "--at", &at, "a"]).with_code(123);
    assert!(
        refused.stderr.contains("password is wrong") && !refused.stderr.contains("secret"),
        "{}",
        refused.stderr
    );
    let unread = bench.end_of(["status", "--at", "redis+sentinel://h1,h2", "a"]).with_code(64);
    assert!(unread.stderr.contains("name of the primary"), "{}", unread.stderr);
}

#[test]
fn c001_a_stale_writer_whose_lock_is_on_redis_is_told_and_refused_by_the_gate() {
    let server = RedisServer::start(&[]).unwrap();
    let output = tell(&["--at", &server.url()]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for expected in
        ["an operator broke it", "is refused: fencing token", "=> the gate refused the stale write"]
    {
        assert!(said.contains(expected), "{expected:?} in\n{said}");
    }
}
