//! The suite behind PgBouncer in transaction mode: nothing can be pushed, and each statement may be served by another
//! process of the server.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

mod support;

use std::process::ExitCode;
use std::sync::Arc;

use support::{PgBouncer, PostgresServer, SchemaSite};
use tenure_postgres::Dialect;

fn main() -> ExitCode {
    let server = Arc::new(PostgresServer::start(&[]).expect("a server"));
    let lines =
        ["max_client_conn = 1000", "default_pool_size = 20", "log_connections = 0", "log_disconnections = 0"];
    let bouncer = Arc::new(PgBouncer::before(&server, &lines).expect("a pooler"));
    tenure_conformance::run("postgres", move || {
        let (server, bouncer) = (Arc::clone(&server), Arc::clone(&bouncer));
        async move { SchemaSite::new(server, bouncer.port(), Dialect::Table).await }
    })
}
