//! The crate `rslock` with its defaults, as its page shows it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rslock::{LockGuard, LockManager};

use super::Client;
use crate::locks::Lock;

pub(super) struct Rslock(LockManager);

#[derive(Clone)]
pub(super) struct RslockLock {
    manager: LockManager,
    key: Arc<str>,
    ttl: Duration,
}

impl Client for Rslock {
    type Lock = RslockLock;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(LockManager::new(vec![at])))
    }

    fn lock(&self, key: &str, ttl: Duration) -> RslockLock {
        RslockLock { manager: self.0.clone(), key: key.into(), ttl }
    }
}

impl Lock for RslockLock {
    type Guard = LockGuard;

    async fn lock(&self) -> Result<LockGuard> {
        self.manager.acquire(self.key.as_bytes(), self.ttl).await.context("rslock")
    }

    async fn unlock(guard: LockGuard) -> Result<()> {
        guard.release().await;
        Ok(())
    }
}
