//! A connection to a server: what is sent on it, what comes back, and what is pushed.
//!
//! Each runtime has one, made by [`Links`](tenure_core::engine::links::Links).
//!
//! # Invariants
//! 1. A connection is checked before the first verb.
//! 2. When a connection ends, everybody who waits looks again: pushes on it are lost.
//! 3. A request that is not answered in time ends its connection: what is behind it waits as well.
//! 4. Nothing is ever sent twice. A caller that is cancelled takes nothing from others: the reply of what it has sent
//!    is read in its turn and thrown away.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, PushInfo, PushKind, RedisResult, Value};
use tenure_core::engine::links::Dial;
use tenure_core::engine::{EngineError, Trouble};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_core::{Identity, Key};
use tokio::runtime::Handle;

use crate::cards::Card;
use crate::dial::{self, Server};
use crate::inbox::Inbox;
use crate::names;
use crate::options::RedisOptions;
use crate::reply::{self, Reply};
use crate::scripts::Script;
use crate::trouble;

/// Makes connections to one server, whose pushes go to one inbox.
pub(crate) struct Dialer {
    options: RedisOptions,
    inbox: Arc<Inbox>,
}

/// One connection, checked and ready.
pub(crate) struct Link {
    /// None when it has been given up.
    connection: Mutex<Option<MultiplexedConnection>>,
    runtime: Handle,
    life: Arc<Life>,
    /// Its name in places, and of its channel.
    pub(crate) name: u64,
    pub(crate) server: Server,
    scripts: Vec<String>,
    card: Mutex<Option<(Arc<Identity>, Moment)>>,
}

/// Whether a connection still stands.
struct Life {
    inbox: Arc<Inbox>,
    used: AtomicBool,
    ended: AtomicBool,
}

impl Life {
    /// The connection has ended: who waits on it looks again. A connection that was refused had nobody.
    fn end(&self) {
        if !self.ended.swap(true, Ordering::AcqRel) && self.used.load(Ordering::Acquire) {
            self.inbox.tell_all();
        }
    }
}

/// Lives as long as the task that drives a connection, which also ends with its runtime.
struct Driven(Arc<Life>);

