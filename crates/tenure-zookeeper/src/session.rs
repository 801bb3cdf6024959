//! A session with the ensemble: made once for all claims of an engine, and anew when it has expired.
//!
//! The client library keeps one session over changing connections, sends requests in order and repeats none. What it
//! says about the end of a session it may say late: it counts from the last byte that it has received, and waits for
//! 7/5 of the timeout. So nothing here trusts it for the validity of a hold; that is counted from requests of ours.
//!
//! # Invariants
//! 1. A request is answered, or given up after [`Session::patience`]; then it is unknown whether it was applied.
//! 2. Requests of a session are applied in the order in which they were sent, whether or not their answers arrive.
//! 3. A session that has ended is never used again.
//! 4. What is answered right after a silence proves nothing: see [`Chain`].

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tenure_core::engine::Trouble;
use tenure_core::engine::links::Dial;
use tenure_core::lease::{Clock, SystemClock};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, MultiWriteError, SessionState};

use crate::chain::Chain;
use crate::options::ZookeeperOptions;
use crate::solo::Solo;
use crate::trouble;

/// How many nodes are proven by one request.
const PULSE_MAX: usize = 128;

/// No request may take longer than this, however long the session lasts.
const PATIENCE_MAX: Duration = Duration::from_secs(5);

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    /// For how long the ensemble keeps it without hearing of us.
    pub(crate) timeout: Duration,
    /// The folders in which it alone has made nodes lately.
    pub(crate) solo: Solo,
    has_login: bool,
    asked: Mutex<Asked>,
    chain: Arc<Chain>,
    beating: AbortHandle,
}

/// Nodes that are to be proven by the next request.
#[derive(Debug, Default)]
struct Asked {
    nodes: Vec<(String, oneshot::Sender<Result<(), Error>>)>,
    /// Somebody sees to them.
    is_seen_to: bool,
}

impl Session {
    /// How long an answer may take.
    pub(crate) fn patience(&self) -> Duration {
        (self.timeout / 3).min(PATIENCE_MAX)
    }

    /// For how long a hold is valid from before a request that proved it.
    ///
    /// The ensemble keeps the session for `timeout` after its leader has last heard of us. Half of it is left for what
    /// lies between the two: the leader learns of a request to another server only with that server's next ping, half a
    /// tick later, and a session lasts for two ticks at least; and before the request there may have been a silence
    /// that was just short enough.
    pub(crate) fn validity(&self) -> Duration {
        self.timeout / 2
    }

    /// Whether what has just been answered counts: there was no silence for long enough.
    pub(crate) fn stands(&self) -> bool {
        self.chain.stands(SystemClock.now())
    }

    /// What a proof that does not count comes to.
    pub(crate) fn silence() -> Trouble {
        Trouble::lost(
            "the ensemble has not heard of this process for a while, and may be about to end its session",
        )
    }

    /// When to look whether it counts again.
    pub(crate) fn beat(&self) -> Duration {
        self.chain.beat()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.client.state().is_terminated()
    }

    /// Waits until there is a connection, so that what is sent then is not merely queued.
    pub(crate) async fn ready(&self) -> Result<(), Trouble> {
        let mut states = self.client.state_watcher();
        let connected = async {
            let mut state = states.peek_state();
            while state == SessionState::Disconnected {
                state = states.changed().await;
            }
            state
        };
        match tokio::time::timeout(self.patience(), connected).await {
            Err(_) => Err(Trouble::away("no server of ZooKeeper can be reached")),
            Ok(state) if state.is_terminated() => {
                Err(Trouble::away("the session with ZooKeeper has just expired"))
            }
            Ok(_) => Ok(()),
        }
    }

    /// The answer to a request, for as long as it is worth waiting for.
    pub(crate) async fn answer<T>(
        &self,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::time::timeout(self.patience(), request).await.unwrap_or(Err(Error::Timeout))
    }

