//! What the tests share: clusters, a proxy that misbehaves, claims, and waits with a limit.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a part of tests, each of which uses its own"
)]

pub mod site;

use std::future::Future;
use std::time::Duration;

use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineError, EngineErrorKind, Grant, Retry, Waiting,
};
use tenure_core::{Claim, ClaimId, FencingToken, IfBusy, Key, Ttl};
use tenure_etcd::{Etcd, EtcdContender, EtcdOptions};

pub use tenure_servers::etcd::{EtcdCluster, EtcdStart, etcdctl};
pub use tenure_servers::{Certificates, LIMIT, Proxy, Side, Trick, free_ports};

pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

pub fn claim(name: &str) -> Claim {
    let mut claim = Claim::new(key(name), ClaimId::from_bits(rand::random()));
    claim.ttl = Ttl::new(Duration::from_secs(30)).unwrap();
    claim
}

pub fn only_try(name: &str) -> Claim {
    let mut claim = claim(name);
    claim.if_busy = IfBusy::Leave;
    claim
}

pub fn options(url: &str) -> EtcdOptions {
    EtcdOptions::from_url(url).unwrap()
}

pub async fn open(cluster: &EtcdCluster) -> Etcd {
    Etcd::open(&options(&cluster.url())).await.unwrap()
}

pub async fn refused(url: &str) -> EngineError {
    Etcd::open(&options(url)).await.unwrap_err()
}

pub async fn granted(contender: &mut EtcdContender) -> Grant {
    match contender.attempt().await.unwrap() {
        Attempt::Granted(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

pub async fn waits(contender: &mut EtcdContender) -> Waiting {
    match contender.attempt().await.unwrap() {
        Attempt::Waiting(waiting) => waiting,
        other => panic!("does not wait: {other:?}"),
    }
}

/// Attempts until granted, through whatever passes.
pub async fn granted_at_last(contender: &mut EtcdContender) -> Grant {
    in_time("it is granted", async {
        loop {
            match contender.attempt().await {
                Ok(Attempt::Granted(grant)) => return grant,
                Ok(Attempt::Waiting(_)) => {}
                Ok(other) => panic!("neither granted nor waiting: {other:?}"),
                Err(error) => assert_eq!(error.retry(), Retry::Worth, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

pub async fn places(etcd: &Etcd, name: &str) -> usize {
    in_time("the line is read", async {
        loop {
            // A busy machine may let one look run out of time.
            match etcd.inspect(&key(name)).await {
                Ok(line) => return line.places.len(),
                Err(error) => assert_eq!(error.retry(), Retry::Worth, "{error}"),
            }
        }
    })
    .await
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
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    in_time(what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

pub fn url_of(proxy: &Proxy) -> String {
    format!("etcd://127.0.0.1:{}", proxy.port())
}

/// Whether a frame of HTTP/2 carries data: a message, or a part of one.
pub fn is_data(frame: &[u8]) -> bool {
    frame.len() > 9 && frame[3] == 0
}

/// Ends the lease of the place of a claim, as etcd does when nobody has kept it alive.
pub fn revoke_lease_of(cluster: &EtcdCluster, name: &str, claim: ClaimId) {
    let place = format!("tenure/line/{name}\t{claim}");
    let shown = cluster.etcdctl(0, &["get", &place, "-w", "json"]).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let lease = shown["kvs"][0]["lease"].as_i64().unwrap();
    cluster.etcdctl(0, &["lease", "revoke", &format!("{lease:x}")]).unwrap();
}
