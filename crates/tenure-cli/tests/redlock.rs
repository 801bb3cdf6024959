//! The program on a quorum of Redis servers.
//!
//! Slow: starts three servers
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::Bench;
use tenure_servers::redis::RedisServer;

#[test]
fn run_status_list_and_break_work_on_a_quorum_without_a_minority_and_fail_without_a_majority() {
    let mut servers = [(); 3].map(|()| RedisServer::start(&[]).unwrap());
    let bench = Bench::new();
    let nodes = servers.each_ref().map(|server| server.url().replace("redis://", "redis://u:secret@"));
    servers.iter().for_each(|server| drop(server.say("ACL SETUSER u on >secret ~* &* +@all").unwrap()));
    let at = format!("redlock:{}", nodes.join(","));
    // They have all just been started, and may have forgotten locks.
    let young = bench.end_of(["run", "--at", &at, "-w", "0", "nightly", "--", "true"]).with_code(122);
    assert!(young.stderr.contains("allow=young") && !young.stderr.contains("secret"), "{}", young.stderr);
    let at = format!("{at}?allow=young");
    servers[2].kill();
    let held = bench.hold(&["--at", &at], "nightly");
    let shown = bench.end_of(["status", "--at", &at, "nightly"]).with_code(0).stdout;
    assert!(shown.starts_with("nightly is held by echo $$") && shown.contains("holds"), "{shown}");
    let listed = bench.end_of(["list", "--at", &at]).with_code(0).stdout;
    assert!(listed.contains("nightly"), "{listed}");
    bench.end_of(["run", "--at", &at, "-n", "nightly", "--", "true"]).with_code(120);
    bench.end_of(["break", "--at", &at, "--yes", "nightly"]).with_code(0);
    held.end().with_code(121);
    bench.end_of(["run", "--at", &at, "nightly", "--", "true"]).with_code(0);
    assert_eq!(bench.end_of(["list", "--at", &at]).with_code(0).stdout, "");
    servers[1].kill();
    let away = bench.end_of(["status", "--at", &at, "nightly"]).with_code(122);
    assert!(away.stderr.contains("1 of 3") && !away.stderr.contains("secret"), "{}", away.stderr);
}

#[test]
fn nodes_that_make_no_quorum_say_what_to_change() {
    let (bench, server) = (Bench::new(), RedisServer::start(&[]).unwrap());
    let two = bench.end_of(["status", "--at", "redlock:redis://a,redis://b", "k"]).with_code(64);
    assert!(two.stderr.contains("3, 5, 7 or 9"), "{}", two.stderr);
    let (one, same) = (server.url(), server.url().replace("127.0.0.1", "localhost"));
    let at = format!("redlock:{one},{same},redis://127.0.0.1:1");
    let same = bench.end_of(["status", "--at", &at, "k"]).with_code(123);
    assert!(same.stderr.contains("the same server"), "{}", same.stderr);
}
