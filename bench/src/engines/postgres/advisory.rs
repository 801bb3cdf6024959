//! Session advisory locks, as most people lock on PostgreSQL: the server keeps the line, in memory. A connection that
//! waits can do nothing else, so each lock has its own.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::sync::OnceCell;
use tokio_postgres::{NoTls, Statement};

use super::super::Client;
use crate::locks::Lock;

pub(super) struct Advisory(String);

#[derive(Clone)]
pub(super) struct AdvisoryLock {
    at: Arc<str>,
    number: i64,
    session: Arc<OnceCell<Session>>,
}

struct Session {
    client: tokio_postgres::Client,
    take: Statement,
    give: Statement,
}

impl Client for Advisory {
    type Lock = AdvisoryLock;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(at.to_owned()))
    }

    fn lock(&self, key: &str, _ttl: Duration) -> AdvisoryLock {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        AdvisoryLock { at: self.0.as_str().into(), number: hasher.finish() as i64, session: Arc::default() }
    }
}

impl AdvisoryLock {
    async fn session(&self) -> Result<&Session> {
        self.session
            .get_or_try_init(|| async {
                let (client, connection) = tokio_postgres::connect(&self.at, NoTls).await?;
                tokio::spawn(connection);
                let take = client.prepare("SELECT pg_advisory_lock($1)").await?;
                let give = client.prepare("SELECT pg_advisory_unlock($1)").await?;
                Ok(Session { client, take, give })
            })
            .await
    }
}

impl Lock for AdvisoryLock {
    type Guard = Self;

    async fn lock(&self) -> Result<Self> {
        let session = self.session().await?;
        session.client.query_one(&session.take, &[&self.number]).await?;
        Ok(self.clone())
    }

    async fn unlock(lock: Self) -> Result<()> {
        let session = lock.session().await?;
        let given: bool = session.client.query_one(&session.give, &[&lock.number]).await?.try_get(0)?;
        ensure!(given, "it was not held");
        Ok(())
    }
}
