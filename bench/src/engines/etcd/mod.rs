//! etcd on this machine, one server, with its usual durability: each write waits for the disk.

mod service;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::stream;
use tenure_etcd::rpc::range_request::{SortOrder, SortTarget};
use tenure_etcd::rpc::request_op::Request;
use tenure_etcd::rpc::response_op::Response;
use tenure_etcd::rpc::watch_request::RequestUnion;
use tenure_etcd::rpc::{
    Compare, DeleteRangeRequest, KvClient, LeaseClient, LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, TxnResponse, WatchClient, WatchCreateRequest, WatchRequest,
};
use tenure_servers::etcd::{EtcdCluster, EtcdStart};
use tokio::sync::OnceCell;
use tonic::transport::{Channel, Endpoint};

use super::{Client, Counter, EVERYWHERE, Engine, Entrant, STRICTLY, Site};
use crate::clock::cpu_of;
use crate::crew::tasks;
use crate::locks::Lock;

pub(crate) const ENGINE: Engine = Engine {
    name: "etcd",
    start: || {
        let durable = EtcdStart { options: Vec::new(), ..EtcdStart::default() };
        Ok(Box::new(Etcd { cluster: EtcdCluster::start::<1>(&durable)?, before: [0.0; 3] }))
    },
    entrants: &[
        Entrant::here(
            "raw",
            "two transactions by hand: put if absent, delete if ours; one lease for a process, no waiting",
            &["w1", "w2"],
            tasks::<Raw>,
        )
        .anchors(&["w1", "w2"]),
        Entrant::here(
            "recipe",
            "what etcd's concurrency package does, by hand: join and read the first, watch the one before, read the \
             own key, delete; one lease for a process",
            &["w1", "w2", "w3", "w5"],
            tasks::<Recipe>,
        )
        .anchors(&["w3"]),
        Entrant::here(
            "lock service",
            "the lock service of the server itself, which etcd-client and others call; a lease for each lock",
            &["w1", "w2", "w3", "w4"],
            tasks::<service::Service>,
        ),
        Entrant::here(
            "etcdctl lock",
            "`etcdctl lock --ttl=5`: a process for each hold, interrupted to release",
            &["w1"],
            service::etcdctl,
        ),
        Entrant::tenure(EVERYWHERE),
        Entrant::strict(STRICTLY),
    ],
};

struct Etcd {
    cluster: EtcdCluster,
    /// Processor time, writes to the log and events to watches when the counting began.
    before: [f64; 3],
}

impl Etcd {
    fn counted(&self) -> [f64; 3] {
        let metric = |name| self.cluster.metric(0, name).unwrap_or(0.0);
        [
            cpu_of(self.cluster.process(0).pid()).unwrap_or(0.0),
            metric("etcd_server_proposals_applied_total"),
            metric("etcd_debugging_mvcc_events_total"),
        ]
    }
}

impl Site for Etcd {
    fn url(&self) -> String {
        // A machine that does other work as well may stall for longer than is usual between computers.
        format!("{}?timeout-ms=10000&connect-timeout-ms=10000", self.cluster.url())
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.cluster.port(0))
    }

    fn begin(&mut self, _closely: bool) -> Result<()> {
        self.before = self.counted();
        Ok(())
    }

    fn end(&mut self) -> Result<Vec<Counter>> {
        let now = self.counted();
        let count = |per_cycle, per_second, at: usize| Counter {
            per_cycle,
            per_second,
            count: now[at] - self.before[at],
        };
        Ok(vec![
            count("server us/cycle", "server us/s", 0),
            count("log writes/cycle", "log writes/s", 1),
            count("wakes/cycle", "wakes/s", 2),
        ])
    }
}

/// A channel and the lease of a process, which is kept alive as long as the client lives.
#[derive(Clone)]
struct Session {
    channel: Channel,
    lease: Arc<OnceCell<i64>>,
}

impl Session {
    async fn open(at: &str) -> Result<Self> {
        let channel = Endpoint::from_shared(at.to_owned())?.tcp_nodelay(true).connect().await?;
        Ok(Self { channel, lease: Arc::default() })
    }

    async fn lease(&self, ttl: Duration) -> Result<i64> {
        let grant = || async {
            let seconds = i64::try_from(ttl.as_secs().max(2))?;
            let ask = LeaseGrantRequest { ttl: seconds, id: 0 };
            let id = LeaseClient::new(self.channel.clone()).lease_grant(ask).await?.into_inner().id;
            let channel = self.channel.clone();
            let every = Duration::from_secs(seconds.unsigned_abs()) / 3;
            tokio::spawn(async move {
                let beats = stream::unfold((), move |()| async move {
                    tokio::time::sleep(every).await;
                    Some((LeaseKeepAliveRequest { id }, ()))
                });
                let mut answers = LeaseClient::new(channel).lease_keep_alive(beats).await?.into_inner();
                // Ends with the process.
                while answers.message().await?.is_some() {}
                anyhow::Ok(())
            });
            anyhow::Ok(id)
        };
        Ok(*self.lease.get_or_try_init(grant).await?)
    }

