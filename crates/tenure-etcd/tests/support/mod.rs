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

use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;

use tenure_core::ClaimId;
use tenure_core::engine::{Contender, Effect, Engine, EngineError, EngineErrorKind, Retry, Stray};
use tenure_etcd::{Etcd, EtcdContender, EtcdOptions};

pub use tenure_conformance::tools::*;
pub use tenure_servers::etcd::{EtcdCluster, EtcdStart, etcdctl};
pub use tenure_servers::{Certificates, LIMIT, Proxy, Side, Trick, free_ports, mentions};

pub fn options(url: &str) -> EtcdOptions {
    EtcdOptions::from_url(url).unwrap()
}

pub async fn open(cluster: &EtcdCluster) -> Etcd {
    at_last("a server of ours lets us in", async || Etcd::open(&options(&cluster.url())).await).await
}

/// Begins all of these, and then leaves alone what has no answer yet, as if its task did something else. On a busy
/// machine one may have had its answer at once, which is told as well.
pub fn begin_and_park<F: Future>(all: impl IntoIterator<Item = F>) -> (Vec<Pin<Box<F>>>, Vec<F::Output>) {
    let (mut parked, mut done) = (Vec::new(), Vec::new());
    for mut one in all.into_iter().map(Box::pin) {
        match one.as_mut().now_or_never() {
            None => parked.push(one),
            Some(output) => done.push(output),
        }
    }
    (parked, done)
}

pub async fn refused(url: &str) -> EngineError {
    Etcd::open(&options(url)).await.unwrap_err()
}

pub fn url_of(proxy: &Proxy) -> String {
    format!("etcd://127.0.0.1:{}", proxy.port())
}

/// Turns users on: `root`, and `app`, who may use the root `tenure/` only.
pub fn with_users(cluster: &EtcdCluster) {
    for words in [
        &["user", "add", "root:top"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "locks"],
        &["role", "grant-permission", "locks", "readwrite", "--prefix=true", "tenure/"],
        &["user", "add", "app:secret"],
        &["user", "grant-role", "app", "locks"],
        &["auth", "enable"],
    ] {
        // The role `root` is there from the beginning in some versions, and is made by granting it in others.
        let done = cluster.etcdctl(0, words);
        assert!(done.is_ok() || words[1] == "grant-role", "{words:?}: {done:?}");
        if done.is_err() {
            cluster.etcdctl(0, &["role", "add", words[3]]).unwrap();
            cluster.etcdctl(0, words).unwrap();
        }
    }
}

pub fn url_as(cluster: &EtcdCluster, login: &str) -> String {
    cluster.url().replace("etcd://", &format!("etcd://{login}@"))
}

/// Whether a frame of HTTP/2 carries data: a message, or a part of one.
pub fn is_data(frame: &[u8]) -> bool {
    frame.len() > 9 && frame[3] == 0
}

/// A server, a proxy before it, and a client that comes through it.
pub async fn behind_a_proxy() -> (EtcdCluster, Proxy, Etcd) {
    let cluster = EtcdCluster::single().unwrap();
    let proxy = Proxy::before(cluster.port(0), Proxy::http2).unwrap();
    let etcd = Etcd::open(&options(&url_of(&proxy))).await.unwrap();
    (cluster, proxy, etcd)
}

/// Locks and releases something else, so that the leases are there already.
pub async fn warm_up(etcd: &Etcd) {
    let mut other = etcd.contend(claim("other"));
    granted(&mut other).await;
    other.withdraw(Stray::Impossible).await.unwrap();
}

/// An attempt that is applied, and whose answer is lost.
pub async fn attempt_unanswered(contender: &mut EtcdContender, proxy: &Proxy) {
    proxy.next(Side::Replies, is_data, Trick::CutBefore);
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth), "{error}");
}

/// The name of the place of a claim, and the lease on which it hangs.
pub fn place_of(cluster: &EtcdCluster, name: &str, claim: ClaimId) -> (String, i64) {
    let line = format!("tenure/line/{name}\t");
    let shown = as_root(cluster, &["get", "--prefix", &line, "-w", "fields"]);
    let field = |place: &str, name: &str| {
        let value = place.lines().find_map(|line| line.strip_prefix(&format!("{name:?} : "))).unwrap();
        value.trim_matches('"').replace("\\t", "\t")
    };
    // A place is shown from its key to its lease.
    let place = shown.split("\"Key\" : ").find(|place| place.contains(&claim.to_string())).unwrap();
    let place = format!("\"Key\" : {place}");
    (field(&place, "Key"), field(&place, "Lease").parse().unwrap())
}

/// What an operator does, also where there are users.
pub fn as_root(cluster: &EtcdCluster, words: &[&str]) -> String {
    let done = cluster.etcdctl(0, words).or_else(|_| {
        let words: Vec<_> = ["--user", "root:top"].iter().chain(words).copied().collect();
        cluster.etcdctl(0, &words)
    });
    done.unwrap()
}

/// Ends the lease of the place of a claim, as etcd does when nobody has kept it alive.
pub fn revoke_lease_of(cluster: &EtcdCluster, name: &str, claim: ClaimId) {
    let (_, lease) = place_of(cluster, name, claim);
    as_root(cluster, &["lease", "revoke", &format!("{lease:x}")]);
}
