//! The program on PostgreSQL, from the migration to a broken hold.
//!
//! Slow: it starts a server.
#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, reason = "it is all for tests")]

mod support;

use support::Bench;
use tenure_servers::postgres::PostgresServer;

#[test]
fn the_program_makes_the_tables_and_locks_in_them() {
    let (bench, server) = (Bench::new(), PostgresServer::start(&[]).unwrap());
    let url = server.url();
    let early = bench.end_of(["run", "--at", &url, "nightly", "--", "true"]);
    assert_eq!(early.code, Some(123), "{}", early.stderr);
    assert!(early.stderr.contains("tenure migrate --at URL"), "{}", early.stderr);
    for _ in 0..2 {
        let migrated = bench.end_of(["migrate", "--at", &url]);
        assert_eq!((migrated.code, migrated.stdout.as_str()), (Some(0), ""), "{}", migrated.stderr);
    }
    let ran = bench.end_of(["run", "--at", &url, "nightly", "-c", "echo $TENURE_TOKEN"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.trim().parse::<u64>().unwrap() > 1 << 50, "{}", ran.stdout);

    let _held = bench.hold(&["--at", &url], "nightly");
    let busy = bench.end_of(["run", "-n", "--at", &url, "nightly", "--", "true"]);
    assert_eq!(busy.code, Some(120), "{}", busy.stderr);
    let status = bench.end_of(["status", "--at", &url, "nightly"]);
    assert!(status.stdout.contains("holds"), "{}", status.stdout);
    let list = bench.end_of(["list", "--at", &url]);
    assert!(list.stdout.contains("nightly"), "{}", list.stdout);
    let broken = bench.end_of(["break", "--yes", "--at", &url, "nightly"]);
    assert_eq!(broken.code, Some(0), "{}", broken.stderr);
    let next = bench.end_of(["run", "-w", "20", "--at", &url, "nightly", "--", "true"]);
    assert_eq!(next.code, Some(0), "{}", next.stderr);
}

#[test]
fn a_migration_is_printed_for_other_tools_and_refused_where_there_is_none() {
    let bench = Bench::new();
    let printed = bench.end_of(["migrate", "--print", "--at", "postgres://u:hunter2@h/d?schema=locks"]);
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    assert!(printed.stdout.contains("CREATE TABLE tenure_keys") && !printed.stdout.contains("hunter2"));
    let refused = bench.end_of(["migrate", "--at", "local:"]);
    assert_eq!(refused.code, Some(64), "{}", refused.stderr);
}