    async fn txn(
        &self,
        compare: Vec<Compare>,
        success: Vec<Request>,
        failure: Vec<Request>,
    ) -> Result<TxnResponse> {
        let ops = |ops: Vec<Request>| ops.into_iter().map(|op| RequestOp { request: Some(op) }).collect();
        let txn = TxnRequest { compare, success: ops(success), failure: ops(failure) };
        Ok(KvClient::new(self.channel.clone()).txn(txn).await?.into_inner())
    }
}

fn put(key: &str, lease: i64) -> Request {
    Request::RequestPut(PutRequest { key: key.as_bytes().to_vec(), lease, ..Default::default() })
}

fn delete(key: &str) -> Request {
    Request::RequestDeleteRange(DeleteRangeRequest { key: key.as_bytes().to_vec(), ..Default::default() })
}

/// The keys of a prefix in one order of their creation, the first only, created up to a revision or whenever.
fn first_of(prefix: &str, order: SortOrder, created: i64) -> RangeRequest {
    let mut range_end = prefix.as_bytes().to_vec();
    if let Some(last) = range_end.last_mut() {
        *last += 1;
    }
    RangeRequest {
        key: prefix.as_bytes().to_vec(),
        range_end,
        limit: 1,
        sort_order: order as i32,
        sort_target: SortTarget::Create as i32,
        max_create_revision: created,
        ..Default::default()
    }
}

/// The least that a lock can be: it is put if it is absent, and deleted if it is ours.
struct Raw(Session);

struct RawLock {
    session: Session,
    key: String,
    ttl: Duration,
}

impl Client for Raw {
    type Lock = RawLock;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(Session::open(at).await?))
    }

    fn lock(&self, key: &str, ttl: Duration) -> RawLock {
        RawLock { session: self.0.clone(), key: format!("raw/{key}"), ttl }
    }
}

impl Lock for RawLock {
    type Guard = (Session, String, i64);

    async fn lock(&self) -> Result<(Session, String, i64)> {
        let lease = self.session.lease(self.ttl).await?;
        let done = self
            .session
            .txn(vec![Compare::created_at(self.key.as_bytes(), 0)], vec![put(&self.key, lease)], Vec::new())
            .await?;
        ensure!(done.succeeded, "a free key was not granted");
        let revision = done.header.context("no header")?.revision;
        Ok((self.session.clone(), self.key.clone(), revision))
    }

    async fn unlock((session, key, revision): (Session, String, i64)) -> Result<()> {
        let done = session
            .txn(vec![Compare::created_at(key.as_bytes(), revision)], vec![delete(&key)], Vec::new())
            .await?;
        ensure!(done.succeeded, "somebody else had the key");
        Ok(())
    }
}

/// The lock of etcd's concurrency package. Each lock has a key of its own, since a process takes several.
struct Recipe(Session);

struct RecipeLock {
    session: Session,
    prefix: String,
    ttl: Duration,
}

impl Client for Recipe {
    type Lock = RecipeLock;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(Session::open(at).await?))
    }

    fn lock(&self, key: &str, ttl: Duration) -> RecipeLock {
        RecipeLock { session: self.0.clone(), prefix: format!("recipe/{key}/"), ttl }
    }
}

impl RecipeLock {
    /// Waits until no key is older than ours.
    async fn wait(&self, ours: i64) -> Result<()> {
        // Ends when whoever is before us has left.
        loop {
            let before = first_of(&self.prefix, SortOrder::Descend, ours - 1);
            let found = KvClient::new(self.session.channel.clone()).range(before).await?.into_inner();
            let Some(before) = found.kvs.first() else { return Ok(()) };
            let start_revision = found.header.context("no header")?.revision + 1;
            let create = WatchCreateRequest { key: before.key.clone(), start_revision, ..Default::default() };
            let order = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
            // The stream of orders stays open as long as the answers are read.
            let orders = stream::unfold(Some(order), |order| async move {
                match order {
                    Some(order) => Some((order, None)),
                    None => std::future::pending().await,
                }
            });
            let mut told = WatchClient::new(self.session.channel.clone()).watch(orders).await?.into_inner();
            while told.message().await?.is_some_and(|answer| answer.events.is_empty()) {}
        }
    }
}

impl Lock for RecipeLock {
    type Guard = (Session, String);

    async fn lock(&self) -> Result<(Session, String)> {
        let lease = self.session.lease(self.ttl).await?;
        let key = format!("{}{:016x}", self.prefix, rand::random::<u64>());
        let owner = Request::RequestRange(first_of(&self.prefix, SortOrder::Ascend, 0));
        let done = self
            .session
            .txn(vec![Compare::created_at(key.as_bytes(), 0)], vec![put(&key, lease), owner], Vec::new())
            .await?;
        let revision = done.header.context("no header")?.revision;
        let Some(Response::ResponseRange(owner)) = done.responses.get(1).and_then(|op| op.response.as_ref())
        else {
            bail!("no owner was read")
        };
        if owner.kvs.first().is_none_or(|first| first.create_revision != revision) {
            self.wait(revision).await?;
            let own = RangeRequest { key: key.as_bytes().to_vec(), ..Default::default() };
            let own = KvClient::new(self.session.channel.clone()).range(own).await?.into_inner();
            ensure!(!own.kvs.is_empty(), "the lease has ended");
        }
        Ok((self.session.clone(), key))
    }

    async fn unlock((session, key): (Session, String)) -> Result<()> {
        session.txn(Vec::new(), vec![delete(&key)], Vec::new()).await?;
        Ok(())
    }
}
