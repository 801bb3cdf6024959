//! A connection for each runtime that asks for one.
//!
//! A connection lives on the runtime that drives it, and a user's runtime may end or be blocked at any time. So the
//! caller's lane and the keeper's each have a connection on their own runtime, made when it is first needed and made
//! anew when it has ended; no request crosses threads. Callers without a runtime are served by a thread of ours.
//!
//! # Invariants
//! 1. At most one connection per runtime is up or being made; all who need it wait for the same one.
//! 2. A connection is checked before the first verb.
//! 3. When a connection ends, everybody who waits looks again: pushes on it are lost.
//! 4. A request that is not answered in time ends its connection: what is behind it waits as well.
//! 5. Nothing is ever sent twice. A caller that is cancelled takes nothing from others: the reply of what it has sent
//!    is read in its turn and thrown away.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, PushInfo, PushKind, RedisResult, Value};
use tenure_core::engine::{EngineError, EngineErrorKind};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_core::{Identity, Key};
use tokio::runtime::{Handle, Id};
use tokio::sync::{oneshot, watch};

use crate::cards::Card;
use crate::dial::{self, Server};
use crate::inbox::Inbox;
use crate::names;
use crate::options::RedisOptions;
use crate::reply::{self, Reply};
use crate::scripts::Script;
use crate::trouble::Trouble;

/// The connections of one engine.
pub(crate) struct Links {
    shared: Arc<Shared>,
    thread: OnceLock<Result<OwnThread, Trouble>>,
}

struct Shared {
    options: RedisOptions,
    inbox: Arc<Inbox>,
    slots: Mutex<HashMap<Id, Slot>>,
    failures: AtomicU32,
}

enum Slot {
    Making(watch::Receiver<Option<Result<Arc<Link>, Trouble>>>),
    Up(Arc<Link>),
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

impl Links {
    pub(crate) fn new(options: RedisOptions, inbox: Arc<Inbox>) -> Self {
        let shared = Shared { options, inbox, slots: Mutex::default(), failures: AtomicU32::new(0) };
        Self { shared: Arc::new(shared), thread: OnceLock::new() }
    }

    /// The connection of the current runtime, made if need be.
    ///
    /// # Cancel safety
    /// Safe: a connection that is being made goes on being made.
    pub(crate) async fn link(&self) -> Result<Arc<Link>, Trouble> {
        let runtime = match Handle::try_current() {
            Ok(runtime) => runtime,
            Err(_) => self.own_thread()?,
        };
        let mut making = match self.shared.slot(&runtime) {
            Slot::Up(link) => return Ok(link),
            Slot::Making(making) => making,
        };
        match making.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(made)) => made.clone(),
            _ => Err(dial::orphaned()),
        }
    }

    fn own_thread(&self) -> Result<Handle, Trouble> {
        let thread = self.thread.get_or_init(OwnThread::start);
        thread.as_ref().map(|thread| thread.runtime.clone()).map_err(Clone::clone)
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, HashMap<Id, Slot>> {
        lock(&self.slots)
    }

    fn slot(self: &Arc<Self>, runtime: &Handle) -> Slot {
        let id = runtime.id();
        let mut slots = self.slots();
        match slots.get(&id) {
            Some(Slot::Up(link)) if !link.has_ended() => return Slot::Up(Arc::clone(link)),
            Some(Slot::Making(making)) if making.has_changed().is_ok() => {
                return Slot::Making(making.clone());
            }
            _ => {}
        }
        // Other runtimes may have ended and left something.
        slots.retain(|_, slot| match slot {
            Slot::Up(link) => !link.has_ended(),
            Slot::Making(making) => making.has_changed().is_ok(),
        });
        let (made, making) = watch::channel(None);
        slots.insert(id, Slot::Making(making.clone()));
        drop(slots);
        runtime.spawn(make(Arc::clone(self), runtime.clone(), made));
        Slot::Making(making)
    }
}

/// Makes the connection of one runtime.
async fn make(shared: Arc<Shared>, runtime: Handle, made: watch::Sender<Option<Result<Arc<Link>, Trouble>>>) {
    let pause = dial::pause_after(shared.failures.load(Ordering::Relaxed));
    if !pause.is_zero() {
        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
    }
    let name = rand::random();
    let inbox = Arc::clone(&shared.inbox);
    let life = Arc::new(Life { inbox, used: AtomicBool::new(false), ended: AtomicBool::new(false) });
    let driven = Driven(Arc::clone(&life));
    match dial::dial(&shared.options, name, move |push| driven.take(push)).await {
        Err(trouble) => {
            shared.failures.fetch_add(1, Ordering::Relaxed);
            shared.slots().remove(&runtime.id());
            made.send_replace(Some(Err(trouble)));
        }
        Ok(dialed) => {
            shared.failures.store(0, Ordering::Relaxed);
            life.used.store(true, Ordering::Release);
            let id = runtime.id();
            let link = Arc::new(Link {
                connection: Mutex::new(Some(dialed.connection)),
                runtime,
                life,
                name,
                server: dialed.server,
                scripts: dialed.scripts,
                card: Mutex::default(),
            });
            shared.slots().insert(id, Slot::Up(Arc::clone(&link)));
            made.send_replace(Some(Ok(link)));
        }
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
            Trouble::unanswered(&error)
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
        Err(Trouble::of_reply(&reply::error_text(&error)))
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

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A thread with a runtime, for callers that have none. It ends with the engine.
struct OwnThread {
    runtime: Handle,
    _alive: oneshot::Sender<()>,
}

impl OwnThread {
    fn start() -> Result<Self, Trouble> {
        let failed = |error: std::io::Error| {
            let message = format!("cannot start a thread for callers without a runtime: {error}");
            Trouble::new(
                EngineErrorKind::Unreachable,
                tenure_core::engine::Effect::None,
                tenure_core::engine::Retry::Worth,
                message,
            )
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel();
        let serve = move || {
            // The sender is dropped with the engine, and that is the end.
            let _ = runtime.block_on(ended);
        };
        std::thread::Builder::new().name("tenure-redis".to_owned()).spawn(serve).map_err(failed)?;
        Ok(Self { runtime: handle, _alive: alive })
    }
}
