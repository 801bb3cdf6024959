//! What the tests share: servers, a proxy that misbehaves, claims, and waits with a limit.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a part of tests, each of which uses its own"
)]

use std::future::Future;
use std::time::Duration;

use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineError, EngineErrorKind, Grant, Retry, Waiting,
};
use tenure_core::{Claim, ClaimId, IfBusy, Key, Ttl};
use tenure_mysql::{MySql, MySqlContender, MySqlOptions, migrate};

pub use sqlx::mysql::MySqlConnection;
pub use sqlx::{Connection, Row};
pub use tenure_servers::mariadb::MariaDbServer;
pub use tenure_servers::{Certificates, LIMIT, Proxy, Side, Trick, free_ports};

pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

pub fn claim(name: &str) -> Claim {
    let mut claim = Claim::new(key(name), ClaimId::from_bits(rand::random()));
    claim.ttl = Ttl::new(Duration::from_secs(30)).unwrap();
    claim
}

pub fn short_claim(name: &str, ttl: Duration) -> Claim {
    let mut claim = claim(name);
    claim.ttl = Ttl::new(ttl).unwrap();
    claim
}

pub fn only_try(name: &str) -> Claim {
    let mut claim = claim(name);
    claim.if_busy = IfBusy::Leave;
    claim
}

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
    MySql::open(&options(&server.url("tenure"))).await.unwrap()
}

pub async fn refused(url: &str) -> EngineError {
    MySql::open(&options(url)).await.unwrap_err()
}

/// A connection of a user.
pub async fn connection(server: &MariaDbServer) -> MySqlConnection {
    MySqlConnection::connect(&server.url("tenure")).await.unwrap()
}

pub async fn granted(contender: &mut MySqlContender) -> Grant {
    match contender.attempt().await.unwrap() {
        Attempt::Granted(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

pub async fn waits(contender: &mut MySqlContender) -> Waiting {
    match contender.attempt().await.unwrap() {
        Attempt::Waiting(waiting) => waiting,
        other => panic!("does not wait: {other:?}"),
    }
}

/// Attempts until granted, within a limit.
pub async fn granted_at_last(contender: &mut MySqlContender) -> Grant {
    let granted = async {
        loop {
            if let Ok(Attempt::Granted(grant)) = contender.attempt().await {
                return grant;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time("it is granted", granted).await
}

pub async fn places(engine: &MySql, name: &str) -> usize {
    engine.inspect(&key(name)).await.unwrap().places.len()
}

pub fn axes(error: &EngineError) -> (EngineErrorKind, Effect, Retry) {
    (error.kind(), error.effect(), error.retry())
}

/// What a limited time must be enough for.
pub async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(done) => done,
        Err(_) => panic!("never: {what}"),
    }
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
