//! The suite on a real server, with holds that last as long as a session.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

mod support;

use std::process::ExitCode;
use std::sync::Arc;

use support::{PostgresServer, SchemaSite};
use tenure_postgres::Dialect;

fn main() -> ExitCode {
    let server = Arc::new(PostgresServer::start(&["max_connections=500"]).expect("a server"));
    tenure_conformance::run_variant("postgres", "postgres-advisory", move || {
        let server = Arc::clone(&server);
        async move {
            let port = server.port();
            SchemaSite::new(server, port, Dialect::Advisory).await
        }
    })
}
