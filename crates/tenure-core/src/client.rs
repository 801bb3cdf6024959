//! A client of one engine: what connects, and what all its locks share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::engine::{DynEngine, Engine, Facts, Line, Withdrawn};
use crate::event::{Event, Observer, What};
use crate::handover::Cohorts;
use crate::keeper::{self, Keeper};
use crate::lease::{Clock, SystemClock};
use crate::lock::{Lock, RwLock, Semaphore};
use crate::multi::LockAll;
use crate::{Claim, ClaimId, Error, FencingToken, Identity, Key};

/// How far ahead of our wall clock a token may be and still raise the floor.
const DAY_MICROS: u64 = 24 * 3600 * 1_000_000;

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

/// What ends with the last clone of a [`Tenure`].
struct Client {
    shared: Arc<Shared>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.keeper.close();
    }
}

/// What the claims, holds and the keeper of one client share.
pub(crate) struct Shared {
    pub(crate) engine: Box<dyn DynEngine>,
    pub(crate) facts: Facts,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keeper: Keeper,
    pub(crate) cohorts: Cohorts,
    pub(crate) identity: Arc<Identity>,
    observer: Option<Arc<dyn Observer>>,
    dice: Mutex<StdRng>,
    /// The highest token that this client has seen, of any key: an engine that lost its state starts above it.
    floor: AtomicU64,
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
        Self { client: Arc::new(Client { shared: Arc::new(Shared::new(Box::new(engine), options)) }) }
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
        let keeper = keeper::run(Arc::clone(tenure.shared()));
        (tenure, keeper)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.client.shared
    }

    /// What the engine, as configured, can promise.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.shared().facts
    }

    /// A lock that one holder has at a time.
    pub fn lock(&self, key: impl AsRef<str>) -> Lock {
        Lock::exclusive(self.clone(), key.as_ref())
    }

    /// A lock that one writer or many readers have.
    pub fn rw_lock(&self, key: impl AsRef<str>) -> RwLock {
        RwLock::new(self.clone(), key.as_ref())
    }

    /// A lock that up to `limit` holders have at a time. All who use the key agree on the limit.
    pub fn semaphore(&self, key: impl AsRef<str>, limit: u32) -> Semaphore {
        Semaphore::new(self.clone(), key.as_ref(), limit)
    }

    /// Several locks at once: all or nothing, and without deadlock whatever the order of the names.
    pub fn lock_all<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) -> LockAll {
        LockAll::new(self.clone(), keys)
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
        let alarm = shared.keeper.alarm(shared, shared.clock.now().after(patience));
        shared.keeper.close();
        tokio::select! {
            biased;
            () = shared.keeper.drained() => 0,
            () = alarm.rings() => shared.keeper.withdrawing(),
        }
    }
}

impl fmt::Debug for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenure").field("engine", &self.shared().engine).finish_non_exhaustive()
    }
}

/// An observer that panics must not take a keeper or a destructor with it; the panic hook has told of it.
fn tell(observer: &dyn Observer, event: Event) {
    drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| observer.observe(&event))));
}

impl Shared {
    fn new(engine: Box<dyn DynEngine>, options: Options) -> Self {
        let dice = match options.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        };
        Self {
            facts: engine.facts(),
            engine,
            clock: options.clock,
            keeper: Keeper::default(),
            cohorts: Cohorts::default(),
            identity: options.identity,
            observer: options.observer,
            dice: Mutex::new(dice),
            floor: AtomicU64::new(0),
        }
    }

    pub(crate) fn emit(&self, claim: &Claim, what: What) {
        if let Some(observer) = &self.observer {
            tell(&**observer, Event { key: claim.key.clone(), claim: Some(claim.id), what });
        }
    }

    /// Tells of a caller that gave up, whose claim was that of its cohort or none.
    pub(crate) fn emit_gave_up(&self, key: &Key, waited: Duration) {
        if let Some(observer) = &self.observer {
            tell(&**observer, Event { key: key.clone(), claim: None, what: What::GaveUp { waited } });
        }
    }

    pub(crate) fn new_claim_id(&self) -> ClaimId {
        ClaimId::from_bits(self.dice.lock().unwrap_or_else(PoisonError::into_inner).random())
    }

    /// Between half and one and a half of a duration, so that many do not come at once.
    pub(crate) fn jitter(&self, around: Duration) -> Duration {
        let share: f64 = self.dice.lock().unwrap_or_else(PoisonError::into_inner).random();
        around.mul_f64(0.5 + share)
    }

    pub(crate) fn floor(&self) -> Option<FencingToken> {
        FencingToken::new(self.floor.load(Ordering::Acquire))
    }

    pub(crate) fn saw(&self, token: FencingToken) {
        // A token far ahead of any clock is damaged or forged; believing it would use up the range for every key.
        let horizon = self.clock.wall_micros().saturating_add(DAY_MICROS);
        if token.get() <= horizon {
            self.floor.fetch_max(token.get(), Ordering::AcqRel);
        }
    }
}
