//! A connection to the server: what is asked on it, what comes back, and what is pushed.
//!
//! Each runtime has one, made by [`Links`](tenure_core::engine::links::Links): statements and notifications share it.
//!
//! # Invariants
//! 1. A connection is checked before the first verb.
//! 2. When a connection ends, everybody who waits looks again: pushes on it are lost.
//! 3. A statement that is not answered in time ends its connection: what is behind it waits as well.
//! 4. Nothing is ever sent twice. A caller that is cancelled takes nothing from others: its statement goes on, and the
//!    answer is thrown away.
//! 5. Behind a pooler, one statement is under way at a time: PgBouncer 1.18 mixes up the answers of clients that send
//!    the next statement before they have read the answer to the last one.
//! 6. Behind a pooler no statement is prepared by name and no setting is left in the session: the next transaction may
//!    be served by another process. Elsewhere, a verb that is asked again is prepared, and its statement does nothing
//!    unless it is told the number of the connection that it was prepared on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tenure_core::ClaimId;
use tenure_core::engine::inbox::{self, Life};
use tenure_core::engine::links::{self, Dial};
use tenure_core::engine::{EngineError, Trouble};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OnceCell};
use tokio::task::AbortHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Statement};

use crate::dial::{self, Dialed, Server};
use crate::options::{Dialect, PostgresOptions};
use crate::trouble;
use crate::verbs::{Verb, Verbs};

pub(crate) type Inbox = inbox::Inbox<Dialer>;
pub(crate) type Ear = inbox::Ear<Dialer>;

/// How often those who listen look, where nothing can be pushed.
const LISTENERS_LOOK_EVERY: Duration = Duration::from_secs(2);

/// Makes connections to one server, whose pushes go to one inbox.
pub(crate) struct Dialer {
    pub(crate) options: PostgresOptions,
    inbox: Arc<Inbox>,
    /// Whether connections are shared by a pooler, so that nothing can be pushed to us; found out once.
    pooled: OnceCell<bool>,
    /// It was seen later that they are.
    moved: AtomicBool,
}

/// One connection, checked and ready.
pub(crate) struct Link {
    client: Arc<Client>,
    driver: AbortHandle,
    runtime: Handle,
    life: Arc<Life<Dialer>>,
    patience: Duration,
    /// Whose turn it is, behind a pooler.
    turn: Option<Arc<Mutex<()>>>,
    pub(crate) server: Server,
    pub(crate) verbs: Verbs,
    kept: [Arc<Kept>; Verb::COUNT],
    /// Where claims that wait on it are to be told; empty behind a pooler.
    pub(crate) channel: String,
    /// The number of its session, as long as which holds last; 0 where they end by lease.
    pub(crate) session: i64,
}

/// A verb on one connection: whether it was asked before, and its statement once it is prepared.
#[derive(Default)]
struct Kept {
    asked: AtomicBool,
    statement: OnceCell<Statement>,
}

impl Kept {
    /// Asks for the rows of a verb. The second who does so prepares it, which is a round trip more.
    async fn ask(
        &self,
        client: &Client,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Unasked> {
        if !self.asked.swap(true, Ordering::Relaxed) {
            return client.query_typed(sql, values).await.map_err(Unasked::Asked);
        }
        let types: Vec<_> = values.iter().map(|(_, of)| of.clone()).collect();
        let statement = self.statement.get_or_try_init(|| client.prepare_typed(sql, &types)).await;
        let statement = statement.map_err(Unasked::Unprepared)?;
        let values: Vec<_> = values.iter().map(|(value, _)| *value).collect();
        client.query(statement, &values).await.map_err(Unasked::Asked)
    }
}

/// Why there are no rows: the statement was not prepared, and so not run, or it was asked.
enum Unasked {
    Unprepared(tokio_postgres::Error),
    Asked(tokio_postgres::Error),
}

/// What is known of a connection that may serve.
struct Greeted {
    server: Server,
    schema: String,
    channel: String,
    session: i64,
}

/// Lives as long as the task that drives a connection, which also ends with its runtime.
struct Driven(Arc<Life<Dialer>>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// One parameter of a statement.
#[derive(Debug)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
    Small(i32),
    Truth(bool),
}

impl Value {
    pub(crate) fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Text(text) => (text, Type::TEXT),
            Self::Number(number) => (number, Type::INT8),
            Self::Small(number) => (number, Type::INT4),
            Self::Truth(truth) => (truth, Type::BOOL),
        }
    }
}