    /// How nodes are made: for us alone when we have logged in, else for everybody.
    pub(crate) fn making(&self, mode: CreateMode) -> CreateOptions<'static> {
        mode.with_acls(if self.has_login { Acls::creator_all() } else { Acls::anyone_all() })
    }

    /// Proves by one transaction that the session lives and that a node is there, together with others who ask.
    ///
    /// A read would prove nothing: a server that is cut off from its leader goes on answering them for a while. A
    /// transaction is agreed upon by a quorum, although this one changes nothing.
    pub(crate) async fn prove(self: &Arc<Self>, node: &str) -> Result<(), Error> {
        let (tell, told) = oneshot::channel();
        let starts = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.nodes.push((node.to_owned(), tell));
            !std::mem::replace(&mut asked.is_seen_to, true)
        };
        if starts {
            tokio::spawn(Arc::clone(self).see_to_all());
        }
        told.await.unwrap_or(Err(Error::ClientClosed))
    }

    /// Proves what is asked for, together what was asked for while the last request was under way.
    async fn see_to_all(self: Arc<Self>) {
        loop {
            let nodes: Vec<_> = {
                let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                let count = asked.nodes.len().min(PULSE_MAX);
                asked.is_seen_to = count > 0;
                asked.nodes.drain(..count).collect()
            };
            if nodes.is_empty() {
                return;
            }
            self.see_to(nodes).await;
        }
    }

    /// Each round answers one at least, so it ends.
    async fn see_to(&self, mut nodes: Vec<(String, oneshot::Sender<Result<(), Error>>)>) {
        while !nodes.is_empty() {
            let paths = nodes.iter().map(|(path, _)| path.as_str());
            match self.check(paths).await {
                Ok(()) => nodes.drain(..).for_each(|(_, tell)| drop(tell.send(Ok(())))),
                Err(MultiWriteError::OperationFailed { index, source }) if index < nodes.len() => {
                    drop(nodes.swap_remove(index).1.send(Err(source)));
                }
                Err(
                    MultiWriteError::OperationFailed { source, .. }
                    | MultiWriteError::RequestFailed { source },
                ) => {
                    nodes.drain(..).for_each(|(_, tell)| drop(tell.send(Err(source.clone()))));
                }
            }
        }
    }

    async fn check(&self, paths: impl Iterator<Item = &str>) -> Result<(), MultiWriteError> {
        let mut writer = self.client.new_multi_writer();
        for path in paths {
            // Any version of its data will do.
            writer.add_check_version(path, -1)?;
        }
        match tokio::time::timeout(self.patience(), writer.commit()).await {
            Ok(checked) => checked.map(drop),
            Err(_) => Err(Error::Timeout.into()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

/// Asks the leader for nothing now and then, so that a silence is noticed: the client library tells nobody of its own
/// heartbeats, and other servers answer them without the leader.
async fn beat(client: Client, chain: Arc<Chain>) {
    while !client.state().is_terminated() {
        let sent = SystemClock.now();
        if let Ok(Ok(())) = tokio::time::timeout(chain.beat() * 8, client.sync("/")).await {
            chain.answered(sent, SystemClock.now());
        }
        tokio::time::sleep(chain.rest(sent, SystemClock.now())).await;
    }
}

/// Makes sessions.
#[derive(Debug)]
pub(crate) struct Dialer {
    options: ZookeeperOptions,
}

impl Dialer {
    pub(crate) fn new(options: ZookeeperOptions) -> Self {
        Self { options }
    }

    async fn connect(&self) -> Result<Session, Trouble> {
        let options = &self.options;
        let mut connector = Client::connector().with_session_timeout(options.session).with_fail_eagerly();
        if let Some((user, password)) = &options.login {
            connector = connector.with_auth("digest", format!("{user}:{password}").as_bytes());
        }
        let refused = |error: &Error| match error {
            Error::NoHosts | Error::ConnectionLoss | Error::Timeout => {
                Trouble::away(format!("none of {} lets us in", options.servers))
            }
            error => trouble::of(error).without_effect(),
        };
        let begun = SystemClock.now();
        let client = connector.connect(&options.servers).await.map_err(|error| refused(&error))?;
        let unusable = |_| {
            Trouble::unsupported(format!("{:?} is no path of ZooKeeper: correct the URL", options.chroot))
        };
        let client = client.chroot(options.chroot.as_str()).map_err(unusable)?;
        let timeout = client.session_timeout();
        match client.check_stat("/").await {
            Ok(Some(_)) => {}
            Ok(None) => {
                return Err(Trouble::unsupported(format!(
                    "{} has no node {}: create it, or correct the URL",
                    options.servers, options.chroot
                )));
            }
            Err(error) => return Err(refused(&error)),
        }
        let chain = Arc::new(Chain::new(timeout, begun));
        let beating = tokio::spawn(beat(client.clone(), Arc::clone(&chain))).abort_handle();
        let has_login = options.login.is_some();
        let (solo, asked) = (Solo::default(), Mutex::default());
        Ok(Session { client, timeout, solo, has_login, asked, chain, beating })
    }
}

impl Dial for Dialer {
    type Link = Session;

    async fn dial(&self) -> Result<Session, Trouble> {
        let limit = self.options.connect_timeout;
        tokio::time::timeout(limit, self.connect()).await.unwrap_or_else(|_| {
            Err(Trouble::away(format!("{} did not let us in within {limit:?}", self.options.servers)))
        })
    }

    fn has_ended(session: &Session) -> bool {
        session.has_ended()
    }
}
