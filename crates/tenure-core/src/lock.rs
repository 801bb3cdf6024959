//! The faces: a mutex, a read/write lock, a semaphore. All are the same wish with another mode.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::client::Client;
use crate::guard::Guard;
use crate::handover::{self, Entered};
use crate::wish::{Fairness, Wish};
use crate::{Error, ErrorKind, IfBusy, Key, KeyError, Mode, Ttl, TtlError};

/// A key, the mode in which to hold it, and on which terms.
///
/// Nothing is sent before one of [`Lock::acquire`], [`Lock::try_acquire`] and [`Lock::wait_for`]; a name or a TTL
/// that cannot be used is reported there. A lock can be kept and acquired again.
#[derive(Clone)]
#[must_use = "a lock does nothing until it is acquired"]
pub struct Lock {
    client: Arc<Client>,
    key: Result<Key, KeyError>,
    mode: Result<Mode, ZeroLimit>,
    ttl: Result<Ttl, TtlError>,
    quarantine: Duration,
    max_hold: Option<Duration>,
    fairness: Fairness,
}

/// A semaphore was asked for no permits.
#[derive(Clone, Copy, Debug)]
struct ZeroLimit;

/// What [`Lock::try_acquire`] and [`Lock::wait_for`] found.
#[derive(Debug)]
#[must_use = "a guard in here is given up when it is dropped"]
#[allow(clippy::exhaustive_enums, reason = "it is yours or it is not")]
pub enum Outcome {
    /// It is yours.
    Acquired(Guard),
    /// It was not to be had in the time that was given. Nothing is left in the line.
    Busy(Busy),
}

/// A key that was not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Busy {
    /// How many places were ahead when last seen.
    pub ahead: usize,
    /// How long it was tried.
    pub waited: Duration,
}

impl Outcome {
    /// The guard, if the key was acquired.
    pub fn guard(self) -> Option<Guard> {
        match self {
            Self::Acquired(guard) => Some(guard),
            Self::Busy(_) => None,
        }
    }

    /// Whether the key was busy.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy(_))
    }
}

impl Lock {
    pub(crate) fn exclusive(client: &Arc<Client>, name: &str) -> Self {
        Self::new(client, name, Ok(Mode::Exclusive))
    }

    fn new(client: &Arc<Client>, name: &str, mode: Result<Mode, ZeroLimit>) -> Self {
        Self {
            client: Arc::clone(client),
            key: Key::new(name),
            mode,
            ttl: Ok(Ttl::default()),
            quarantine: Duration::ZERO,
            max_hold: None,
            fairness: Fairness::Handover,
        }
    }

