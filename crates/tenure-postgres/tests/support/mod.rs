//! What the tests share: servers with our tables, claims, and waits with a limit.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a part of tests, each of which uses its own"
)]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tenure_conformance::{Hook, Site};
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineError, EngineErrorKind, Grant, Retry, Waiting,
};
use tenure_core::{Claim, ClaimId, IfBusy, Key, Ttl};
use tenure_postgres::{Postgres, PostgresContender, PostgresOptions, migrate};

pub use tenure_servers::postgres::{PgBouncer, PostgresServer, psql};
pub use tenure_servers::{Certificates, LIMIT, Proxy, Side, Trick};

pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

pub fn claim(name: &str) -> Claim {
    let mut claim = Claim::new(key(name), ClaimId::from_bits(rand::random()));
    claim.ttl = Ttl::new(Duration::from_secs(30)).unwrap();
    claim
}

pub fn short_claim(name: &str, ttl_millis: u64) -> Claim {
    let mut claim = claim(name);
    claim.ttl = Ttl::new(Duration::from_millis(ttl_millis)).unwrap();
    claim
}

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
    Postgres::open(&options(&server.url())).await.unwrap()
}

pub async fn refused(url: &str) -> EngineError {
    Postgres::open(&options(url)).await.unwrap_err()
}

pub async fn granted(contender: &mut impl Contender) -> Grant {
    match contender.attempt().await.unwrap() {
        Attempt::Granted(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

pub async fn waits(contender: &mut impl Contender) -> Waiting {
    match contender.attempt().await.unwrap() {
        Attempt::Waiting(waiting) => waiting,
        other => panic!("does not wait: {other:?}"),
    }
}

/// Attempts until it is granted, over whatever passes by itself.
pub async fn granted_at_last(contender: &mut impl Contender) -> Grant {
    let looking = async {
        loop {
            match contender.attempt().await {
                Ok(Attempt::Granted(grant)) => return grant,
                Ok(Attempt::Gone(gone)) => panic!("never: {gone:?}"),
                Err(error) => assert_eq!(error.retry(), Retry::Worth, "{error}"),
                Ok(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time("it is granted", looking).await
}

pub async fn places(postgres: &Postgres, name: &str) -> usize {
    postgres.inspect(&key(name)).await.unwrap().places.len()
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

pub fn url_of(port: u16) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/postgres")
}

/// A schema of its own for each trial, on one server; clients may come another way.
pub struct SchemaSite {
    server: Arc<PostgresServer>,
    port: u16,
    schema: String,
}

impl std::fmt::Debug for SchemaSite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SchemaSite").field(&self.schema).finish()
    }
}

impl SchemaSite {
    /// A fresh schema, and clients that connect to `port`.
    pub async fn new(server: Arc<PostgresServer>, port: u16) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let schema = format!("site_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let site = Self { server, port, schema };
        migrate(&site.options(site.server.port())).await.expect("a server of ours");
        site
    }

    fn options(&self, port: u16) -> PostgresOptions {
        options(&url_of(port)).with_schema(&self.schema)
    }
}

impl Site for SchemaSite {
    type Engine = Postgres;

    async fn client(&self) -> Postgres {
        Postgres::open(&self.options(self.port)).await.expect("a server of ours")
    }

    fn can(&self, hook: Hook) -> Result<(), &'static str> {
        match hook {
            Hook::Vanish | Hook::Forget => Ok(()),
            _ => Err("the site does not know how"),
        }
    }

    /// A client whose connections have ended: only leases tell.
    async fn vanish(&self, client: Postgres) {
        drop(client);
    }

    async fn forget(&self) {
        let schema = &self.schema;
        let tables = ["keys", "places", "tombstones"].map(|table| format!("{schema}.tenure_{table}"));
        self.server.sql(&format!("TRUNCATE {}", tables.join(", "))).expect("a server of ours");
    }
}
