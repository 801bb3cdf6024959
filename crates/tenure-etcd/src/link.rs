//! A connection to a server of the cluster: requests, and the two streams of keep-alives and of watches.
//!
//! Each runtime has one, made by [`Links`](tenure_core::engine::links::Links).
//!
//! # Invariants
//! 1. A connection is checked before the first verb.
//! 2. When a connection ends, everybody who waits on it is told to look again.
//! 3. A request that is not answered in time ends its connection: the server may be cut off from its cluster, and the
//!    next connection is made to another one.
//! 4. Nothing is sent twice, except what was refused for a login that has run out, which certainly changed nothing.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tenure_core::engine::Trouble;
use tenure_core::engine::links::Dial;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::dial;
use crate::ops;
use crate::options::EtcdOptions;
use crate::pulse::Pulse;
use crate::rpc::{
    DeleteRangeRequest, KvClient, LeaseClient, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    TxnRequest, TxnResponse,
};
use crate::together::Writes;
use crate::trouble;
use crate::version::Version;
use crate::watch::{Sight, Watches};

/// The largest answer that is read: the lines of thousands of waiters.
const ANSWER_MAX: usize = 64 << 20;

/// How many requests are under way on a connection at once. More would only wait in the server, where their time runs.
const AT_ONCE: usize = 64;

/// How many claims come on a connection at once: ask for leases, and join a line that others join as well. Those who
/// hold or wait already are not kept from their keep-alives by any number of those who come.
const COMING_AT_ONCE: usize = 32;

/// Makes connections to the servers of one cluster.
pub(crate) struct Dialer {
    options: Arc<EtcdOptions>,
    next: AtomicUsize,
}

/// One connection, checked and ready.
pub(crate) struct Link {
    options: Arc<EtcdOptions>,
    channel: Channel,
    token: Mutex<Option<AsciiMetadataValue>>,
    runtime: Handle,
    life: Life,
    turns: Semaphore,
    coming: Semaphore,
    pulse: Pulse,
    watches: Watches,
    pub(crate) writes: Writes,
    pub(crate) version: Version,
}

/// The right to have something under way.
pub(crate) struct Turn<'a>(
    #[expect(dead_code, reason = "it counts until it is dropped")] SemaphorePermit<'a>,
);

/// Whether a connection still stands; its clones are told when it ends.
#[derive(Clone, Debug)]
pub(crate) struct Life(Arc<(AtomicBool, watch::Sender<bool>)>);

impl Life {
    pub(crate) fn new() -> Self {
        Self(Arc::new((AtomicBool::new(false), watch::Sender::new(false))))
    }

    pub(crate) fn end(&self) {
        if !self.0.0.swap(true, Ordering::AcqRel) {
            self.0.1.send_replace(true);
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.0.load(Ordering::Acquire)
    }

    /// Waits until the connection has ended.
    pub(crate) async fn ended(&self) {
        let mut ends = self.0.1.subscribe();
        // The sender cannot vanish: we share it.
        let _ = ends.wait_for(|ended| *ended).await;
    }
}

/// A request failed: what it means, and whether it was for a lease that has ended.
#[derive(Clone)]
pub(crate) struct Failed {
    pub(crate) trouble: Trouble,
    pub(crate) no_lease: bool,
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self { trouble, no_lease: false }
    }
}

impl From<Failed> for tenure_core::engine::EngineError {
    fn from(failed: Failed) -> Self {
        failed.trouble.into()
    }
}

impl Dialer {
    pub(crate) fn new(options: EtcdOptions) -> Self {
        let next = AtomicUsize::new(rand::random::<u32>() as usize);
        Self { options: Arc::new(options), next }
    }

    pub(crate) fn options(&self) -> &EtcdOptions {
        &self.options
    }
}

impl Dial for Dialer {
    type Link = Link;

