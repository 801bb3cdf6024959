//! What a waiter does about a server that puts off its watches, or that knows less than another.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use support::*;
use tenure_core::engine::{Contender, Engine, Stray, Wake};
use tenure_etcd::{Etcd, EtcdContender};

/// What the server counts of what clients say about watches.
const ORDERS: &str = "grpc_server_msg_received_total{grpc_method=\"Watch\",\
                      grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";

/// How often watches are begun before they are taken as they are.
const BEGINS_MAX: usize = 8;

fn orders(cluster: &EtcdCluster) -> usize {
    cluster.metric(0, ORDERS).unwrap_or(0.0) as usize
}

/// The end of a header: the revision of an answer, and the term, which is small.
fn revision_in_header(revision: i64) -> Vec<u8> {
    let mut bytes = vec![0x18];
    let mut rest = revision as u64;
    while rest > 0x7f {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.extend([rest as u8, 0x20]);
    bytes
}

/// Whether a server says by it that it has begun a watch with an odd number: the first of two.
fn has_begun_first(frame: &[u8]) -> bool {
    is_data(frame) && matches!(frame, [.., 0x10, id, 0x18, 1] if id % 2 == 1)
}

/// A holder, and somebody who waits for it through a proxy and has not begun to listen.
async fn one_waits(cluster: &EtcdCluster, proxy: &Proxy) -> (EtcdContender, EtcdContender) {
    let (direct, etcd) = (open(cluster).await, Etcd::open(&options(&url_of(proxy))).await.unwrap());
    let (mut holder, mut waiter) = (direct.contend(claim("k")), etcd.contend(claim("k")));
    granted(&mut holder).await;
    waits(&mut waiter).await;
    (holder, waiter)
}

async fn revision(cluster: &EtcdCluster) -> i64 {
    let last = open(cluster).await.inspect(&key("free")).await.unwrap().last_token.unwrap().get();
    i64::try_from(last).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_was_perhaps_put_off_is_begun_anew_but_not_for_ever() {
    for (put_off, begins) in [(0, 1), (1, 2), (3, 4), (2 * BEGINS_MAX, BEGINS_MAX)] {
        let cluster = EtcdCluster::single().unwrap();
        let proxy = Proxy::before(cluster.port(0), Proxy::http2).unwrap();
        let (mut holder, mut waiter) = one_waits(&cluster, &proxy).await;
        // The first watch begins at a revision that is not the one of the second: somebody wrote between.
        let present = revision(&cluster).await;
        for _ in 0..put_off {
            let (from, to) = (revision_in_header(present), revision_in_header(present - 1));
            proxy.next(Side::Replies, has_begun_first, Trick::Replace { from, to });
        }
        let before = orders(&cluster);
        let mut told = Box::pin(waiter.changed());
        // Each time two watches; those that were there before are ended.
        let expected = begins * 2 + (begins - 1) * 2;
        let all_begun = eventually("they have begun", async || orders(&cluster) - before >= expected);
        tokio::select! {
            told = &mut told => panic!("nothing has happened: {told:?}"),
            () = all_begun => {}
        }
        holder.withdraw(Stray::Impossible).await.unwrap();
        assert_eq!(in_time("it is told", told).await.unwrap(), Wake::LookAgain);
        assert_eq!(
            orders(&cluster) - before,
            expected,
            "what was said of watches, when {put_off} were put off"
        );
        granted(&mut waiter).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_from_before_a_watch_began_is_none() {
    let (cluster, proxy, etcd) = behind_a_proxy().await;
    // A holder listens as well, and its lease outlives what is waited for here.
    let mut holder = etcd.contend(short_claim("k", 3 * SOON));
    granted(&mut holder).await;
    // Somebody has written since it looked, so it asks whether its place is as it was.
    cluster.etcdctl(0, &["put", "elsewhere", "x"]).unwrap();
    let present = revision(&cluster).await;
    let (from, to) = (revision_in_header(present), revision_in_header(present - 1));
    let (has_header, events) = (mentions(from.clone()), proxy.events());
    // The answer is as that of another server, which lags behind the one that watches and knows of no change.
    let is_answer = move |frame: &[u8]| is_data(frame) && has_header(frame) && frame.ends_with(&[0x10, 1]);
    proxy.next(Side::Replies, is_answer, Trick::Replace { from, to });
    assert_eq!(in_time("it is told to look again", holder.changed()).await.unwrap(), Wake::LookAgain);
    assert_eq!(proxy.events(), events + 1, "it was told otherwise");
}
