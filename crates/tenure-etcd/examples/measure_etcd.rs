//! By hand: it wants `etcd` installed, and its figures a quiet machine.
//!
//! Measures where the time of a lock's cycle goes, on a server of its own with its usual durability:
//! `cargo run --release -p tenure-etcd --example measure_etcd`
//!
//! The bare cycle is a put if absent and a delete if ours: no line, no fencing token beyond the revision, nobody to
//! wait or to renew. Everything takes turns in short rounds; a figure is the median of those of the rounds. Afterwards
//! it shows what names cost that a line once had, which the server remembers until its history is compacted.

#![allow(clippy::unwrap_used, reason = "a program for people who measure")]

use tenure_core::engine::{Attempt, Contender, Engine, Stray};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{Claim, ClaimId, Key, Tenure};
use tenure_etcd::rpc::request_op::Request;
use tenure_etcd::rpc::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, KvClient, LeaseClient, LeaseGrantRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use tenure_etcd::{Etcd, EtcdOptions};
use tenure_servers::etcd::{EtcdCluster, EtcdStart};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

const CYCLES: u32 = 150;
const ROUNDS: usize = 15;

/// What is measured, in the order of the table.
const STEPS: [&str; 9] = [
    "a question that the server answers alone",
    "a read that it asks its cluster about",
    "one write",
    "two bare transactions",
    "the same, with the room of a place",
    "the same, deleted without a condition",
    "the server's own lock service",
    "the engine's verbs: attempt, withdraw",
    "acquire and release",
];

// The messages of the lock service.
#[derive(Clone, PartialEq, prost::Message)]
struct LockRequest {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(int64, tag = "2")]
    lease: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LockResponse {
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct UnlockRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct UnlockResponse {}

struct Bench {
    cluster: EtcdCluster,
    channel: Channel,
    lease: i64,
    engine: Etcd,
    tenure: Tenure,
}

/// Of one cycle, in microseconds: by the clock, of the client's and the server's processors, and of the server's waits
/// for its log to be on disk.
type Cost = [f64; 4];

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

impl Bench {
    async fn start() -> Self {
        let durable = EtcdStart { options: Vec::new(), ..EtcdStart::default() };
        let cluster = EtcdCluster::start::<1>(&durable).unwrap();
        let at = format!("http://127.0.0.1:{}", cluster.port(0));
        let channel = Endpoint::from_shared(at).unwrap().tcp_nodelay(true).connect().await.unwrap();
        let ask = LeaseGrantRequest { ttl: 3600, id: 0 };
        let lease = LeaseClient::new(channel.clone()).lease_grant(ask).await.unwrap().into_inner().id;
        let engine = Etcd::open(&EtcdOptions::from_url(&cluster.url()).unwrap()).await.unwrap();
        let tenure = Tenure::new(engine.clone());
        Self { cluster, channel, lease, engine, tenure }
    }

    async fn txn(&self, compare: Vec<Compare>, success: Vec<RequestOp>) -> TxnResponse {
        let txn = TxnRequest { compare, success, failure: Vec::new() };
        KvClient::new(self.channel.clone()).txn(txn).await.unwrap().into_inner()
    }

    fn put(&self, key: &str, value: Vec<u8>) -> RequestOp {
        let key = key.as_bytes().to_vec();
        op(Request::RequestPut(PutRequest { key, value, lease: self.lease, ..Default::default() }))
    }

    async fn bare(&self, value: usize) {
        let key = "bare";
        let done = self
            .txn(vec![Compare::created_at(key.as_bytes(), 0)], vec![self.put(key, vec![b'x'; value])])
            .await;
        assert!(done.succeeded);
        let delete = DeleteRangeRequest { key: key.into(), ..Default::default() };
        let created = done.header.unwrap().revision;
        let done = self
            .txn(
                vec![Compare::created_at(key.as_bytes(), created)],
                vec![op(Request::RequestDeleteRange(delete))],
            )
            .await;
        assert!(done.succeeded);
    }

    async fn bare_without_condition(&self, value: usize) {
        let key = b"bare".to_vec();
        let put = self.put("bare", vec![b'x'; value]);
        assert!(self.txn(vec![Compare::created_at(&key, 0)], vec![put]).await.succeeded);
        let delete = DeleteRangeRequest { key, ..Default::default() };
        let done: DeleteRangeResponse = self.call("/etcdserverpb.KV/DeleteRange", delete).await;
        assert_eq!(done.deleted, 1);
    }

    async fn lock_service(&self) {
        let ask = LockRequest { name: b"service".to_vec(), lease: self.lease };
        let locked: LockResponse = self.call("/v3lockpb.Lock/Lock", ask).await;
        let ask = UnlockRequest { key: locked.key };
        let _: UnlockResponse = self.call("/v3lockpb.Lock/Unlock", ask).await;
    }

    async fn call<Q, A>(&self, path: &'static str, ask: Q) -> A
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let (codec, path) = (ProstCodec::<Q, A>::default(), PathAndQuery::from_static(path));
        client.unary(tonic::Request::new(ask), path, codec).await.unwrap().into_inner()
    }

    async fn verbs(&self, key: &str) {
        let claim = Claim::new(Key::new(key).unwrap(), ClaimId::from_bits(rand::random()));
        let mut contender = self.engine.contend(claim);
        assert!(matches!(contender.attempt().await.unwrap(), Attempt::Granted(_)));
        contender.withdraw(Stray::Impossible).await.unwrap();
    }

    async fn step(&self, step: usize) {
        match step {
            0 => drop(self.txn(vec![Compare::created_at(b"bare", 0)], Vec::new()).await),
            1 => {
                let read = RangeRequest { key: b"bare".to_vec(), ..Default::default() };
                KvClient::new(self.channel.clone()).range(read).await.unwrap();
            }
            2 => drop(self.txn(Vec::new(), vec![self.put("write", Vec::new())]).await),
            3 => self.bare(0).await,
            4 => self.bare(150).await,
            5 => self.bare_without_condition(150).await,
            6 => self.lock_service().await,
            7 => self.verbs("measure").await,
            _ => drop(self.tenure.lock("measure").acquire().await.unwrap().release().await.unwrap()),
        }
    }

    /// Seconds of processors and of waits for the disk until now.
    fn used(&self) -> [f64; 3] {
        let ours = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|task| {
            let said = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            said.split(' ').next()?.parse::<f64>().ok()
        });
        let metric = |name| self.cluster.metric(0, name).unwrap();
        [
            ours.sum::<f64>() / 1e9,
            metric("process_cpu_seconds_total"),
            metric("etcd_disk_wal_fsync_duration_seconds_sum"),
        ]
    }

    async fn cost(&self, cycle: impl AsyncFn()) -> Cost {
        let (used, since) = (self.used(), SystemClock.now());
        for _ in 0..CYCLES {
            cycle().await;
        }
        let clock = SystemClock.now().since(since).as_secs_f64();
        let now = self.used();
        [clock, now[0] - used[0], now[1] - used[1], now[2] - used[2]]
            .map(|seconds| seconds * 1e6 / f64::from(CYCLES))
    }

    /// Lets the line of a key have had so many places, each with a name of its own.
    async fn remember(&self, key: &str, names: std::ops::Range<u32>) {
        let line = format!("tenure/line/{key}\t");
        for some in names.collect::<Vec<_>>().chunks(100) {
            let puts = some.iter().map(|name| self.put(&format!("{line}{name:x}"), b"x".to_vec())).collect();
            self.txn(Vec::new(), puts).await;
        }
        let range_end = format!("tenure/line/{key}\n").into_bytes();
        let all = DeleteRangeRequest { key: line.into_bytes(), range_end, ..Default::default() };
        self.txn(Vec::new(), vec![op(Request::RequestDeleteRange(all))]).await;
    }
}

