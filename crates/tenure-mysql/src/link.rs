//! A connection to a server, owned by a task: what is sent on it, and what comes back.
//!
//! Each runtime has one, made by [`Links`](tenure_core::engine::links::Links). A caller that is cancelled never reaches
//! the connection: its statement goes on, and its answer is read in its turn and thrown away.
//!
//! # Invariants
//! 1. A connection is checked before the first verb.
//! 2. Nothing is ever sent twice, but a verb that a deadlock has undone, of which the server says that nothing was
//!    applied.
//! 3. A statement that is not answered in time ends its connection: what is behind it waits as well.
//! 4. An answer that names another claim ends the connection.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::{Connection, MySql, Row};
use tenure_core::ClaimId;
use tenure_core::engine::Trouble;
use tenure_core::engine::links::Dial;
use tenure_core::lease::{Clock, Moment, SystemClock};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::dial::{self, Server};
use crate::options::{Dialect, MySqlOptions};
use crate::polls::Polls;
use crate::session::{self, Sessions};
use crate::trouble;

/// How many statements may wait for a connection before the next one waits to wait.
const QUEUE: usize = 1024;

/// How often a verb that a deadlock has undone is repeated.
const DEADLOCKS_MAX: u32 = 5;

/// After how long without a statement a connection is tried before it is trusted with one.
const IDLE: Duration = Duration::from_secs(10);

/// How often a connection that is used looks for keys that nobody uses any more, at how many, and for how long a key
/// must have been idle, in microseconds.
const SWEEP: &str = "CALL tenure_sweep(?, ?, ?)";
const SWEEP_EVERY: Duration = Duration::from_secs(5);
const SWEEP_KEYS: i64 = 100;
const SWEEP_IDLE: i64 = 24 * 3600 * 1_000_000;

/// Makes connections to one server.
#[derive(Debug)]
pub(crate) struct Dialer {
    options: MySqlOptions,
    sessions: Sessions,
}

/// One connection, checked and ready.
pub(crate) struct Link {
    requests: mpsc::Sender<Request>,
    runtime: Handle,
    ended: Arc<AtomicBool>,
    pub(crate) server: Server,
    /// The session that it is; zero when places end with their leases.
    pub(crate) session: i64,
    pub(crate) polls: Polls,
}

/// A value of a statement.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Bytes(Vec<u8>),
    Number(i64),
}

struct Request {
    statement: &'static str,
    values: Vec<Value>,
    reply: oneshot::Sender<Result<Vec<MySqlRow>, Trouble>>,
}

impl Dialer {
    pub(crate) fn new(options: MySqlOptions) -> Self {
        Self { options, sessions: Sessions::default() }
    }
}

impl Dial for Dialer {
    type Link = Link;

    async fn dial(&self) -> Result<Link, Trouble> {
        let (mut connection, server) = dial::dial(&self.options).await?;
        let (session, beat) = match self.options.dialect {
            Dialect::Table => (0, None),
            Dialect::GetLock => {
                let limit = self.options.connect_timeout;
                (self.sessions.begin(&mut connection, &server, limit).await?, Some(session::BEAT))
            }
        };
        let (requests, inbox) = mpsc::channel(QUEUE);
        let ended = Arc::new(AtomicBool::new(false));
        let owner = Owner {
            connection: Some(connection),
            patience: self.options.response_timeout,
            beat,
            swept: SystemClock.now(),
            looked_at: Vec::new(),
        };
        tokio::spawn(owner.serve(inbox, Ended(Arc::clone(&ended))));
        Ok(Link { requests, runtime: Handle::current(), ended, server, session, polls: Polls::default() })
    }

    fn has_ended(link: &Link) -> bool {
        link.has_ended()
    }
}

/// Lives as long as the task that owns a connection, which also ends with its runtime.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

struct Owner {
    connection: Option<MySqlConnection>,
    patience: Duration,
    /// After how long without a request the server hears from us all the same.
    beat: Option<Duration>,
    /// When it last looked for idle keys, and at which one last.
    swept: Moment,
    looked_at: Vec<u8>,
}

