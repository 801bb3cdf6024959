//! What the tests share: servers, a proxy that misbehaves, claims, and waits with a limit.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a part of tests, each of which uses its own"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tenure_core::Claim;
use tenure_zookeeper::{Terms, Zookeeper, ZookeeperOptions};
use zookeeper_client::{Acls, Client, CreateMode};

pub use tenure_conformance::tools::*;
pub use tenure_servers::zookeeper::ZookeeperEnsemble;
pub use tenure_servers::{LIMIT, Proxy, Side, Trick, free_ports};

/// What is asked of ZooKeeper, as its protocol numbers it.
pub const DELETE: u8 = 2;
pub const SET_DATA: u8 = 5;
pub const SYNC: u8 = 9;
pub const CREATE: u8 = 15;
pub const PING: u8 = 11;

/// Long enough for a busy machine.
pub const SESSION: Duration = Duration::from_secs(8);

/// One server for all tests of a target that leave it alone.
pub fn server() -> &'static ZookeeperEnsemble {
    static SERVER: OnceLock<ZookeeperEnsemble> = OnceLock::new();
    SERVER.get_or_init(|| ZookeeperEnsemble::single(&[]).expect("a server"))
}

/// A name that no other test has.
pub fn name(name: &str) -> String {
    format!("{name}/{:016x}", rand::random::<u64>())
}

pub fn options(hosts: impl Into<String>) -> ZookeeperOptions {
    let options = ZookeeperOptions::new(hosts).with_session(SESSION).with_terms(Terms::Any);
    options.with_connect_timeout(LIMIT)
}

pub fn at(port: u16) -> ZookeeperOptions {
    options(format!("127.0.0.1:{port}"))
}

pub async fn open(options: &ZookeeperOptions) -> Zookeeper {
    at_last("a server of ours lets us in", async || Zookeeper::open(options).await).await
}

/// A client of the shared server.
pub async fn client() -> Zookeeper {
    open(&at(server().port())).await
}

/// A proxy before the shared server, and a client behind it.
pub async fn behind_a_proxy() -> (Proxy, Zookeeper) {
    let proxy = Proxy::before(server().port(), Proxy::length_first).unwrap();
    let client = open(&at(proxy.port())).await;
    (proxy, client)
}

/// The client library itself.
pub async fn raw(port: u16) -> Client {
    Client::connect(&format!("127.0.0.1:{port}")).await.unwrap()
}

/// Whether a frame asks for this.
pub fn asks(what: u8) -> impl Fn(&[u8]) -> bool + Send + 'static {
    move |frame| frame.len() >= 12 && frame[8..12] == [0, 0, 0, what]
}

/// Whether a frame mentions a claim.
pub fn names(claim: &Claim) -> impl Fn(&[u8]) -> bool + Send + 'static {
    let id = claim.id.to_string().into_bytes();
    move |frame| frame.windows(id.len()).any(|window| window == id)
}

/// Whether a frame asks for nothing, as each session does now and then.
fn is_beat(frame: &[u8]) -> bool {
    asks(SYNC)(frame) && frame.len() >= 17 && frame[12..17] == *b"\0\0\0\x01/"
}

/// Counts the requests that pass a proxy, all but those that are sent now and then.
pub fn counting(proxy: &Proxy) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let count_it = move |frame: &[u8]| {
        if !asks(PING)(frame) && !is_beat(frame) {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        false
    };
    proxy.next(Side::Requests, count_it, Trick::Drop);
    count
}
