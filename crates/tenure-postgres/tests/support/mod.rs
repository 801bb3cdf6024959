//! What the tests share: servers with our tables, claims, and waits with a limit.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a part of tests, each of which uses its own"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tenure_conformance::Site;
use tenure_core::engine::{Contender, Effect, Engine, EngineError, EngineErrorKind, Retry, Stray};
use tenure_postgres::{Dialect, Postgres, PostgresOptions, migrate};

pub use tenure_conformance::tools::*;
pub use tenure_servers::postgres::{PgBouncer, PostgresServer, psql};
pub use tenure_servers::{Certificates, LIMIT, Proxy, Side, Trick};

/// Patient, because the machines of tests are busy.
pub fn options(url: &str) -> PostgresOptions {
    let options = PostgresOptions::from_url(url).unwrap();
    options.with_response_timeout(Duration::from_secs(10)).with_connect_timeout(Duration::from_secs(20))
}

/// A server with our tables.
pub async fn server() -> PostgresServer {
    server_with(&[]).await
}

pub async fn server_with(settings: &[&str]) -> PostgresServer {
    let server = PostgresServer::start(settings).unwrap();
    migrate(&options(&server.url())).await.unwrap();
    server
}

pub async fn open(server: &PostgresServer) -> Postgres {
    at_last("a server of ours lets us in", async || Postgres::open(&options(&server.url())).await).await
}

pub async fn refused(url: &str) -> EngineError {
    Postgres::open(&options(url)).await.unwrap_err()
}

/// Somebody's transaction that locks the row of a key by hand.
pub async fn lock_row(server: &PostgresServer, name: &str) -> tokio_postgres::Client {
    let client = stranger(server).await;
    let lock = format!("BEGIN; SELECT FROM tenure_keys WHERE key = '{name}' FOR UPDATE");
    client.batch_execute(&lock).await.unwrap();
    client
}

/// An attempt at a key whose row somebody has locked ends in time, and has no effect.
pub async fn wait_for_a_locked_row(server: &PostgresServer, postgres: &Postgres) {
    let mut contender = postgres.contend(claim("k"));
    granted(&mut contender).await;
    contender.withdraw(Stray::Impossible).await.unwrap();
    let foreign = lock_row(server, "k").await;
    let error = in_time("the wait is bounded", contender.attempt()).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
    granted(&mut postgres.contend(claim("other"))).await;
    foreign.batch_execute("COMMIT").await.unwrap();
    assert_eq!(places(postgres, "k").await, 0, "nothing was left");
    granted(&mut contender).await;
}

/// A connection of somebody else.
pub async fn stranger(server: &PostgresServer) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Ends all connections of ours.
pub fn terminate(server: &PostgresServer) {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tenure'";
    server.sql(end).unwrap();
}

/// Sets the server's clock back by years, as far as our functions know.
pub fn set_back(server: &PostgresServer) {
    let clock = "CREATE OR REPLACE FUNCTION tenure_now() RETURNS bigint LANGUAGE sql VOLATILE AS \
        'SELECT 1000000::bigint'";
    server.sql(clock).unwrap();
}

/// Looks until it is so, within a limit.
pub fn until(what: &str, is_so: impl FnMut() -> bool) {
    assert!(tenure_servers::until(is_so), "never: {what}");
}

pub fn url_of(port: u16) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/postgres")
}

/// A schema of its own for each trial, on one server; clients may come another way.
pub struct SchemaSite {
    server: Arc<PostgresServer>,
    port: u16,
    schema: String,
    dialect: Dialect,
}

impl std::fmt::Debug for SchemaSite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SchemaSite").field(&self.schema).finish()
    }
}

impl SchemaSite {
    /// A fresh schema, and clients that connect to `port`.
    pub async fn new(server: Arc<PostgresServer>, port: u16, dialect: Dialect) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let schema = format!("site_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let site = Self { server, port, schema, dialect };
        migrate(&site.options(site.server.port())).await.expect("a server of ours");
        site
    }

    fn options(&self, port: u16) -> PostgresOptions {
        options(&url_of(port)).with_schema(&self.schema).with_dialect(self.dialect)
    }
}

impl Site for SchemaSite {
    type Engine = Postgres;

    async fn client(&self) -> Postgres {
        Postgres::open(&self.options(self.port)).await.expect("a server of ours")
    }

    /// A client whose connections have ended.
    async fn vanish(&self, client: Postgres) {
        drop(client);
    }

    async fn forget(&self) {
        let schema = &self.schema;
        let tables = ["keys", "places", "tombstones"].map(|table| format!("{schema}.tenure_{table}"));
        self.server.sql(&format!("TRUNCATE {}", tables.join(", "))).expect("a server of ours");
    }
}