/// The median of each of the figures.
fn median(rounds: &[Cost]) -> Cost {
    std::array::from_fn(|at| {
        let mut values: Vec<_> = rounds.iter().map(|cost| cost[at]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    })
}

async fn measure() {
    let bench = Bench::start().await;
    println!("| of a cycle, in us | clock | client's processor | server's processor | server's disk |");
    println!("|---|---:|---:|---:|---:|");
    let mut rounds = vec![Vec::new(); STEPS.len()];
    for _ in 0..ROUNDS {
        for (step, costs) in rounds.iter_mut().enumerate() {
            costs.push(bench.cost(async || bench.step(step).await).await);
        }
    }
    for (what, costs) in STEPS.iter().zip(&rounds) {
        // The first round warms up.
        let [clock, client, server, disk] = median(&costs[1..]);
        println!("| {what} | {clock:.0} | {client:.0} | {server:.0} | {disk:.0} |");
    }
    println!(
        "\n| names that the line once had | the engine's verbs, us | the same in another line, us | times |"
    );
    println!("|---:|---:|---:|---:|");
    let mut known = 0;
    for names in [0, 1_000, 10_000, 20_000] {
        bench.remember("trail", known..names).await;
        known = names;
        let (mut there, mut elsewhere, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..5 {
            there.push(bench.cost(async || bench.verbs("trail").await).await);
            elsewhere.push(bench.cost(async || bench.verbs("measure").await).await);
            times.push([there[there.len() - 1][0] / elsewhere[elsewhere.len() - 1][0]; 4]);
        }
        let [there, elsewhere, times] = [there, elsewhere, times].map(|rounds| median(&rounds)[0]);
        println!("| {names} | {there:.0} | {elsewhere:.0} | {times:.1} |");
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}
