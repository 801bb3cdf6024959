//! `tenure` in other ways than the one in which all engines are measured: what the client adds to the verbs of the
//! engine, on runtimes with one thread and with two, and what is gained by not waiting for a release.

use std::time::Duration;

use anyhow::{Result, bail};
use tenure::{Guard, Tenure};
use tenure_redis::{Redis, RedisContender, RedisOptions};

use super::Client;
use crate::locks::{Lock, Verbs};

/// The engine's verbs and nothing above them.
pub(super) struct Alone(Redis);

/// None for a name that is no key.
pub(super) struct VerbsOfKey(Option<Verbs<Redis>>);

impl Client for Alone {
    type Lock = VerbsOfKey;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(Redis::open(&RedisOptions::from_url(at)?).await?))
    }

    fn lock(&self, key: &str, _: Duration) -> VerbsOfKey {
        VerbsOfKey(Verbs::new(self.0.clone(), key).ok())
    }
}

impl Lock for VerbsOfKey {
    type Guard = RedisContender;

    async fn lock(&self) -> Result<RedisContender> {
        let Some(verbs) = &self.0 else { bail!("no such key can be locked") };
        verbs.lock().await
    }

    async fn unlock(guard: RedisContender) -> Result<()> {
        Verbs::<Redis>::unlock(guard).await
    }
}

/// Guards that are dropped: the keeper gives the key back, and nobody waits until it has.
pub(super) struct Dropping(Tenure);

pub(super) struct DroppedLock(tenure::Lock);

impl Client for Dropping {
    type Lock = DroppedLock;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(<Tenure as Client>::open(at).await?))
    }

    fn lock(&self, key: &str, ttl: Duration) -> DroppedLock {
        DroppedLock(Client::lock(&self.0, key, ttl))
    }
}

impl Lock for DroppedLock {
    type Guard = Guard;

    async fn lock(&self) -> Result<Guard> {
        Lock::lock(&self.0).await
    }

    async fn unlock(guard: Guard) -> Result<()> {
        drop(guard);
        Ok(())
    }
}
