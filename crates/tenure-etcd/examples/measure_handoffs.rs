//! By hand: it wants `etcd` installed, and its figures a quiet machine.
//!
//! Measures where the time of a hand-off goes, on a server of its own with its usual durability:
//! `cargo run --release -p tenure-etcd --example measure_handoffs`
//!
//! Sixteen tasks on four connections take turns at one key, each with a place of its own; first alone, then while
//! others write to other keys. An observer watches the line from the beginning, so the server has nothing to make up
//! for with it: when it is told of a release, the waiter should be. Hand-offs to a task that was not waiting yet do not
//! count.

#![allow(clippy::unwrap_used, reason = "a program for people who measure")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use tenure_core::engine::{Attempt, Contender, Engine, Stray};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_core::{Claim, ClaimId, Key};
use tenure_etcd::rpc::event::EventType;
use tenure_etcd::rpc::request_op::Request;
use tenure_etcd::rpc::watch_request::RequestUnion;
use tenure_etcd::rpc::{
    KvClient, PutRequest, RequestOp, TxnRequest, WatchClient, WatchCreateRequest, WatchRequest,
};
use tenure_etcd::{Etcd, EtcdOptions};
use tenure_servers::etcd::{EtcdCluster, EtcdStart};
use tonic::transport::{Channel, Endpoint};

const CONNECTIONS: usize = 4;
const TASKS: usize = 16;
const HANDOFFS: usize = 3000;
/// What the first locks cost, which ask for leases and connections.
const WARM_UP: usize = 200;
/// A wake that is so much later than the observer's was kept for a round of the server.
const LATE: Duration = Duration::from_millis(10);

/// What the server counts.
const COUNTED: [&str; 2] = [
    "etcd_server_proposals_applied_total",
    "grpc_server_msg_received_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",\
     grpc_type=\"bidi_stream\"}",
];

/// One hold, as its task has noted it.
#[derive(Clone, Copy)]
struct Hold {
    /// When it was told to look, if it waited.
    told: Option<Duration>,
    granted: Duration,
}

#[derive(Clone)]
struct Notes {
    begun: Moment,
    holds: Arc<Mutex<Vec<Hold>>>,
    /// When the observer was told of each release.
    seen: Arc<Mutex<Vec<Duration>>>,
}

impl Notes {
    fn now(&self) -> Duration {
        SystemClock.now().since(self.begun)
    }

    fn enough(&self) -> bool {
        self.holds.lock().unwrap().len() >= WARM_UP + HANDOFFS
    }
}

async fn take_turns(etcd: Etcd, name: &str, notes: Notes) {
    while !notes.enough() {
        let claim = Claim::new(Key::new(name).unwrap(), ClaimId::from_bits(rand::random()));
        let mut contender = etcd.contend(claim);
        let mut told = None;
        while !matches!(contender.attempt().await.unwrap(), Attempt::Granted(_)) {
            contender.changed().await.unwrap();
            told = Some(notes.now());
        }
        notes.holds.lock().unwrap().push(Hold { told, granted: notes.now() });
        contender.withdraw(Stray::Impossible).await.unwrap();
    }
}

/// Writes without end, to a key of its own.
async fn write(channel: Channel, n: usize) {
    let mut kv = KvClient::new(channel);
    loop {
        let put = PutRequest { key: format!("other/{n}").into_bytes(), ..Default::default() };
        let put = RequestOp { request: Some(Request::RequestPut(put)) };
        kv.txn(TxnRequest { success: vec![put], ..Default::default() }).await.unwrap();
    }
}

/// Notes when the server tells of each place that goes.
async fn observe(channel: Channel, name: &str, notes: Notes) {
    let (key, range_end) = (format!("tenure/line/{name}\t"), format!("tenure/line/{name}\n"));
    let (key, range_end) = (key.into_bytes(), range_end.into_bytes());
    let create = WatchCreateRequest { key, range_end, ..Default::default() };
    let order = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The stream of orders stays open as long as the answers are read.
    let orders = stream::unfold(Some(order), |order| async move {
        match order {
            Some(order) => Some((order, None)),
            None => std::future::pending().await,
        }
    });
    let mut told = WatchClient::new(channel).watch(orders).await.unwrap().into_inner();
    while let Some(answer) = told.message().await.unwrap() {
        let at = notes.now();
        let gone = answer.events.iter().filter(|event| event.r#type() == EventType::Delete);
        notes.seen.lock().unwrap().extend(gone.map(|_| at));
    }
}

fn row(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_micros();
    println!("| {what} | {} | {} | {} |", at(0.5), at(0.9), at(0.99));
}

fn show(notes: &Notes) {
    let mut holds = notes.holds.lock().unwrap().clone();
    holds.sort_by_key(|hold| hold.granted);
    let seen = notes.seen.lock().unwrap();
    let mut parts: [Vec<Duration>; 4] = Default::default();
    for (n, pair) in holds.windows(2).enumerate().skip(WARM_UP).take(HANDOFFS - TASKS) {
        let (leaves, next) = (pair[0].granted, pair[1]);
        let Some(told) = next.told.filter(|told| *told > leaves) else { continue };
        parts[0].push(seen[n].saturating_sub(leaves));
        parts[1].push(told.saturating_sub(seen[n]));
        parts[2].push(next.granted - told);
        parts[3].push(next.granted - leaves);
    }
    println!("| of a hand-off, in us | p50 | p90 | p99 |\n|---|---:|---:|---:|");
    let (all, late) = (parts[3].len(), parts[1].iter().filter(|wake| **wake > LATE).count());
    let what = ["the release, until the observer is told", "until the waiter is told", "its look", "all"];
    for (what, times) in what.iter().zip(parts) {
        row(what, times);
    }
    println!("\n{late} of {all} waiters were told more than {LATE:?} after the observer.");
}

async fn measure(cluster: &EtcdCluster, name: &'static str, writers: usize) {
    let notes = Notes { begun: SystemClock.now(), holds: Arc::default(), seen: Arc::default() };
    let at =
        Endpoint::from_shared(format!("http://127.0.0.1:{}", cluster.port(0))).unwrap().tcp_nodelay(true);
    let mut others = tokio::task::JoinSet::new();
    others.spawn(observe(at.connect().await.unwrap(), name, notes.clone()));
    for n in 0..writers {
        others.spawn(write(at.connect().await.unwrap(), n));
    }
    let options = EtcdOptions::from_url(&cluster.url()).unwrap();
    let mut engines = Vec::new();
    for _ in 0..CONNECTIONS {
        engines.push(Etcd::open(&options).await.unwrap());
    }
    let counted = || COUNTED.map(|name| cluster.metric(0, name).unwrap());
    let before = counted();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..TASKS {
        tasks.spawn(take_turns(engines[n % CONNECTIONS].clone(), name, notes.clone()));
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let after = counted();
    others.shutdown().await;
    show(&notes);
    let holds = notes.holds.lock().unwrap().len() as f64;
    let [writes, orders] = [0, 1].map(|at| (after[at] - before[at]) / holds);
    println!("For each hold there were {writes:.2} writes, and {orders:.2} watches begun or ended.\n");
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let durable = EtcdStart { options: Vec::new(), ..EtcdStart::default() };
    let cluster = EtcdCluster::start::<1>(&durable).unwrap();
    runtime.block_on(async {
        println!("Nobody else writes:\n");
        measure(&cluster, "quiet", 0).await;
        println!("Eight others write:\n");
        measure(&cluster, "busy", 8).await;
    });
}
