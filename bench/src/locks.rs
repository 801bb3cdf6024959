//! One face for everything that is measured, so that all run in the same loops.

use anyhow::{Result, bail};
use tenure::{Guard, Key};
use tenure_core::engine::{Attempt, Contender, Engine, Stray};
use tenure_core::{Claim, ClaimId};

/// A hold had ended by itself before it was given back, or could not be made sure of within its term.
#[derive(Debug)]
pub(crate) struct Lost(String);

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a hold was lost: {}", self.0)
    }
}

impl std::error::Error for Lost {}

/// Something that is taken and given back.
pub(crate) trait Lock: Send + 'static {
    /// Has it.
    type Guard: Send;

    /// Waits until it is ours.
    fn lock(&self) -> impl Future<Output = Result<Self::Guard>> + Send;

    /// Gives it back, and waits until it is free.
    fn unlock(guard: Self::Guard) -> impl Future<Output = Result<()>> + Send;
}

impl Lock for tenure::Lock {
    type Guard = Guard;

    async fn lock(&self) -> Result<Guard> {
        self.acquire().await.map_err(|error| match error.kind() {
            tenure::ErrorKind::Unreachable => anyhow::Error::new(Lost(error.to_string())),
            _ => error.into(),
        })
    }

    async fn unlock(guard: Guard) -> Result<()> {
        match guard.release().await? {
            tenure::Released::Cleanly => Ok(()),
            tenure::Released::AlreadyLost(loss) => bail!(Lost(loss.to_string())),
        }
    }
}

impl Lock for tenure::blocking::Lock {
    type Guard = tenure::blocking::Guard;

    async fn lock(&self) -> Result<Self::Guard> {
        Ok(self.acquire()?)
    }

    async fn unlock(guard: Self::Guard) -> Result<()> {
        match guard.release()? {
            tenure::Released::Cleanly => Ok(()),
            tenure::Released::AlreadyLost(loss) => bail!(Lost(loss.to_string())),
        }
    }
}

/// The verbs of an engine and nothing above them: what the client adds is the difference.
#[derive(Debug)]
pub(crate) struct Verbs<E> {
    engine: E,
    key: Key,
}

impl<E: Engine> Verbs<E> {
    pub(crate) fn new(engine: E, key: &str) -> Result<Self> {
        Ok(Self { engine, key: Key::new(key)? })
    }
}

impl<E: Engine> Lock for Verbs<E> {
    type Guard = E::Contender;

    async fn lock(&self) -> Result<E::Contender> {
        // There is one at a time, so that the same id does for all.
        let mut contender = self.engine.contend(Claim::new(self.key.clone(), ClaimId::from_bits(1)));
        match contender.attempt().await? {
            Attempt::Granted(_) => Ok(contender),
            other => bail!("a free key was not granted: {other:?}"),
        }
    }

    async fn unlock(mut guard: E::Contender) -> Result<()> {
        guard.withdraw(Stray::Impossible).await?;
        Ok(())
    }
}