    async fn dial(&self) -> Result<Link, Trouble> {
        let dialed = dial::dial(&self.options, &self.next).await?;
        let life = Life::new();
        let metadata = metadata(dialed.token.as_ref());
        let pulse = Pulse::start(dialed.channel.clone(), metadata.clone(), life.clone());
        let watches = Watches::start(dialed.channel.clone(), metadata, life.clone());
        Ok(Link {
            options: Arc::clone(&self.options),
            channel: dialed.channel,
            token: Mutex::new(dialed.token),
            runtime: Handle::current(),
            life,
            turns: Semaphore::new(AT_ONCE),
            coming: Semaphore::new(COMING_AT_ONCE),
            pulse,
            watches,
            writes: Writes::default(),
            version: dialed.version,
        })
    }

    fn has_ended(link: &Link) -> bool {
        link.life.has_ended()
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

/// What goes with each request: who we are, and that a server without a leader shall refuse it at once.
fn metadata(token: Option<&AsciiMetadataValue>) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert("hasleader", AsciiMetadataValue::from_static("true"));
    if let Some(token) = token {
        metadata.insert("token", token.clone());
    }
    metadata
}

impl Link {
    fn metadata(&self) -> MetadataMap {
        metadata(self.token.lock().unwrap_or_else(PoisonError::into_inner).as_ref())
    }

    /// Waits for the turn to send something.
    pub(crate) async fn turn(&self) -> Result<Turn<'_>, Trouble> {
        self.turn_of(&self.turns).await
    }