impl Dialer {
    pub(crate) fn new(options: PostgresOptions, inbox: Arc<Inbox>) -> Self {
        Self { options, inbox, pooled: OnceCell::new(), moved: AtomicBool::new(false) }
    }

    /// Whether nothing can be pushed to us.
    pub(crate) fn is_pooled(&self) -> bool {
        self.moved.load(Ordering::Relaxed) || self.pooled.get().is_some_and(|pooled| *pooled)
    }

    /// A pooler gives a process of the server to whoever needs one: it gives ours away while it is idle, or gives us
    /// another while ours is busy.
    async fn probe(&self, client: &Client, process: i32) -> Result<bool, Trouble> {
        let other = dial::connect(&self.options, |_| ()).await?;
        let ask = "SELECT pg_backend_pid()";
        let failed = |error: tokio_postgres::Error| trouble::of(&error).without_effect();
        other.client.batch_execute("BEGIN").await.map_err(failed)?;
        let theirs = other.client.query_typed_one(ask, &[]).await.map_err(failed)?;
        let theirs: i32 = theirs.try_get(0).map_err(failed)?;
        let ours = client.query_typed_one(ask, &[]).await.map_err(failed)?;
        let ours: i32 = ours.try_get(0).map_err(failed)?;
        other.client.batch_execute("ROLLBACK").await.map_err(failed)?;
        Ok(theirs == process || ours != process)
    }

    async fn greeted(&self, dialed: &Dialed, since: Moment) -> Result<Greeted, Trouble> {
        let client = &dialed.client;
        let server = dial::greet(client, &self.options).await?;
        if server.age.is_some_and(|age| age > SystemClock.now().since(since)) {
            // It served somebody before we came.
            self.moved.store(true, Ordering::Relaxed);
        }
        let schema = dial::check_tables(client, &server, &self.options).await?;
        if !self.is_pooled() {
            self.pooled.get_or_try_init(|| self.probe(client, server.process)).await?;
        }
        let by_session = self.options.dialect == Dialect::Advisory;
        if self.is_pooled() {
            if by_session {
                return Err(Trouble::unsupported(format!(
                    "a pooler is between us and the server at {}, and would give our session to others: connect to the \
                     server itself, or leave out dialect=advisory",
                    self.options.address()
                )));
            }
            return Ok(Greeted { server, schema, channel: String::new(), session: 0 });
        }
        let session = if by_session { dial::begin_session(client).await? } else { 0 };
        let channel = format!("tenure_{:016x}", rand::random::<u64>());
        let listening = client.batch_execute(&format!("LISTEN {channel}")).await;
        listening.map_err(|error| trouble::of(&error).without_effect())?;
        Ok(Greeted { server, schema, channel, session })
    }
}

/// Where nothing can be pushed, whoever listens is told to look now and then. Waiters are looked after more often, by
/// what the facts say.
async fn wake_now_and_then(life: Arc<Life<Dialer>>) {
    while !life.has_ended() {
        tokio::time::sleep(LISTENERS_LOOK_EVERY).await;
        life.wake();
    }
}

impl Dial for Dialer {
    type Link = Link;

