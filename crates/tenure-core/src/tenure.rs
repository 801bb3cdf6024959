//! A client of one engine: where locks come from, and what operators ask.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::client::Client;
use crate::engine::{Engine, Facts, Line, Withdrawn};
use crate::event::Observer;
use crate::keeper;
use crate::lease::{Clock, SystemClock};
use crate::lock::{Lock, RwLock, Semaphore};
use crate::multi::LockAll;
use crate::shared::Shared;
use crate::{ClaimId, Error, Identity, Key};

/// A client of one engine. Clones are the same client.
///
/// Make one per process and share it: waiters of one client on one key share one place in the line.
///
/// ```
/// # use tenure_core::{Tenure, engine::memory::Memory};
/// # futures_executor::block_on(async {
/// let tenure = Tenure::new(Memory::new());
/// let guard = tenure.lock("orders/42").acquire().await?;
/// println!("token {}", guard.token());
/// guard.release().await?;
/// # Ok::<(), tenure_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Tenure {
    client: Arc<Client>,
}

/// How a client behaves; the default suits most.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    observer: Option<Arc<dyn Observer>>,
    identity: Arc<Identity>,
    clock: Arc<dyn Clock>,
    seed: Option<u64>,
}

impl Options {
    /// Whoever hears the client's events.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Who the client says it is; this process and its command line otherwise.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Arc::new(identity);
        self
    }

    /// Where the client reads time; for simulation.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes claim ids and jitter repeatable; for simulation. Two clients with one seed would share their ids.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            observer: None,
            identity: Identity::of_this_process(),
            clock: Arc::new(SystemClock),
            seed: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Tenure {
    /// A client of an engine. Its keeper's thread starts with the first lock.
    pub fn new(engine: impl Engine) -> Self {
        Self::with_options(engine, Options::default())
    }

    /// A client of an engine, with options.
    pub fn with_options(engine: impl Engine, options: Options) -> Self {
        let Options { observer, identity, clock, seed } = options;
        let shared = Shared::new(Box::new(engine), clock, identity, observer, seed);
        Self { client: Arc::new(Client::new(shared)) }
    }

    /// A client whose keeper does not run on a thread of its own, but wherever the returned future is polled: on a
    /// runtime of yours, or in a simulation. It needs a tokio runtime with time.
    ///
    /// While the future is not polled nothing is renewed, and every hold is lost when its lease ends.
    pub fn with_own_keeper(
        engine: impl Engine,
        options: Options,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let tenure = Self::with_options(engine, options);
        tenure.shared().keeper.started_elsewhere();
        let keeper = keeper::run(Arc::clone(&tenure.shared().keeper));
        (tenure, keeper)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.client.shared
    }

    /// What the engine, as configured, can promise.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.shared().facts
    }

    /// A lock that one holder has at a time.
    pub fn lock(&self, key: impl AsRef<str>) -> Lock {
        Lock::exclusive(&self.client, key.as_ref())
    }

    /// A lock that one writer or many readers have.
    pub fn rw_lock(&self, key: impl AsRef<str>) -> RwLock {
        RwLock::new(&self.client, key.as_ref())
    }

    /// A lock that up to `limit` holders have at a time. All who use the key agree on the limit.
    pub fn semaphore(&self, key: impl AsRef<str>, limit: u32) -> Semaphore {
        Semaphore::new(&self.client, key.as_ref(), limit)
    }

    /// Several locks at once: all or nothing, and without deadlock whatever the order of the names.
    pub fn lock_all<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) -> LockAll {
        LockAll::new(&self.client, keys)
    }

    /// The line of a key as it is now, for people. It proves nothing about the next moment.
    ///
    /// # Errors
    /// When the name is no key or the engine cannot say.
    pub async fn inspect(&self, key: impl AsRef<str>) -> Result<Line, Error> {
        let key = Key::new(key)?;
        let line = self.shared().engine.inspect(&key).await;
        line.map_err(|error| Error::of_engine(self.facts().engine, "inspect", Some(&key), error))
    }

    /// The keys in use that begin with `prefix` and come after `after`, in order, at most `limit` of them.
    ///
    /// # Errors
    /// When the engine cannot say.
    pub async fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Error> {
        let keys = self.shared().engine.keys(prefix, after, limit).await;
        keys.map_err(|error| Error::of_engine(self.facts().engine, "list", None, error))
    }

    /// Takes a claim out of the line of a key in the name of an operator. The owner is told of its loss, and the next
    /// holder's token is higher, so that a resource that checks tokens refuses the evicted one.
    ///
    /// # Errors
    /// When the name is no key or the engine cannot do it.
    pub async fn evict(&self, key: impl AsRef<str>, claim: ClaimId) -> Result<Withdrawn, Error> {
        let key = Key::new(key)?;
        let evicted = self.shared().engine.evict(&key, claim).await;
        evicted.map_err(|error| Error::of_engine(self.facts().engine, "break", Some(&key), error))
    }

    /// Refuses new claims and waits until every withdrawal under way is done, at most for `patience`.
    /// Guards that are still alive are kept until they are dropped.
    ///
    /// Returns how many withdrawals were not done in time; their places end by their lease or with the process.
    ///
    /// # Cancel safety
    /// Safe: the withdrawals go on, and the client stays shut down.
    pub async fn shutdown(&self, patience: Duration) -> usize {
        let shared = self.shared();
        let alarm = shared.keeper.alarm(shared.clock.now().after(patience));
        shared.keeper.close();
        tokio::select! {
            biased;
            () = shared.keeper.drained() => 0,
            () = alarm.rings() => shared.keeper.ordered(),
        }
    }
}

impl fmt::Debug for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenure").field("engine", &self.shared().engine).finish_non_exhaustive()
    }
}