    /// Waits for the turn of a claim that comes. Whoever has it may wait for another turn, but not the other way round.
    pub(crate) async fn turn_to_come(&self) -> Result<Turn<'_>, Trouble> {
        self.turn_of(&self.coming).await
    }

    async fn turn_of<'a>(&self, turns: &'a Semaphore) -> Result<Turn<'a>, Trouble> {
        // Where there is room nothing is waited for, so that claims that come together stay together.
        let turn = match turns.try_acquire() {
            Ok(turn) => turn,
            Err(_) => turns.acquire().await.map_err(|_| Self::has_ended())?,
        };
        self.stands()?;
        Ok(Turn(turn))
    }

    fn stands(&self) -> Result<(), Trouble> {
        if self.life.has_ended() { Err(Self::has_ended()) } else { Ok(()) }
    }

    fn has_ended() -> Trouble {
        Trouble::away("the connection has ended")
    }

    /// One request and its answer.
    async fn ask<Q, A, F>(
        &self,
        _turn: &Turn<'_>,
        message: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, Failed>
    where
        Q: Clone,
        A: Send + 'static,
        F: Future<Output = Result<Response<A>, Status>> + Send + 'static,
    {
        self.stands()?;
        let prepared = |message| {
            let mut request = Request::new(message);
            *request.metadata_mut() = self.metadata();
            send(self.channel.clone(), request)
        };
        let mut answer = self.in_time(prepared(message.clone())).await?;
        if let Err(status) = &answer
            && trouble::wants_login(status)
            && self.options.login.is_some()
        {
            // Refused before anything was applied: with a fresh login it may be sent again.
            let token = dial::login(&self.options, &self.channel).await?;
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
            // The streams say who we are only once, so they are made anew with the next connection.
            self.life.end();
            answer = self.in_time(prepared(message)).await?;
        }
        answer.map(Response::into_inner).map_err(|status| {
            if trouble::ends_connection(&status) {
                self.life.end();
            }
            Failed { trouble: trouble::of(&status), no_lease: trouble::is_no_lease(&status) }
        })
    }

    /// Waits for an answer as long as one is worth having.
    async fn in_time<A, F>(&self, answer: F) -> Result<Result<Response<A>, Status>, Trouble>
    where
        A: Send + 'static,
        F: Future<Output = Result<Response<A>, Status>> + Send + 'static,
    {
        let limited = tokio_timeout(self.options.response_timeout, answer);
        let answered = if self.is_at_home() {
            limited.await
        } else {
            // Timers need the runtime of the connection.
            let done = self.runtime.spawn(limited).await;
            done.map_err(|_| Trouble::lost("the runtime of the connection has ended"))?
        };
        answered.ok_or_else(|| {
            self.life.end();
            Trouble::lost("the server did not answer in time")
        })
    }

    fn is_at_home(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() == self.runtime.id())
    }

    pub(crate) async fn txn(&self, txn: TxnRequest) -> Result<TxnResponse, Failed> {
        let turn = self.turn().await?;
        self.txn_in(&turn, txn).await
    }

    /// What is nothing but a deletion is asked for as such: etcd spends less on it than on a transaction, for whose
    /// conditions it copies what it has not brought to its database yet.
    pub(crate) async fn txn_in(&self, turn: &Turn<'_>, txn: TxnRequest) -> Result<TxnResponse, Failed> {
        let txn = match ops::bare_deletion(txn) {
            Ok(deletion) => return self.delete_in(turn, deletion).await,
            Err(txn) => txn,
        };
        self.ask(turn, txn, |channel, request| async move {
            KvClient::new(channel).max_decoding_message_size(ANSWER_MAX).txn(request).await
        })
        .await
    }

    async fn delete_in(&self, turn: &Turn<'_>, asked: DeleteRangeRequest) -> Result<TxnResponse, Failed> {
        let deleted = self.ask(turn, asked, |channel, request| async move {
            KvClient::new(channel).delete_range(request).await
        });
        Ok(ops::answer_of_deletion(deleted.await?))
    }

    /// A new lease: its id, and for how long it was granted.
    pub(crate) async fn grant(&self, turn: &Turn<'_>, seconds: i64) -> Result<(i64, Duration), Failed> {
        let ask = LeaseGrantRequest { ttl: seconds, id: 0 };
        let granted =
            self.ask(turn, ask, |channel, request| async move {
                LeaseClient::new(channel).lease_grant(request).await
            })
            .await?;
        if !granted.error.is_empty() || granted.id == 0 {
            return Err(Trouble::nonsense(format!("no lease was granted: {}", granted.error)).into());
        }
        Ok((granted.id, seconds_of(granted.ttl)))
    }

    /// Ends a lease, with all that hangs on it. That it has ended already is as good.
    pub(crate) async fn revoke(&self, lease: i64) -> Result<(), Failed> {
        let (turn, ask) = (self.turn().await?, LeaseRevokeRequest { id: lease });
        let revoked = self
            .ask(&turn, ask, |channel, request| async move {
                LeaseClient::new(channel).lease_revoke(request).await
            })
            .await;
        match revoked {
            Err(failed) if !failed.no_lease => Err(failed),
            _ => Ok(()),
        }
    }

    /// How much of a lease is left, in whole seconds.
    pub(crate) async fn left(&self, lease: i64) -> Result<Duration, Failed> {
        let (turn, ask) = (self.turn().await?, LeaseTimeToLiveRequest { id: lease, keys: false });
        let told = self
            .ask(&turn, ask, |channel, request| async move {
                LeaseClient::new(channel).lease_time_to_live(request).await
            })
            .await?;
        Ok(seconds_of(told.ttl))
    }

    /// Keeps a lease alive: for how long from before the send; zero when it has ended.
    pub(crate) async fn keep_alive(&self, lease: i64) -> Result<Duration, Trouble> {
        let _turn = self.turn().await?;
        let beat = self.pulse.beat(lease)?;
        let limited = tokio_timeout(self.options.response_timeout, beat);
        let answered = if self.is_at_home() {
            limited.await
        } else {
            let done = self.runtime.spawn(limited).await;
            done.map_err(|_| Trouble::lost("the runtime of the connection has ended"))?
        };
        match answered {
            Some(Ok(seconds)) => Ok(seconds_of(seconds)),
            Some(Err(_)) => Err(Trouble::lost("the connection broke")),
            None => {
                self.life.end();
                Err(Trouble::lost("the server did not answer in time"))
            }
        }
    }

    /// Begins to watch what happens to a key from now on.
    pub(crate) fn watch(&self, key: Vec<u8>, sight: Sight) -> crate::watch::Watch {
        self.watches.watch(key, sight)
    }

    /// Runs something on the runtime of the connection, for which nobody waits.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }
}

/// What a future gives within a limit.
async fn tokio_timeout<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}

fn seconds_of(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

impl Drop for Link {
    fn drop(&mut self) {
        // The tasks of the streams end with it.
        self.life.end();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("version", &self.version).finish_non_exhaustive()
    }
}