    async fn dial(&self) -> Result<Link, Trouble> {
        let life = Life::new(Arc::clone(&self.inbox));
        let driven = Driven(Arc::clone(&life));
        let since = SystemClock.now();
        let dialing = async {
            let dialed = dial::connect(&self.options, move |message| driven.0.take(message)).await?;
            match self.greeted(&dialed, since).await {
                Ok(greeted) => Ok((dialed, greeted)),
                Err(trouble) => {
                    dialed.driver.abort();
                    Err(trouble)
                }
            }
        };
        let limit = self.options.connect_timeout;
        let Ok(dialed) = tokio::time::timeout(limit, dialing).await else {
            let message = format!("{} did not let us in within {limit:?}", self.options.address());
            return Err(Trouble::away(message));
        };
        let (dialed, Greeted { server, schema, channel, session }) = dialed?;
        life.begin();
        let pooled = channel.is_empty();
        if pooled {
            tokio::spawn(wake_now_and_then(Arc::clone(&life)));
        }
        Ok(Link {
            turn: pooled.then(Arc::default),
            client: Arc::new(dialed.client),
            driver: dialed.driver,
            runtime: Handle::current(),
            life,
            patience: self.options.response_timeout,
            server,
            verbs: Verbs::of(&schema, (!pooled).then(rand::random)),
            kept: Default::default(),
            channel,
            session,
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

impl Link {
    /// Gives the connection up, because it cannot be trusted any more.
    fn give_up(&self) {
        self.life.end();
        self.driver.abort();
    }

    /// Asks a statement and waits for its rows.
    pub(crate) async fn ask(&self, sql: Arc<str>, values: Vec<Value>) -> Result<Vec<Row>, Trouble> {
        self.ask_as(None, sql, values).await
    }

    async fn ask_as(
        &self,
        kept: Option<Arc<Kept>>,
        sql: Arc<str>,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, Trouble> {
        if self.life.has_ended() {
            return Err(Trouble::away("the connection has ended"));
        }
        let (client, patience, turn) = (Arc::clone(&self.client), self.patience, self.turn.clone());
        let asking = async move {
            let _turn = match &turn {
                Some(turn) => Some(turn.lock().await),
                None => None,
            };
            let values: Vec<_> = values.iter().map(Value::typed).collect();
            let query = async {
                match &kept {
                    Some(kept) => kept.ask(&client, &sql, &values).await,
                    None => client.query_typed(&sql, &values).await.map_err(Unasked::Asked),
                }
            };
            tokio::time::timeout(patience, query).await
        };
        let asked = if self.turn.is_some() {
            // A caller that is cancelled must not take its turn with it before the answer is there.
            let asked = self.runtime.spawn(asking).await;
            asked.map_err(|_| Trouble::lost("the runtime of the connection has ended"))?
        } else {
            links::on(&self.runtime, asking).await?
        };
        match asked {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(unasked)) => {
                let (Unasked::Unprepared(error) | Unasked::Asked(error)) = &unasked;
                let trouble = trouble::of(error);
                if trouble::ends_connection(&trouble, error) {
                    self.give_up();
                }
                match unasked {
                    Unasked::Unprepared(_) => Err(trouble.without_effect()),
                    Unasked::Asked(_) => Err(trouble),
                }
            }
            Err(_) => {
                self.give_up();
                Err(Trouble::lost(format!("no answer within {patience:?}")))
            }
        }
    }

    /// A verb: its answer is one line that begins with the claim. The rest of the line is returned.
    pub(crate) async fn verb(
        &self,
        dialer: &Dialer,
        verb: Verb,
        claim: ClaimId,
        mut values: Vec<Value>,
    ) -> Result<String, EngineError> {
        values.extend(self.verbs.number.map(Value::Number));
        let kept = self.verbs.number.and(self.kept.get(verb as usize)).map(Arc::clone);
        let rows = self.ask_as(kept, self.verbs.text(verb), values).await?;
        let [row] = rows.as_slice() else { return Err(self.confused(&"not one row").into()) };
        let (line, process) = (row.try_get::<_, Option<String>>(0), row.try_get::<_, i32>(1));
        let (Ok(line), Ok(process)) = (line, process) else { return Err(self.confused(row).into()) };
        let Some(line) = line else {
            // It was prepared on another connection.
            dialer.moved.store(true, Ordering::Relaxed);
            self.give_up();
            return Err(Trouble::away("the statement of another connection of the server answers").into());
        };
        if process != self.server.process && !self.channel.is_empty() {
            // Another process serves us: what was to be pushed to us went to whoever has ours now.
            dialer.moved.store(true, Ordering::Relaxed);
            self.give_up();
            if self.session != 0 {
                let message =
                    "another process of the server answers: a pooler is between, and our session is gone";
                return Err(Trouble::lost(message).into());
            }
        }
        let own = claim.to_string();
        match line.strip_prefix(&own).and_then(|rest| rest.strip_prefix(' ')) {
            Some(rest) => Ok(rest.to_owned()),
            // Somebody else's answer: whatever comes next on this connection may be as well.
            None => Err(self.confused(&line).into()),
        }
    }

    /// The answer makes no sense: the connection ends, and what it answers may have been applied.
    pub(crate) fn confused(&self, answer: &dyn fmt::Debug) -> Trouble {
        self.give_up();
        let shown: String = format!("{answer:?}").chars().take(200).collect();
        Trouble::nonsense(format!("the server answered something that makes no sense: {shown}"))
    }

    /// Its runtime, for what nobody waits for.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("server", &self.server).finish_non_exhaustive()
    }
}
