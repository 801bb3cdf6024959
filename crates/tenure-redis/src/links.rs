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

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

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
use crate::resp::Value;
use crate::scripts::Script;
use crate::trouble::Trouble;
use crate::wire::{Driver, Wire};

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
    /// Nobody is left who could use a connection.
    over: AtomicBool,
}

enum Slot {
    Making(watch::Receiver<Option<Result<Arc<Link>, Trouble>>>),
    Up(Arc<Link>),
}

/// One connection, checked and ready.
pub(crate) struct Link {
    wire: Arc<Wire>,
    /// Its name in places, and of its channel.
    pub(crate) connection: u64,
    pub(crate) server: Server,
    scripts: Vec<String>,
    patience: Duration,
    card: Mutex<Option<(Arc<Identity>, Moment)>>,
}

impl Links {
    pub(crate) fn new(options: RedisOptions, inbox: Arc<Inbox>) -> Self {
        let shared = Shared {
            options,
            inbox,
            slots: Mutex::default(),
            failures: AtomicU32::new(0),
            over: AtomicBool::new(false),
        };
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

impl Drop for Links {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        for (_, slot) in self.shared.slots().drain() {
            if let Slot::Up(link) = slot {
                link.wire.close();
            }
        }
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, HashMap<Id, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (made, making) = watch::channel(None);
        slots.insert(id, Slot::Making(making.clone()));
        drop(slots);
        runtime.spawn(run(Arc::clone(self), id, made));
        Slot::Making(making)
    }
}

/// Makes the connection of one runtime and drives it until it ends.
async fn run(shared: Arc<Shared>, runtime: Id, made: watch::Sender<Option<Result<Arc<Link>, Trouble>>>) {
    let pause = dial::pause_after(shared.failures.load(Ordering::Relaxed));
    if !pause.is_zero() {
        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
    }
    let connection = rand::random();
    match dial::dial(&shared.options, connection).await {
        Err(trouble) => {
            shared.failures.fetch_add(1, Ordering::Relaxed);
            shared.slots().remove(&runtime);
            made.send_replace(Some(Err(trouble)));
        }
        Ok(dialed) => {
            shared.failures.store(0, Ordering::Relaxed);
            let inbox = Arc::clone(&shared.inbox);
            let on_push = Box::new(move |push: Vec<Value>| inbox.take(&push));
            let (wire, driver) = Driver::new(dialed.stream, dialed.unread, on_push);
            let link = Arc::new(Link {
                wire,
                connection,
                server: dialed.server,
                scripts: dialed.scripts,
                patience: shared.options.patience(),
                card: Mutex::default(),
            });
            shared.slots().insert(runtime, Slot::Up(Arc::clone(&link)));
            // Also when the runtime ends and drops us.
            let _ended = Ended { shared: Arc::clone(&shared), runtime, link: Arc::clone(&link) };
            made.send_replace(Some(Ok(Arc::clone(&link))));
            drop(made);
            // Whoever asked may have gone while we connected.
            if shared.over.load(Ordering::Acquire) {
                link.wire.close();
            }
            drop(link);
            driver.await;
        }
    }
}

/// Clears up behind a connection that has ended.
struct Ended {
    shared: Arc<Shared>,
    runtime: Id,
    link: Arc<Link>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        {
            let mut slots = self.shared.slots();
            if matches!(slots.get(&self.runtime), Some(Slot::Up(link)) if Arc::ptr_eq(link, &self.link)) {
                slots.remove(&self.runtime);
            }
        }
        self.shared.inbox.tell_all();
    }
}

impl Link {
    pub(crate) fn has_ended(&self) -> bool {
        self.wire.has_ended()
    }

    /// One command.
    pub(crate) async fn command(&self, parts: &[&[u8]]) -> Result<Value, Trouble> {
        self.answered(self.wire.request(self.patience, parts).await)
    }

    /// One command that the server itself delays by up to `delay`.
    pub(crate) async fn slow_command(&self, delay: Duration, parts: &[&[u8]]) -> Result<Value, Trouble> {
        self.answered(self.wire.request(self.patience + delay, parts).await)
    }

    /// Several commands in one go.
    pub(crate) async fn commands(&self, commands: &[Vec<&[u8]>]) -> Vec<Result<Value, Trouble>> {
        let sent: Vec<_> = commands.iter().map(|parts| self.wire.request(self.patience, parts)).collect();
        let mut answers = Vec::with_capacity(sent.len());
        for answer in sent {
            answers.push(self.answered(answer.await));
        }
        answers
    }

    /// A script, by name; by its text where the server has forgotten it, which certainly changed nothing.
    pub(crate) async fn script(
        &self,
        script: Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<Value, Trouble> {
        let count = [b'0' + u8::try_from(keys.len()).unwrap_or(0)];
        let mut parts: Vec<&[u8]> = Vec::with_capacity(3 + keys.len() + args.len());
        parts.extend([&b"EVALSHA"[..], self.scripts[script as usize].as_bytes(), &count]);
        parts.extend(keys);
        parts.extend(args);
        match self.wire.request(self.patience, &parts).await {
            Ok(Value::Error(error)) if error.starts_with("NOSCRIPT") => {
                let source = script.source();
                parts[0] = b"EVAL";
                parts[1] = source.as_bytes();
                self.answered(self.wire.request(self.patience, &parts).await)
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
        let Value::Text(mut line) = answer else { return Err(self.confused(&answer).into()) };
        if line.get(..32) != args.first().copied() || line.get(32) != Some(&b' ') {
            // Somebody else's answer: whatever comes next on this connection may be as well.
            return Err(self.confused(&Value::Text(line)).into());
        }
        line.drain(..33);
        let line = String::from_utf8(line).map_err(|_| self.confused(&Value::Nil))?;
        if let Some(what) = line.strip_prefix("foreign ") {
            let message =
                format!("{hash:?} is a {what} that tenure did not write: {key:?} cannot be locked here");
            return Err(Trouble::foreign(message).into());
        }
        Ok(line)
    }

    /// The answer makes no sense: the connection ends, and whatever waits on it may have been applied.
    pub(crate) fn confused(&self, answer: &Value) -> Trouble {
        self.wire.kill("an answer on this connection made no sense");
        let shown: String = format!("{answer:?}").chars().take(200).collect();
        Trouble::nonsense(format!("the server answered something that makes no sense: {shown}"))
    }

    /// Sees to it that people can read who we are. Nobody waits for it.
    pub(crate) fn show(&self, identity: &Arc<Identity>, card: &Card) {
        let now = SystemClock.now();
        let mut shown = self.card.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, at)) = &*shown
            && Arc::ptr_eq(last, identity)
            && now.since(*at) < Card::SHOWN_FOR / 2
        {
            return;
        }
        *shown = Some((Arc::clone(identity), now));
        drop(shown);
        let seconds = Card::SHOWN_FOR.as_secs().to_string();
        let name = names::card_of(card.id);
        drop(self.wire.request(
            self.patience,
            &[b"SET", name.as_bytes(), card.text.as_bytes(), b"EX", seconds.as_bytes()],
        ));
    }

    fn answered(&self, answer: Result<Value, Trouble>) -> Result<Value, Trouble> {
        match answer {
            Ok(Value::Error(error)) => {
                let trouble = Trouble::of_reply(&error);
                if error.starts_with("READONLY") {
                    // It was a primary when we connected: find out anew who is.
                    self.wire.kill("the server has become a replica");
                }
                if error.starts_with("NOAUTH") {
                    self.wire.kill("the server has forgotten our login");
                }
                Err(trouble)
            }
            answer => answer,
        }
    }
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
