//! One face for everything that is measured, so that all run in the same loops.

use anyhow::{Result, bail};
use tenure::{Guard, Key};
use tenure_core::engine::{Attempt, Contender, Engine, Stray};
use tenure_core::{Claim, ClaimId};

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
        Ok(self.acquire().await?)
    }

    async fn unlock(guard: Guard) -> Result<()> {
        match guard.release().await? {
            tenure::Released::Cleanly => Ok(()),
            tenure::Released::AlreadyLost(loss) => bail!(loss),
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
            tenure::Released::AlreadyLost(loss) => bail!(loss),
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