/// What a connection is to do next.
enum Next {
    Request(Request),
    Beat,
    End,
}

impl Owner {
    async fn serve(mut self, mut inbox: mpsc::Receiver<Request>, ended: Ended) {
        let mut used = SystemClock.now();
        // Ends with its requests, or with its connection.
        loop {
            let request = match self.next(&mut inbox).await {
                Next::Request(request) => request,
                Next::Beat => {
                    self.ping().await;
                    used = SystemClock.now();
                    if self.connection.is_none() {
                        ended.0.store(true, Ordering::Release);
                        break;
                    }
                    continue;
                }
                Next::End => break,
            };
            if request.reply.is_closed() {
                // Nobody waits for it any more, and it was not sent.
                continue;
            }
            let answer = self.answer(&request, used).await;
            used = SystemClock.now();
            if self.connection.is_none() {
                // Whoever learns of it must not be sent here again.
                ended.0.store(true, Ordering::Release);
            }
            // Whoever has gone meanwhile needs no answer.
            let _ = request.reply.send(answer);
            if self.connection.is_some() && inbox.is_empty() && used.since(self.swept) > SWEEP_EVERY {
                self.sweep(used).await;
            }
            if self.connection.is_none() {
                break;
            }
        }
        inbox.close();
        while let Ok(request) = inbox.try_recv() {
            let _ = request.reply.send(Err(Trouble::away("the connection has ended")));
        }
        if let Some(connection) = self.connection {
            // The server also notices by itself.
            let _ = tokio::time::timeout(self.patience, connection.close()).await;
        }
    }

    async fn next(&self, inbox: &mut mpsc::Receiver<Request>) -> Next {
        let received = match self.beat {
            None => Ok(inbox.recv().await),
            Some(beat) => tokio::time::timeout(beat, inbox.recv()).await,
        };
        match received {
            Ok(Some(request)) => Next::Request(request),
            Ok(None) => Next::End,
            Err(_) => Next::Beat,
        }
    }

    /// Lets the server hear from us. Gives the connection up when it does not answer.
    async fn ping(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if let Ok(Ok(())) = tokio::time::timeout(self.patience, connection.ping()).await {
            self.connection = Some(connection);
        }
    }

    /// Cleans up a few keys that nobody has used for long. What goes wrong is tried again next time.
    async fn sweep(&mut self, now: Moment) {
        self.swept = now;
        let after = Value::Bytes(std::mem::take(&mut self.looked_at));
        let values = vec![after, Value::Number(SWEEP_KEYS), Value::Number(SWEEP_IDLE)];
        let (reply, _) = oneshot::channel();
        let rows = self.answer(&Request { statement: SWEEP, values, reply }, now).await.unwrap_or_default();
        if let Some(row) = rows.first()
            && row.try_get::<i64, _>(0).is_ok_and(|finished| finished == 0)
        {
            self.looked_at = row.try_get(1).unwrap_or_default();
        }
    }

    /// Sends a statement and reads its answer. Gives the connection up when it cannot be trusted any more.
    async fn answer(&mut self, request: &Request, used: Moment) -> Result<Vec<MySqlRow>, Trouble> {
        let patience = self.patience;
        let mut idle = SystemClock.now().since(used) > IDLE;
        for deadlocks in 0.. {
            // Taken out, so that it is gone whatever happens here.
            let Some(mut connection) = self.connection.take() else { break };
            let work = async {
                if std::mem::take(&mut idle) {
                    let gone =
                        |error| (Trouble::away(format!("the connection has ended: {error}")), false, None);
                    connection.ping().await.map_err(gone)?;
                }
                let done = bind_all(request.statement, &request.values).fetch_all(&mut connection).await;
                done.map_err(|error| {
                    let (trouble, stays) = trouble::of_verb(&error);
                    (trouble, stays, trouble::number(&error))
                })
            };
            let Ok(done) = tokio::time::timeout(patience, work).await else {
                return Err(Trouble::lost("the server did not answer in time"));
            };
            match done {
                Ok(rows) => {
                    self.connection = Some(connection);
                    return Ok(rows);
                }
                Err((trouble, stays, number)) => {
                    self.connection = stays.then_some(connection);
                    if number != Some(trouble::DEADLOCK) || deadlocks == DEADLOCKS_MAX {
                        return Err(trouble);
                    }
                }
            }
        }
        Err(Trouble::away("the connection has ended"))
    }
}

