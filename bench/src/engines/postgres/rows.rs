//! What any lock in a table must do at least: one durable update to take, one to give back, on one connection for the
//! process, without waiting for the answers in between.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio_postgres::{NoTls, Statement};

use super::super::Client;
use crate::locks::Lock;

/// Its table.
pub(super) const TABLE: &str = "CREATE TABLE by_hand \
    (key text PRIMARY KEY, owner text, token bigint NOT NULL, ends timestamptz NOT NULL)";

const TAKE: &str = "INSERT INTO by_hand AS t VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 ms') \
    ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, token = t.token + 1, ends = excluded.ends \
    WHERE t.owner IS NULL OR t.ends < clock_timestamp() RETURNING token";

const GIVE: &str = "UPDATE by_hand SET owner = NULL WHERE key = $1 AND owner = $2";

pub(super) struct Rows {
    client: Arc<tokio_postgres::Client>,
    take: Statement,
    give: Statement,
}

#[derive(Clone)]
pub(super) struct RowLock {
    client: Arc<tokio_postgres::Client>,
    take: Statement,
    give: Statement,
    key: String,
    ttl: f64,
}

impl Client for Rows {
    type Lock = RowLock;

    async fn open(at: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(at, NoTls).await?;
        tokio::spawn(connection);
        let (take, give) = (client.prepare(TAKE).await?, client.prepare(GIVE).await?);
        Ok(Self { client: Arc::new(client), take, give })
    }

    fn lock(&self, key: &str, ttl: Duration) -> RowLock {
        RowLock {
            client: Arc::clone(&self.client),
            take: self.take.clone(),
            give: self.give.clone(),
            key: key.to_owned(),
            ttl: ttl.as_secs_f64() * 1_000.0,
        }
    }
}

impl Lock for RowLock {
    type Guard = (Self, String);

    async fn lock(&self) -> Result<(Self, String)> {
        let owner = format!("{:032x}", rand::random::<u128>());
        // Ends when whoever has the key gives it back.
        loop {
            let taken = self.client.query_opt(&self.take, &[&self.key, &owner, &self.ttl]).await?;
            if taken.is_some() {
                return Ok((self.clone(), owner));
            }
        }
    }

    async fn unlock((lock, owner): (Self, String)) -> Result<()> {
        let given = lock.client.execute(&lock.give, &[&lock.key, &owner]).await?;
        ensure!(given == 1, "somebody else had the key");
        Ok(())
    }
}
