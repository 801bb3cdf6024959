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
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, PushInfo, PushKind, RedisResult, Value};
use tenure_core::engine::Trouble;
use tenure_core::engine::links::Dial;
use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_core::{Identity, Key};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::cards::Card;
use crate::dial::{self, Footing, Part, Server};
use crate::inbox::Inbox;
use crate::names;
use crate::options::{Address, RedisOptions};
use crate::reply::{self, Reply};
use crate::route::{Failed, Manner, Redirect};
use crate::scripts::{Script, Voice};
use crate::sentinel::Sentinels;
use crate::slots::Served;
use crate::together::Together;
use crate::trouble;

/// Makes connections to one server, or to the one that sentinels name; what it pushes goes to one inbox.
pub(crate) struct Dialer {
    options: RedisOptions,
    sentinels: Option<Sentinels>,
    part: Part,
    inbox: Arc<Inbox>,
}

/// One connection, checked and ready.
pub(crate) struct Link {
    /// None when it has been given up.
    connection: Mutex<Option<MultiplexedConnection>>,
    pub(crate) runtime: Handle,
    life: Arc<Life>,
    /// Its name in places, and of its channel.
    pub(crate) name: u64,
    pub(crate) server: Server,
    /// Where it leads to.
    options: RedisOptions,
    voice: Voice,
    pub(crate) served: Served,
    scripts: Vec<String>,
    /// When it was ready.
    made: Moment,
    card: Mutex<Option<Shown>>,
    /// Verbs that are sent together.
    pub(crate) together: Together,
    _watch: Option<Watch>,
}

/// What a verb is about.
pub(crate) struct Words<'a> {
    pub(crate) key: &'a Key,
    /// The key's line.
    pub(crate) hash: &'a str,
    /// What is to be done, for any claim.
    pub(crate) words: &'a str,
    /// The claim, as [`names::mine`] writes it.
    pub(crate) mine: &'a str,
}

/// A card, and when it was shown last.
struct Shown {
    identity: Arc<Identity>,
    card: Arc<Card>,
    at: Option<Moment>,
}

/// Watches whether another server is the primary. Ends with its connection.
struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether a connection still stands.
struct Life {
    inbox: Arc<Inbox>,
    used: AtomicBool,
    ended: AtomicBool,
    /// Whether answers may have been given to the wrong requests.
    shifted: AtomicBool,
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
            PushKind::SUnsubscribe => {
                // The slot of our channel has left this node. The client takes the news for the answer to whatever it
                // has sent, and all answers behind it are shifted by one.
                self.0.shifted.store(true, Ordering::Release);
                self.0.end();
            }
            PushKind::Message | PushKind::SMessage => {
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
    pub(crate) fn new(options: RedisOptions, part: Part, inbox: Arc<Inbox>) -> Self {
        let sentinels = Sentinels::of(&options);
        Self { options, sentinels, part, inbox }
    }
}

impl Dial for Dialer {
    type Link = Link;

