//! The program on MariaDB, from the migration to a broken hold.
//!
//! Slow: it starts a server.
#![cfg(feature = "mysql")]
#![allow(clippy::unwrap_used, reason = "it is all for tests")]

mod support;

use support::Bench;
use tenure_servers::mariadb::MariaDbServer;

#[test]
fn the_program_makes_the_tables_and_locks_in_them_on_mariadb() {
    let (bench, server) = (Bench::new(), MariaDbServer::start(&[]).unwrap());
    support::makes_tables_and_locks_in_them(&bench, &server.url("tenure"));
}

#[test]
fn the_program_locks_by_session_on_mariadb() {
    let (bench, server) = (Bench::new(), MariaDbServer::start(&[]).unwrap());
    let url = format!("{}?dialect=get_lock", server.url("tenure"));
    support::makes_tables_and_locks_in_them(&bench, &url);
}
