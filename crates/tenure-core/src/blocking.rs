//! The same without async: each call blocks the calling thread until it is done.
//!
//! Renewals and losses need no runtime of yours: the keeper has its own. Do not call these from async code: they
//! would block its thread.
//!
//! ```
//! use tenure_core::{blocking::Tenure, engine::memory::Memory};
//!
//! let tenure = Tenure::from(tenure_core::Tenure::new(Memory::new()));
//! let guard = tenure.lock("orders/42").acquire()?;
//! guard.check().expect("nobody has broken it");
//! guard.release()?;
//! # Ok::<(), tenure_core::Error>(())
//! ```

use std::ops::Deref;
use std::time::Duration;

use futures_executor::block_on;

use crate::engine::{Line, Withdrawn};
use crate::{Busy, ClaimId, Error, Key, Loss, Released};

/// A client whose calls block. Clones are the same client.
#[derive(Clone, Debug)]
pub struct Tenure(crate::Tenure);

impl From<crate::Tenure> for Tenure {
    fn from(tenure: crate::Tenure) -> Self {
        Self(tenure)
    }
}

impl Tenure {
    /// The client as async code sees it.
    #[must_use]
    pub fn as_async(&self) -> &crate::Tenure {
        &self.0
    }

    /// See [`crate::Tenure::lock`].
    pub fn lock(&self, key: impl AsRef<str>) -> Lock {
        Lock(self.0.lock(key))
    }

    /// See [`crate::RwLock::read`].
    pub fn read_lock(&self, key: impl AsRef<str>) -> Lock {
        Lock(self.0.rw_lock(key).read())
    }

    /// See [`crate::RwLock::write`].
    pub fn write_lock(&self, key: impl AsRef<str>) -> Lock {
        Lock(self.0.rw_lock(key).write())
    }

    /// See [`crate::Tenure::semaphore`].
    pub fn semaphore(&self, key: impl AsRef<str>, limit: u32) -> Lock {
        Lock(self.0.semaphore(key, limit).permit())
    }

    /// Waits until all keys are yours; see [`crate::LockAll::acquire`].
    ///
    /// # Errors
    /// As there.
    pub fn acquire_all<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Guard>, Error> {
        let guards = block_on(self.0.lock_all(keys).acquire())?;
        Ok(guards.into_each().map(Guard).collect())
    }

    /// See [`crate::Tenure::inspect`].
    ///
    /// # Errors
    /// As there.
    pub fn inspect(&self, key: impl AsRef<str>) -> Result<Line, Error> {
        block_on(self.0.inspect(key))
    }

    /// See [`crate::Tenure::keys`].
    ///
    /// # Errors
    /// As there.
    pub fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Error> {
        block_on(self.0.keys(prefix, after, limit))
    }

    /// See [`crate::Tenure::evict`].
    ///
    /// # Errors
    /// As there.
    pub fn evict(&self, key: impl AsRef<str>, claim: ClaimId) -> Result<Withdrawn, Error> {
        block_on(self.0.evict(key, claim))
    }

    /// See [`crate::Tenure::shutdown`].
    #[must_use]
    pub fn shutdown(&self, patience: Duration) -> usize {
        block_on(self.0.shutdown(patience))
    }
}

/// A lock whose calls block; see [`crate::Lock`].
#[derive(Clone, Debug)]
#[must_use = "a lock does nothing until it is acquired"]
pub struct Lock(crate::Lock);

/// What a limited wait found.
#[derive(Debug)]
#[must_use = "a guard in here is given up when it is dropped"]
#[allow(clippy::exhaustive_enums, reason = "it is yours or it is not")]
pub enum Outcome {
    /// It is yours.
    Acquired(Guard),
    /// It was not to be had in the time that was given.
    Busy(Busy),
}

impl Lock {
    /// The terms, as for any lock.
    pub fn with(self, terms: impl FnOnce(crate::Lock) -> crate::Lock) -> Self {
        Self(terms(self.0))
    }

    /// See [`crate::Lock::acquire`].
    ///
    /// # Errors
    /// As there.
    pub fn acquire(&self) -> Result<Guard, Error> {
        block_on(self.0.acquire()).map(Guard)
    }

    /// See [`crate::Lock::try_acquire`].
    ///
    /// # Errors
    /// As there.
    pub fn try_acquire(&self) -> Result<Outcome, Error> {
        block_on(self.0.try_acquire()).map(Outcome::from)
    }

    /// See [`crate::Lock::wait_for`].
    ///
    /// # Errors
    /// As there.
    pub fn wait_for(&self, patience: Duration) -> Result<Outcome, Error> {
        block_on(self.0.wait_for(patience)).map(Outcome::from)
    }
}

impl From<crate::Outcome> for Outcome {
    fn from(outcome: crate::Outcome) -> Self {
        match outcome {
            crate::Outcome::Acquired(guard) => Self::Acquired(Guard(guard)),
            crate::Outcome::Busy(busy) => Self::Busy(busy),
        }
    }
}

/// A hold whose calls block; everything that only looks is that of [`crate::Guard`].
#[derive(Debug)]
#[must_use = "a guard that is dropped at once gives the lock up at once"]
pub struct Guard(crate::Guard);

impl Deref for Guard {
    type Target = crate::Guard;

    fn deref(&self) -> &crate::Guard {
        &self.0
    }
}

impl Guard {
    /// See [`crate::Guard::release`].
    ///
    /// # Errors
    /// As there.
    pub fn release(self) -> Result<Released, Error> {
        block_on(self.0.release())
    }

    /// See [`crate::Guard::verify`].
    ///
    /// # Errors
    /// As there.
    pub fn verify(&self) -> Result<Result<(), Loss>, Error> {
        block_on(self.0.verify())
    }

    /// Waits until the hold is lost; see [`crate::Guard::lost`].
    #[must_use]
    pub fn lost(&self) -> Loss {
        block_on(self.0.lost())
    }
}