impl Driven {
    fn take(&self, push: PushInfo) -> Result<(), redis::aio::SendError> {
        match push.kind {
            PushKind::Disconnection => self.0.end(),
            PushKind::Message => {
                if let Some(message) = push.data.get(1).and_then(Reply::text) {
                    self.0.inbox.take(message);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Dialer {
    pub(crate) fn new(options: RedisOptions, inbox: Arc<Inbox>) -> Self {
        Self { options, inbox }
    }
}

impl Dial for Dialer {
    type Link = Link;

    async fn dial(&self) -> Result<Link, Trouble> {
        let name = rand::random();
        let inbox = Arc::clone(&self.inbox);
        let life = Arc::new(Life { inbox, used: AtomicBool::new(false), ended: AtomicBool::new(false) });
        let driven = Driven(Arc::clone(&life));
        let dialed = dial::dial(&self.options, name, move |push| driven.take(push)).await?;
        life.used.store(true, Ordering::Release);
        Ok(Link {
            connection: Mutex::new(Some(dialed.connection)),
            runtime: Handle::current(),
            life,
            name,
            server: dialed.server,
            scripts: dialed.scripts,
            card: Mutex::default(),
        })
    }

    fn has_ended(link: &Link) -> bool {
        link.has_ended()
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

impl Link {
    pub(crate) fn has_ended(&self) -> bool {
        self.life.ended.load(Ordering::Acquire)
    }

    /// Gives the connection up, because it cannot be trusted any more. It is closed when nobody waits on it.
    fn give_up(&self) {
        self.life.end();
        drop(lock(&self.connection).take());
    }

    /// Sends something and waits for what it gives.
    async fn exchange<T, F>(&self, work: impl FnOnce(MultiplexedConnection) -> F) -> Result<T, Trouble>
    where
        T: Send + 'static,
        F: Future<Output = RedisResult<T>> + Send + 'static,
    {
        let connection = if self.has_ended() { None } else { lock(&self.connection).clone() };
        let Some(connection) = connection else { return Err(Trouble::away("the connection has ended")) };
        let work = work(connection);
        let done = if Handle::try_current().is_ok_and(|current| current.id() == self.runtime.id()) {
            work.await
        } else {
            // The client's timers need the runtime of the connection.
            let done = self.runtime.spawn(work).await;
            done.map_err(|_| Trouble::lost("the runtime of the connection has ended"))?
        };
        done.map_err(|error| {
            self.give_up();
            trouble::unanswered(&error)
        })
    }

    async fn send(&self, command: Cmd) -> Result<Value, Trouble> {
        self.exchange(|mut connection| async move { connection.send_packed_command(&command).await }).await
    }

    /// One command.
    pub(crate) async fn command(&self, parts: &[&[u8]]) -> Result<Value, Trouble> {
        self.answered(self.send(command(parts)).await?)
    }

    /// Several commands in one go; as many answers.
    pub(crate) async fn commands(
        &self,
        commands: &[Vec<&[u8]>],
    ) -> Result<Vec<Result<Value, Trouble>>, Trouble> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for parts in commands {
            pipeline.add_command(command(parts));
        }
        let send = |mut connection: MultiplexedConnection| async move {
            connection.send_packed_commands(&pipeline, 0, pipeline.len()).await
        };
        let answers = self.exchange(send).await?;
        Ok(answers.into_iter().map(|answer| self.answered(answer)).collect())
    }

    /// A script, by name; by its text where the server has forgotten it, which certainly changed nothing.
    pub(crate) async fn script(
        &self,
        script: Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<Value, Trouble> {
        let call = |how: &str, what: &str| {
            let mut command = redis::cmd(how);
            command.arg(what).arg(keys.len()).arg(keys).arg(args);
            command
        };
        match self.send(call("EVALSHA", &self.scripts[script as usize])).await? {
            Value::ServerError(error) if error.code() == "NOSCRIPT" => {
                self.answered(self.send(call("EVAL", &script.source())).await?)
            }
            answer => self.answered(answer),
        }
    }

    /// A verb: its answer is one line that begins with the claim. The rest of the line is returned.
    pub(crate) async fn verb(
        &self,
        script: Script,
        key: &Key,
        hash: &str,
        args: &[&[u8]],
    ) -> Result<String, EngineError> {
        let answer = self.script(script, &[hash.as_bytes()], args).await?;
        let Value::BulkString(mut line) = answer else { return Err(self.confused(&answer).into()) };
        if line.get(..32) != args.first().copied() || line.get(32) != Some(&b' ') {
            // Somebody else's answer: whatever comes next on this connection may be as well.
            return Err(self.confused(&String::from_utf8_lossy(&line)).into());
        }
        line.drain(..33);
        let line = String::from_utf8(line).map_err(|error| self.confused(&error))?;
        if let Some(what) = line.strip_prefix("foreign ") {
            let message =
                format!("{hash:?} is a {what} that tenure did not write: {key:?} cannot be locked here");
            return Err(Trouble::foreign(message).into());
        }
        Ok(line)
    }

    /// The answer makes no sense: the connection ends, and what it answers may have been applied.
    pub(crate) fn confused(&self, answer: &dyn fmt::Debug) -> Trouble {
        self.give_up();
        let shown: String = format!("{answer:?}").chars().take(200).collect();
        Trouble::nonsense(format!("the server answered something that makes no sense: {shown}"))
    }

    /// Sees to it that people can read who we are. Nobody waits for the answer.
    pub(crate) async fn show(&self, identity: &Arc<Identity>, card: &Card) {
        let now = SystemClock.now();
        let fresh = |(last, at): &(Arc<Identity>, Moment)| {
            Arc::ptr_eq(last, identity) && now.since(*at) < Card::SHOWN_FOR / 2
        };
        if lock(&self.card).as_ref().is_some_and(fresh) {
            return;
        }
        let mut set = redis::cmd("SET");
        set.arg(names::card_of(card.id)).arg(&card.text).arg("EX").arg(Card::SHOWN_FOR.as_secs());
        set.set_no_response(true);
        if self.send(set).await.is_ok() {
            *lock(&self.card) = Some((Arc::clone(identity), now));
        }
    }

    fn answered(&self, answer: Value) -> Result<Value, Trouble> {
        let Value::ServerError(error) = answer else { return Ok(answer) };
        // It was a primary when we connected, and knew our login: find out anew.
        if matches!(error.code(), "READONLY" | "NOAUTH") {
            self.give_up();
        }
        Err(trouble::of_reply(&reply::error_text(&error)))
    }
}

fn command(parts: &[&[u8]]) -> Cmd {
    let mut command = Cmd::new();
    command.arg(parts);
    command
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("server", &self.server).finish_non_exhaustive()
    }
}
