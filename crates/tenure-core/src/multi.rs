//! Several locks at once: all or nothing.
//!
//! The keys are sorted and taken in that order, so that two callers who name them in different orders cannot wait for
//! each other; what was taken is given back if the rest cannot be had.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;

use crate::client::Client;
use crate::guard::Guard;
use crate::lock::{Busy, Lock, Outcome};
use crate::{Error, Loss, Released};

/// Several exclusive locks, to be held together.
#[derive(Clone, Debug)]
#[must_use = "locks do nothing until they are acquired"]
pub struct LockAll {
    locks: Vec<Lock>,
    client: Arc<Client>,
}

/// What a limited attempt at several locks found.
#[derive(Debug)]
#[must_use = "guards in here are given up when they are dropped"]
#[allow(clippy::exhaustive_enums, reason = "they are yours or they are not")]
pub enum OutcomeAll {
    /// All are yours.
    Acquired(Guards),
    /// At least one was not to be had; nothing is held.
    Busy(Busy),
}

impl LockAll {
    pub(crate) fn new<K: AsRef<str>>(client: &Arc<Client>, keys: impl IntoIterator<Item = K>) -> Self {
        // Sorted, and each once: a name given twice would wait for itself.
        let names: BTreeSet<_> = keys.into_iter().map(|key| key.as_ref().to_owned()).collect();
        let locks = names.iter().map(|name| Lock::exclusive(client, name)).collect();
        Self { locks, client: Arc::clone(client) }
    }

    /// The terms of each lock; see [`Lock`].
    pub fn with(mut self, terms: impl Fn(Lock) -> Lock) -> Self {
        self.locks = self.locks.into_iter().map(terms).collect();
        self
    }

    /// Waits until all are yours.
    ///
    /// # Errors
    /// As [`Lock::acquire`], for the first lock that fails; nothing is held then.
    ///
    /// # Cancel safety
    /// Safe: dropped at any point, everything taken so far is given back.
    pub async fn acquire(&self) -> Result<Guards, Error> {
        let mut guards = Guards::default();
        for lock in &self.locks {
            guards.0.push(lock.acquire().await?);
        }
        Ok(guards)
    }

    /// Takes all if all are free now.
    ///
    /// # Errors
    /// As [`Lock::try_acquire`], for the first lock that fails; nothing is held then.
    ///
    /// # Cancel safety
    /// As [`LockAll::acquire`].
    pub async fn try_acquire(&self) -> Result<OutcomeAll, Error> {
        self.wait_for(Duration::ZERO).await
    }

    /// Waits until all are yours, at most for `patience` in all.
    ///
    /// # Errors
    /// As [`Lock::wait_for`], for the first lock that fails; nothing is held then.
    ///
    /// # Cancel safety
    /// As [`LockAll::acquire`].
    pub async fn wait_for(&self, patience: Duration) -> Result<OutcomeAll, Error> {
        let clock = &self.client.shared.clock;
        let deadline = clock.now().after(patience);
        let mut guards = Guards::default();
        for lock in &self.locks {
            match lock.wait_for(clock.now().until(deadline)).await? {
                Outcome::Acquired(guard) => guards.0.push(guard),
                Outcome::Busy(busy) => return Ok(OutcomeAll::Busy(busy)),
            }
        }
        Ok(OutcomeAll::Acquired(guards))
    }
}

/// Guards that are held together, in the order of their keys.
#[derive(Debug, Default)]
#[must_use = "guards that are dropped at once give their locks up at once"]
pub struct Guards(Vec<Guard>);

impl Guards {
    /// The guards, in the order of their keys.
    pub fn each(&self) -> &[Guard] {
        &self.0
    }

    /// The guards, each on its own from here on.
    pub fn into_each(self) -> impl Iterator<Item = Guard> {
        self.0.into_iter()
    }

    /// Whether all stand. Does no I/O.
    ///
    /// # Errors
    /// The first loss.
    pub fn check(&self) -> Result<(), Loss> {
        self.0.iter().try_for_each(Guard::check)
    }

    /// Waits until any of them is lost; for ever, if there are none.
    ///
    /// # Cancel safety
    /// Safe, as [`Guard::lost`] is.
    pub async fn lost(&self) -> Loss {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        select_all(self.0.iter().map(|guard| Box::pin(guard.lost()))).await.0
    }

    /// Gives all up, in reverse order, and says what each release found, in the order of the keys.
    ///
    /// # Errors
    /// The first error. The others are given up all the same, in the background.
    ///
    /// # Cancel safety
    /// Safe, as [`Guard::release`] is.
    pub async fn release(mut self) -> Result<Vec<Released>, Error> {
        let mut released = Vec::with_capacity(self.0.len());
        while let Some(guard) = self.0.pop() {
            released.push(guard.release().await?);
        }
        released.reverse();
        Ok(released)
    }
}
