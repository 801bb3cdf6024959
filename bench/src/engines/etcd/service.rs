//! The lock service that each etcd server has, which client libraries call (the crate etcd-client among them), and the
//! command that locks.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tenure_etcd::rpc::ResponseHeader;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::Session;
use crate::crew::{Orders, Worked, threads};
use crate::engines::Client;
use crate::locks::Lock;

#[derive(Clone, PartialEq, prost::Message)]
struct LockRequest {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(int64, tag = "2")]
    lease: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LockResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct UnlockRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct UnlockResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

/// The service, through one connection for a process.
pub(super) struct Service(Session);

pub(super) struct ServiceLock {
    /// With a lease of its own: the service takes two of one lease for the same owner.
    session: Session,
    name: String,
    ttl: Duration,
}

impl Client for Service {
    type Lock = ServiceLock;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(Session::open(at).await?))
    }

    fn lock(&self, key: &str, ttl: Duration) -> ServiceLock {
        let session = Session { channel: self.0.channel.clone(), lease: Arc::default() };
        ServiceLock { session, name: format!("service/{key}"), ttl }
    }
}

impl Session {
    async fn call<Q, A>(&self, path: &'static str, ask: Q) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = client.unary(tonic::Request::new(ask), PathAndQuery::from_static(path), codec).await?;
        Ok(answer.into_inner())
    }
}

impl Lock for ServiceLock {
    type Guard = (Session, Vec<u8>);

    async fn lock(&self) -> Result<(Session, Vec<u8>)> {
        let lease = self.session.lease(self.ttl).await?;
        let ask = LockRequest { name: self.name.as_bytes().to_vec(), lease };
        let granted: LockResponse = self.session.call("/v3lockpb.Lock/Lock", ask).await?;
        Ok((self.session.clone(), granted.key))
    }

    async fn unlock((session, key): (Session, Vec<u8>)) -> Result<()> {
        let _: UnlockResponse = session.call("/v3lockpb.Lock/Unlock", UnlockRequest { key }).await?;
        Ok(())
    }
}

/// `etcdctl lock NAME`, which holds until it is interrupted: a process for each hold. Now and then one does not give
/// its key back before it ends; then the next waits for the end of its lease, which is therefore short.
pub(super) fn etcdctl(orders: &Orders) -> Result<Worked> {
    let open = |key: &str, _: Duration| Ok(format!("etcdctl/{key}"));
    threads(orders, open, |name| take(&orders.at, name), |_, child| give(child))
}

fn take(at: &str, name: &str) -> Result<Child> {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", at, "lock", "--ttl=5", name]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("etcdctl")?;
    // It says the name of its key when it has the lock.
    let mut said = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut said)?;
    ensure!(said.starts_with(name), "etcdctl said {said:?}");
    Ok(child)
}

fn give(mut child: Child) -> Result<()> {
    kill_process(Pid::from_child(&child), Signal::INT)?;
    child.wait()?;
    Ok(())
}
