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
    support::makes_tables_and_locks_in_them(&bench, &server.url());
}

#[test]
fn the_program_holds_as_long_as_a_session() {
    let (bench, server) = (Bench::new(), PostgresServer::start(&[]).unwrap());
    support::makes_tables_and_locks_in_them(&bench, &format!("{}?dialect=advisory", server.url()));
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
