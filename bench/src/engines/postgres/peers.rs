//! The advisory lock of sqlx, as its documentation shows it, on a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use sqlx::Connection;
use sqlx::postgres::{PgAdvisoryLock, PgAdvisoryLockGuard, PgConnection};
use tokio::sync::Mutex;

use super::super::Client;
use crate::locks::Lock;

pub(super) struct Sqlx(String);

pub(super) struct SqlxLock {
    at: String,
    lock: PgAdvisoryLock,
    /// Connected at the first use, and away while it holds.
    connection: Home,
}

type Home = Arc<Mutex<Option<PgConnection>>>;

impl Client for Sqlx {
    type Lock = SqlxLock;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(at.to_owned()))
    }

    fn lock(&self, key: &str, _ttl: Duration) -> SqlxLock {
        SqlxLock { at: self.0.clone(), lock: PgAdvisoryLock::new(key), connection: Home::default() }
    }
}

impl Lock for SqlxLock {
    type Guard = (PgAdvisoryLockGuard<PgConnection>, Home);

    async fn lock(&self) -> Result<Self::Guard> {
        let known = self.connection.lock().await.take();
        let connection = match known {
            Some(connection) => connection,
            None => PgConnection::connect(&self.at).await?,
        };
        Ok((self.lock.acquire(connection).await?, Arc::clone(&self.connection)))
    }

    async fn unlock((guard, home): Self::Guard) -> Result<()> {
        *home.lock().await = Some(guard.release_now().await?);
        Ok(())
    }
}