    /// For how long the key stays taken after the holder has vanished: 50 ms to 7 days, 30 s unless told otherwise.
    /// The hold itself is renewed as long as its guard lives.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Ttl::new(ttl);
        self
    }

    /// For how much longer nobody is granted after a hold that ended without a release; up to 7 days, none unless
    /// told otherwise. For work whose effects cannot be fenced. Has no meaning on engines whose holds do not expire.
    pub fn quarantine(mut self, quarantine: Duration) -> Self {
        self.quarantine = quarantine;
        self
    }

    /// The longest time a guard may hold; it is lost then, whatever its owner does. Unlimited unless told otherwise.
    ///
    /// On engines whose holds expire, the key is free once the lease has run out. On the local engine the place is
    /// kept until the guard is dropped: a living holder is told, never robbed.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = Some(max_hold);
        self
    }

    /// How far waiters of this process may favour each other over those elsewhere.
    pub fn fairness(mut self, fairness: Fairness) -> Self {
        self.fairness = fairness;
        self
    }

    /// Waits until the key is yours.
    ///
    /// # Guarantees
    /// Waiters are granted in the order of the line, if the engine's facts say so; a waiter that vanishes blocks
    /// nobody for longer than the engine's claim window.
    ///
    /// # Errors
    /// When the name, the TTL or a bound cannot be used; when the engine cannot be reached for as long as one TTL, or
    /// refuses; when an operator takes the claim out of the line.
    ///
    /// # Cancel safety
    /// Safe: dropped at any point, the place is withdrawn in the background and nothing stays locked.
    pub async fn acquire(&self) -> Result<Guard, Error> {
        match self.settle(IfBusy::Join, None).await? {
            Outcome::Acquired(guard) => Ok(guard),
            Outcome::Busy(_) => {
                Err(Error::new(ErrorKind::Protocol, "the engine gave up a wait that has no limit"))
            }
        }
    }

    /// Takes the key if it is free now, in one round trip.
    ///
    /// # Errors
    /// As [`Lock::acquire`]; and when the engine cannot be reached now. Busy is not an error.
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn try_acquire(&self) -> Result<Outcome, Error> {
        self.settle(IfBusy::Leave, None).await
    }

    /// Waits until the key is yours, at most for `patience`; without patience it is [`Lock::try_acquire`].
    ///
    /// # Errors
    /// As [`Lock::acquire`]. A wait that ended is not an error.
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn wait_for(&self, patience: Duration) -> Result<Outcome, Error> {
        if patience.is_zero() {
            return self.try_acquire().await;
        }
        self.settle(IfBusy::Join, Some(patience)).await
    }

    async fn settle(&self, if_busy: IfBusy, patience: Option<Duration>) -> Result<Outcome, Error> {
        let wish = self.wish()?;
        let shared = &self.client.shared;
        shared.keeper.start()?;
        let since = shared.clock.now();
        let deadline = patience.map(|patience| since.after(patience));
        let entered = handover::acquire(shared, &self.client.cohorts, &wish, if_busy, deadline).await?;
        Ok(match entered {
            Entered::Holds(grip) => Outcome::Acquired(Guard::new(grip, wish.max_hold, since)),
            Entered::GaveUp(ahead) => {
                let waited = shared.clock.now().since(since);
                shared.emit_gave_up(&wish.key, waited);
                Outcome::Busy(Busy { ahead, waited })
            }
        })
    }

    fn wish(&self) -> Result<Wish, Error> {
        let key = self.key.clone()?;
        let mode = self.mode.map_err(|ZeroLimit| {
            Error::new(
                ErrorKind::InvalidLimit,
                format!("a semaphore on {key:?} needs a limit of at least 1, not 0"),
            )
        })?;
        let bound = |what: &str, given: Duration| {
            let message = format!("{what} is more than nothing and at most 7 days, not {given:?}");
            Error::new(ErrorKind::InvalidDuration, message)
        };
        if self.quarantine > Ttl::MAX.duration() {
            return Err(bound("a quarantine", self.quarantine));
        }
        if let Some(max_hold) = self.max_hold.filter(|max| max.is_zero()) {
            return Err(bound("the longest hold", max_hold));
        }
        let (quarantine, max_hold, fairness) = (self.quarantine, self.max_hold, self.fairness);
        Ok(Wish { key, mode, ttl: self.ttl?, quarantine, max_hold, fairness })
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("key", &self.key)
            .field("mode", &self.mode)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// A lock that one writer or many readers have. Writers do not starve: readers that come after a waiting writer wait
/// behind it.
#[derive(Clone, Debug)]
#[must_use = "a lock does nothing until it is acquired"]
pub struct RwLock {
    client: Arc<Client>,
    name: String,
}

impl RwLock {
    pub(crate) fn new(client: &Arc<Client>, name: &str) -> Self {
        Self { client: Arc::clone(client), name: name.to_owned() }
    }

    /// The lock of a reader: together with other readers.
    pub fn read(&self) -> Lock {
        Lock::new(&self.client, &self.name, Ok(Mode::Shared))
    }

    /// The lock of a writer: alone. There is no upgrade from reader to writer: two that tried would wait for each
    /// other.
    pub fn write(&self) -> Lock {
        Lock::new(&self.client, &self.name, Ok(Mode::Exclusive))
    }
}

/// A lock that up to `limit` holders have at a time.
///
/// All who use the key at the same time agree on the limit: who comes with another is refused, with the limit in
/// force in the error. Each permit has a [`slot`](Guard::slot) of its own.
#[derive(Clone, Debug)]
#[must_use = "a semaphore does nothing until a permit is acquired"]
pub struct Semaphore {
    lock: Lock,
}

impl Semaphore {
    pub(crate) fn new(client: &Arc<Client>, name: &str, limit: u32) -> Self {
        let mode = NonZeroU32::new(limit).map(|limit| Mode::Permit { limit }).ok_or(ZeroLimit);
        Self { lock: Lock::new(client, name, mode) }
    }

    /// The terms of a permit, as for any lock.
    pub fn with(mut self, terms: impl FnOnce(Lock) -> Lock) -> Self {
        self.lock = terms(self.lock);
        self
    }

    /// The lock of one permit.
    pub fn permit(&self) -> Lock {
        self.lock.clone()
    }

    /// Waits for a permit; see [`Lock::acquire`].
    ///
    /// # Errors
    /// As [`Lock::acquire`]; and when the line is in use with another limit.
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn acquire(&self) -> Result<Guard, Error> {
        self.lock.acquire().await
    }

    /// Takes a permit if one is free now; see [`Lock::try_acquire`].
    ///
    /// # Errors
    /// As [`Semaphore::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn try_acquire(&self) -> Result<Outcome, Error> {
        self.lock.try_acquire().await
    }

    /// Waits for a permit, at most for `patience`; see [`Lock::wait_for`].
    ///
    /// # Errors
    /// As [`Semaphore::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn wait_for(&self, patience: Duration) -> Result<Outcome, Error> {
        self.lock.wait_for(patience).await
    }
}