/// A statement with its values.
pub(crate) fn bind_all(
    statement: &'static str,
    values: &[Value],
) -> sqlx::query::Query<'static, MySql, MySqlArguments> {
    values.iter().fold(sqlx::query(statement), |query, value| match value {
        Value::Text(text) => query.bind(text.clone()),
        Value::Bytes(bytes) => query.bind(bytes.clone()),
        Value::Number(number) => query.bind(*number),
    })
}

/// What a verb answered: its line without the claim, and whom it has told.
pub(crate) struct Answer {
    pub(crate) line: String,
    pub(crate) told: Option<String>,
}

impl Link {
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.requests.is_closed()
    }

    /// One statement and its rows.
    ///
    /// # Cancel safety
    /// Safe: whether the statement was sent is unknown.
    pub(crate) async fn ask(
        &self,
        statement: &'static str,
        values: Vec<Value>,
    ) -> Result<Vec<MySqlRow>, Trouble> {
        let (reply, answer) = oneshot::channel();
        let request = Request { statement, values, reply };
        if self.requests.send(request).await.is_err() {
            return Err(Trouble::away("the connection has ended"));
        }
        let lost = |_| Trouble::lost("the runtime of the connection has ended");
        answer.await.map_err(lost)?
    }

    /// A verb of a claim: its answer is one row, whose line begins with the claim.
    pub(crate) async fn verb(
        &self,
        statement: &'static str,
        claim: ClaimId,
        values: Vec<Value>,
    ) -> Result<Answer, Trouble> {
        let rows = self.ask(statement, values).await?;
        let row = rows.first().ok_or_else(|| self.confused(&"no answer"))?;
        let line: String = row.try_get(0).map_err(|error| self.confused(&error))?;
        let told = row.try_get(1).map_err(|error| self.confused(&error))?;
        match line.strip_prefix(&claim.to_string()).and_then(|rest| rest.strip_prefix(' ')) {
            // Somebody else's answer: whatever comes next on this connection may be as well.
            None => Err(self.confused(&line)),
            Some("guarded") => Err(Trouble::away(
                "a transaction that is guarded by this hold is still open: end it before the hold is given up",
            )),
            Some("astray") => {
                self.ended.store(true, Ordering::Release);
                Err(Trouble::unsupported(
                    "the connection that the server sees is not the one that has our session: name the server itself \
                     in the URL, not a proxy that shares connections, or leave dialect=get_lock out of it",
                ))
            }
            Some(rest) => Ok(Answer { line: rest.to_owned(), told }),
        }
    }

    /// The answer makes no sense: the connection ends, and what it answers may have been applied.
    pub(crate) fn confused(&self, answer: &dyn fmt::Debug) -> Trouble {
        self.ended.store(true, Ordering::Release);
        let shown: String = format!("{answer:?}").chars().take(200).collect();
        Trouble::nonsense(format!("the server answered something that makes no sense: {shown}"))
    }

    /// Sleeps on the runtime of the connection: who waits may have none.
    pub(crate) async fn sleep(&self, duration: Duration) {
        if Handle::try_current().is_ok_and(|current| current.id() == self.runtime.id()) {
            tokio::time::sleep(duration).await;
        } else {
            // When the runtime has ended, so has the connection, and who waits finds out.
            let _ = self.runtime.spawn(async move { tokio::time::sleep(duration).await }).await;
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("server", &self.server).finish_non_exhaustive()
    }
}
