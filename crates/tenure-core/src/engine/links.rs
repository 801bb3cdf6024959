//! A connection for each runtime that asks for one.
//!
//! A connection lives on the runtime that drives it, and a user's runtime may end or be blocked at any time. So the
//! caller's lane and the keeper's each have a connection on their own runtime, made when it is first needed and made
//! anew when it has ended; no request crosses threads. Callers without a runtime are served by a thread of ours.
//!
//! Where holds are tied to one session there is one connection for all ([`Links::on_own_thread`]), on a thread of ours.
//!
//! What a connection is, each engine says ([`Dial`]). An engine of several servers has one [`Links`] for each.
//!
//! # Invariants
//! 1. At most one connection per runtime is up or being made; all who need it wait for the same one.
//! 2. A connection that is being made goes on being made when who asked for it is cancelled.
//! 3. After failures the next try waits, longer each time, with jitter.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::sync::{oneshot, watch};

use super::Trouble;

/// Makes connections.
pub trait Dial: Send + Sync + 'static {
    /// A connection, checked and ready.
    type Link: Send + Sync + 'static;

    /// Makes one on the current runtime, and spawns there what drives it. Bounds its own time.
    fn dial(&self) -> impl Future<Output = Result<Self::Link, Trouble>> + Send;

    /// Whether a connection can serve no more.
    fn has_ended(link: &Self::Link) -> bool;
}

/// The connections of one engine to one server.
pub struct Links<D: Dial> {
    shared: Arc<Shared<D>>,
    thread: OnceLock<Result<OwnThread, Trouble>>,
    whose: Whose,
}

/// Whose runtime a connection lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// The caller's, if it has one.
    Callers,
    /// Always ours.
    Ours,
}

struct Shared<D: Dial> {
    dial: D,
    slots: Mutex<HashMap<Id, Slot<D::Link>>>,
    failures: AtomicU32,
}

enum Slot<L> {
    Making(watch::Receiver<Option<Result<Arc<L>, Trouble>>>),
    Up(Arc<L>),
}

impl<D: Dial> Links<D> {
    /// No connection yet.
    pub fn new(dial: D) -> Self {
        Self::of(dial, Whose::Callers)
    }

    /// No connection yet, and never more than one: on a thread of ours, for all callers and the keeper.
    pub fn on_own_thread(dial: D) -> Self {
        Self::of(dial, Whose::Ours)
    }

    fn of(dial: D, whose: Whose) -> Self {
        let shared = Shared { dial, slots: Mutex::default(), failures: AtomicU32::new(0) };
        Self { shared: Arc::new(shared), thread: OnceLock::new(), whose }
    }

    /// How connections are made.
    pub fn dial(&self) -> &D {
        &self.shared.dial
    }

    /// The connection of the current runtime, made if need be.
    ///
    /// # Cancel safety
    /// Safe: a connection that is being made goes on being made.
    ///
    /// # Errors
    /// What [`Dial::dial`] said. Nothing of the caller's was sent.
    pub async fn link(&self) -> Result<Arc<D::Link>, Trouble> {
        let runtime = match Handle::try_current() {
            Ok(runtime) if self.whose == Whose::Callers => runtime,
            _ => self.own_thread()?,
        };
        let mut making = match self.shared.slot(&runtime) {
            Slot::Up(link) => return Ok(link),
            Slot::Making(making) => making,
        };
        match making.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(made)) => made.clone(),
            _ => Err(Trouble::away("the runtime that was connecting has ended")),
        }
    }

    /// The runtime of our own thread, which is started if need be.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn own_thread(&self) -> Result<Handle, Trouble> {
        let thread = self.thread.get_or_init(OwnThread::start);
        thread.as_ref().map(|thread| thread.runtime.clone()).map_err(Clone::clone)
    }
}

impl<D: Dial> Shared<D> {
    fn slots(&self) -> MutexGuard<'_, HashMap<Id, Slot<D::Link>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(self: &Arc<Self>, runtime: &Handle) -> Slot<D::Link> {
        let id = runtime.id();
        let mut slots = self.slots();
        match slots.get(&id) {
            Some(Slot::Up(link)) if !D::has_ended(link) => return Slot::Up(Arc::clone(link)),
            Some(Slot::Making(making)) if making.has_changed().is_ok() => {
                return Slot::Making(making.clone());
            }
            _ => {}
        }
        // Other runtimes may have ended and left something.
        slots.retain(|_, slot| match slot {
            Slot::Up(link) => !D::has_ended(link),
            Slot::Making(making) => making.has_changed().is_ok(),
        });
        let (made, making) = watch::channel(None);
        slots.insert(id, Slot::Making(making.clone()));
        drop(slots);
        runtime.spawn(Arc::clone(self).make(id, made));
        Slot::Making(making)
    }

    /// Makes the connection of one runtime.
    async fn make(self: Arc<Self>, runtime: Id, made: watch::Sender<Option<Result<Arc<D::Link>, Trouble>>>) {
        let pause = pause_after(self.failures.load(Ordering::Relaxed));
        if !pause.is_zero() {
            tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
        }
        match self.dial.dial().await {
            Err(trouble) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.slots().remove(&runtime);
                made.send_replace(Some(Err(trouble)));
            }
            Ok(link) => {
                self.failures.store(0, Ordering::Relaxed);
                let link = Arc::new(link);
                self.slots().insert(runtime, Slot::Up(Arc::clone(&link)));
                made.send_replace(Some(Ok(link)));
            }
        }
    }
}

impl<D: Dial + fmt::Debug> fmt::Debug for Links<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("dial", &self.shared.dial).finish_non_exhaustive()
    }
}

/// How long to wait before connecting again after so many failures, before jitter.
fn pause_after(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => Duration::from_millis(10 << n.min(6)).min(Duration::from_millis(500)),
    }
}

/// How long a thread lets what runs on it end by itself: a session says goodbye to its server.
const FAREWELL: Duration = Duration::from_secs(1);

/// Does the work on the runtime of a connection, whose timers it needs; at once if that is the current one.
///
/// # Cancel safety
/// As the work, on the current runtime; elsewhere the work goes on.
///
/// # Errors
/// When that runtime has ended: the work may be done or not.
pub async fn on<T: Send + 'static>(
    runtime: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Trouble> {
    if Handle::try_current().is_ok_and(|current| current.id() == runtime.id()) {
        return Ok(work.await);
    }
    runtime.spawn(work).await.map_err(|_| Trouble::lost("the runtime of the connection has ended"))
}

/// A thread with a runtime, for those who have none. It ends with its value, after what runs on it has ended by itself
/// or has had a moment to.
#[derive(Debug)]
pub struct OwnThread {
    runtime: Handle,
    _alive: oneshot::Sender<()>,
}

impl OwnThread {
    /// Starts it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> Result<Self, Trouble> {
        let failed =
            |error: std::io::Error| Trouble::away(format!("cannot start a thread for connections: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel();
        let serve = move || {
            // The sender is dropped with the value, and that is the end.
            let _ = runtime.block_on(ended);
            // Too late is as good as never: who has not ended by then is dropped.
            let _ = runtime.block_on(async { tokio::time::timeout(FAREWELL, idle()).await });
        };
        std::thread::Builder::new().name("tenure-links".to_owned()).spawn(serve).map_err(failed)?;
        Ok(Self { runtime: handle, _alive: alive })
    }

    /// Its runtime.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

/// Waits until no task is left on the current runtime.
async fn idle() {
    while Handle::current().metrics().num_alive_tasks() > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
