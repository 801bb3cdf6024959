//! PostgreSQL servers start, follow, restart and end with their values.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use tenure_servers::postgres::{PgBouncer, PostgresServer, psql};

#[test]
fn a_server_restarts_with_its_files_and_a_standby_follows_and_takes_over() {
    let mut server = PostgresServer::durable(&[]).unwrap();
    server.sql("CREATE TABLE t AS SELECT 7 AS n").unwrap();
    server.restart().unwrap();
    assert_eq!(server.sql("SELECT n FROM t").unwrap(), "7");
    let standby = server.standby().unwrap();
    assert_eq!(standby.sql("SELECT pg_is_in_recovery()").unwrap(), "t");
    server.kill();
    standby.promote().unwrap();
    assert_eq!(standby.sql("SELECT n FROM t").unwrap(), "7");
}

#[test]
fn pgbouncer_passes_statements_on() {
    let server = PostgresServer::start(&[]).unwrap();
    let bouncer = PgBouncer::before(&server, &[]).unwrap();
    assert_eq!(psql(bouncer.port(), "SELECT 1 + 1").unwrap(), "2");
}
