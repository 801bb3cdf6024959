//! What the tests share: servers, a proxy that misbehaves, claims, and waits with a limit.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a part of tests, each of which uses its own"
)]

use std::time::Duration;

use tenure_core::engine::EngineError;
use tenure_mysql::{MySql, MySqlOptions, migrate};

pub use sqlx::mysql::MySqlConnection;
pub use sqlx::{Connection, Row};
pub use tenure_conformance::tools::*;
pub use tenure_servers::mariadb::MariaDbServer;
pub use tenure_servers::{Certificates, LIMIT, Proxy, Side, Trick, free_ports, mentions};

pub fn options(url: &str) -> MySqlOptions {
    MySqlOptions::from_url(url).unwrap()
}

/// A server with a schema in its database `tenure`.
pub async fn migrated(settings: &[&str]) -> MariaDbServer {
    let server = MariaDbServer::start(settings).unwrap();
    migrate(&options(&server.url("tenure"))).await.unwrap();
    server
}

pub async fn open(server: &MariaDbServer) -> MySql {
    at_last("a server of ours lets us in", async || MySql::open(&options(&server.url("tenure"))).await).await
}

pub async fn refused(url: &str) -> EngineError {
    MySql::open(&options(url)).await.unwrap_err()
}

/// A connection of a user.
pub async fn connection(server: &MariaDbServer) -> MySqlConnection {
    MySqlConnection::connect(&server.url("tenure")).await.unwrap()
}

/// Looks until it is so, within a limit.
pub fn until(what: &str, is_so: impl FnMut() -> bool) {
    assert!(tenure_servers::until(is_so), "never: {what}");
}

pub fn url_of(proxy: &Proxy) -> String {
    format!("mysql://root@127.0.0.1:{}/tenure?ssl-mode=disabled", proxy.port())
}

/// The connections of clients on a server, but for that of who asks.
pub fn connections(server: &MariaDbServer) -> Vec<u64> {
    let asked = "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND user = 'root'";
    server.say("tenure", asked).unwrap().lines().map(|id| id.parse().unwrap()).collect()
}

pub fn kill_connections(server: &MariaDbServer) {
    for id in connections(server) {
        // It may have ended by itself.
        let _ = server.say("tenure", &format!("KILL {id}"));
    }
}
