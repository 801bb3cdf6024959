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

use std::time::Duration;

use tenure_core::ClaimId;
use tenure_core::engine::EngineError;
use tenure_etcd::{Etcd, EtcdOptions};

pub use tenure_conformance::tools::*;
pub use tenure_servers::etcd::{EtcdCluster, EtcdStart, etcdctl};
pub use tenure_servers::{Certificates, LIMIT, Proxy, Side, Trick, free_ports};

pub fn options(url: &str) -> EtcdOptions {
    EtcdOptions::from_url(url).unwrap()
}

pub async fn open(cluster: &EtcdCluster) -> Etcd {
    Etcd::open(&options(&cluster.url())).await.unwrap()
}

pub async fn refused(url: &str) -> EngineError {
    Etcd::open(&options(url)).await.unwrap_err()
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