    async fn dial(&self) -> Result<Link, Trouble> {
        let primary = match &self.sentinels {
            Some(sentinels) => Some((sentinels, sentinels.find().await?)),
            None => None,
        };
        let options = match &primary {
            Some((_, primary)) => self.options.of_node(&primary.node),
            None => self.options.clone(),
        };
        let inbox = Arc::clone(&self.inbox);
        let (used, ended, shifted) = Default::default();
        let life = Arc::new(Life { inbox, used, ended, shifted });
        let driven = Driven(Arc::clone(&life));
        let dialed = dial::dial(&options, self.part, move |push| driven.take(push)).await?;
        life.used.store(true, Ordering::Release);
        let watch = primary.map(|(sentinels, primary)| {
            let (watch, life) = (sentinels.clone().watch(primary), Arc::clone(&life));
            let watching = tokio::spawn(async move {
                watch.await;
                life.end();
            });
            Watch(watching.abort_handle())
        });
        let Footing { name, voice, served } = dialed.footing;
        Ok(Link {
            connection: Mutex::new(Some(dialed.connection)),
            runtime: Handle::current(),
            life,
            name,
            server: dialed.server,
            options,
            voice,
            served,
            scripts: dialed.scripts,
            made: SystemClock.now(),
            card: Mutex::default(),
            together: Together::default(),
            _watch: watch,
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

    /// For how long the server has been up, at least: it was asked before the connection was ready.
    pub(crate) fn age(&self) -> Duration {
        self.server.uptime.saturating_add(SystemClock.now().since(self.made))
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
        let done = done.map_err(|error| {
            self.give_up();
            trouble::unanswered(&error)
        })?;
        if self.life.shifted.load(Ordering::Acquire) {
            return Err(Trouble::lost("the slot of the connection's channel has moved, and answers with it"));
        }
        Ok(done)
    }

    async fn send(&self, manner: Manner, command: Cmd) -> Result<Value, Trouble> {
        if manner == Manner::Plain {
            return self
                .exchange(|mut connection| async move { connection.send_packed_command(&command).await })
                .await;
        }
        let mut both = Pipeline::with_capacity(2);
        both.cmd("ASKING").add_command(command);
        let send = |mut connection: MultiplexedConnection| async move {
            connection.send_packed_commands(&both, 0, 2).await
        };
        // There are as many answers as commands.
        Ok(self.exchange(send).await?.pop().unwrap_or(Value::Nil))
    }

    /// One command.
    pub(crate) async fn command(&self, manner: Manner, parts: &[&[u8]]) -> Result<Value, Failed> {
        self.answered(self.send(manner, command(parts)).await?)
    }

    /// Several commands in one go; as many answers.
    pub(crate) async fn commands(
        &self,
        commands: &[Vec<&[u8]>],
    ) -> Result<Vec<Result<Value, Failed>>, Trouble> {
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
        manner: Manner,
        script: Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<Value, Failed> {
        let call = |how: &str, what: &str| {
            let mut command = redis::cmd(how);
            command.arg(what).arg(keys.len()).arg(keys).arg(args);
            command
        };
        match self.send(manner, call("EVALSHA", &self.scripts[script as usize])).await? {
            Value::ServerError(error) if error.code() == "NOSCRIPT" => {
                self.answered(self.send(manner, call("EVAL", &script.source(self.voice))).await?)
            }
            answer => self.answered(answer),
        }
    }

    /// A verb: its answer is one line that begins with the claim. The rest of the line is returned.
    pub(crate) async fn verb(
        self: &Arc<Self>,
        manner: Manner,
        script: Script,
        of: &Words<'_>,
    ) -> Result<String, Failed> {
        if self.takes_many(manner) {
            let line = self.now(script, of).await?;
            return self.line(line, of);
        }
        self.verb_alone(manner, script, of).await
    }

    /// A verb that is not in a hurry, together with what else is due.
    pub(crate) async fn verb_soon(
        self: &Arc<Self>,
        manner: Manner,
        script: Script,
        of: &Words<'_>,
    ) -> Result<String, Failed> {
        if !self.takes_many(manner) {
            return self.verb_alone(manner, script, of).await;
        }
        let line = self.soon(script, of).await?;
        self.line(line, of)
    }

    async fn verb_alone(&self, manner: Manner, script: Script, of: &Words<'_>) -> Result<String, Failed> {
        let line = self.ask_alone(manner, script, of.hash, of.words, of.mine).await?;
        self.line(line, of)
    }

    /// What a verb alone has answered, without the claim, with which the answer must begin.
    pub(crate) async fn ask_alone(
        &self,
        manner: Manner,
        script: Script,
        hash: &str,
        words: &str,
        mine: &str,
    ) -> Result<String, Failed> {
        let args = [words.as_bytes(), mine.as_bytes()];
        let answer = self.script(manner, script, &[hash.as_bytes()], &args).await?;
        let Value::BulkString(mut line) = answer else { return Err(self.confused(&answer).into()) };
        if line.get(..32) != Some(names::claim_in(mine).as_bytes()) || line.get(32) != Some(&b' ') {
            // Somebody else's answer: whatever comes next on this connection may be as well.
            return Err(self.confused(&String::from_utf8_lossy(&line)).into());
        }
        line.drain(..33);
        Ok(String::from_utf8(line).map_err(|error| self.confused(&error))?)
    }

    /// What a verb has answered, if it was not kept from doing anything.
    fn line(&self, line: String, of: &Words<'_>) -> Result<String, Failed> {
        if let Some(what) = line.strip_prefix("foreign ") {
            let (hash, key) = (of.hash, of.key);
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

    /// Sees to it that people can read who we are, and says by which card. Nobody waits for the server's answer.
    pub(crate) async fn show(&self, identity: &Arc<Identity>) -> Arc<Card> {
        let now = SystemClock.now();
        let card = {
            let mut shown = lock(&self.card);
            match &*shown {
                Some(Shown { identity: known, card, at }) if Arc::ptr_eq(known, identity) => {
                    if at.is_some_and(|at| now.since(at) < Card::SHOWN_FOR / 2) {
                        return Arc::clone(card);
                    }
                    Arc::clone(card)
                }
                _ => {
                    let card = Arc::new(Card::of(identity, &self.served));
                    *shown =
                        Some(Shown { identity: Arc::clone(identity), card: Arc::clone(&card), at: None });
                    card
                }
            }
        };
        let mut set = redis::cmd("SET");
        set.arg(names::card_of(card.id)).arg(&card.text).arg("EX").arg(Card::SHOWN_FOR.as_secs());
        set.set_no_response(true);
        if self.send(Manner::Plain, set).await.is_ok() {
            let mut shown = lock(&self.card);
            if let Some(shown) = shown.as_mut().filter(|shown| Arc::ptr_eq(&shown.identity, identity)) {
                shown.at = Some(now);
            }
        }
        card
    }

    /// Whether another connection leads to the same server.
    pub(crate) fn leads_where(&self, other: &Self) -> bool {
        self.options.address == other.options.address
    }

    pub(crate) fn answered(&self, answer: Value) -> Result<Value, Failed> {
        let Value::ServerError(error) = answer else { return Ok(answer) };
        // It was a primary when we connected, and knew our login: find out anew.
        if matches!(error.code(), "READONLY" | "NOAUTH") {
            self.give_up();
        }
        let host = match &self.options.address {
            Address::Tcp(node) => Some(node.host.as_str()),
            _ => None,
        };
        let redirect = Redirect::read(&error, host);
        Err(Failed { trouble: trouble::of_reply(&reply::error_text(&error)), redirect })
    }
}

fn command(parts: &[&[u8]]) -> Cmd {
    let mut command = Cmd::new();
    command.arg(parts);
    command
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("server", &self.server).finish_non_exhaustive()
    }
}
