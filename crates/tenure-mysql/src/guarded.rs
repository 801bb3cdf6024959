//! A transaction that only the holder can commit.
//!
//! The strongest thing that a lock beside its data can offer. The transaction locks a row that says who holds; until
//! it ends, no verb of anybody can take the place away, and so nobody else can be granted what excludes it. Nothing
//! about time is assumed: a process that is paused inside such a transaction for an hour keeps the key for an hour, or
//! loses its connection and with it the whole transaction.
//!
//! What is locked is a row that renewals do not touch. So the keeper goes on renewing the hold while
//! the transaction is open, and who waits in the line goes on waiting: no verb of theirs is blocked.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use sqlx::mysql::MySqlConnection;
use sqlx::{Connection, MySql, Row, Transaction};
use tenure_core::{ClaimId, FencingToken, Guard, Key};

const GUARD: &str = "CALL tenure_guard(?, ?, ?)";

/// A transaction of the caller's own, guarded by a hold.
///
/// Dereferences to the transaction. Dropped, it is rolled back.
///
/// # Guarantees
/// From the moment it is made until it has ended on the server, nobody holds the key in a way that excludes this hold.
/// If it is committed, everything in it happened under the hold, whatever pauses and losses there were.
///
/// ```no_run
/// use sqlx::Connection;
/// # async fn example(guard: tenure_core::Guard, mut connection: sqlx::mysql::MySqlConnection)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let mut tx = tenure_mysql::GuardedTx::begin(&mut connection, &guard).await?;
/// sqlx::query("UPDATE accounts SET balance = balance - 30 WHERE id = 1").execute(&mut **tx).await?;
/// sqlx::query("UPDATE accounts SET balance = balance + 30 WHERE id = 2").execute(&mut **tx).await?;
/// tx.commit().await?;
/// guard.release().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a transaction that is dropped is rolled back"]
pub struct GuardedTx<'c, 'g> {
    tx: Transaction<'c, MySql>,
    guard: PhantomData<&'g Guard>,
}

/// Why a transaction is not guarded. It was rolled back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardedTxError {
    /// The hold is lost: it was released, taken away, or its place was given to others.
    #[error("the hold is lost: acquire the lock again")]
    Lost,
    /// The lease of the hold has ended, though nobody else has been granted the key yet.
    #[error("the lease of the hold has ended: acquire the lock again")]
    Expired,
    /// The transaction sees the tables as they were before the hold was granted.
    #[error("the transaction began to read before the hold was granted: guard it before its first statement")]
    Unseen,
    /// The server did not answer, or refused.
    #[error("the transaction cannot be guarded: {0}")]
    Sql(#[from] sqlx::Error),
}

impl<'c, 'g> GuardedTx<'c, 'g> {
    /// Begins a transaction on the caller's connection, in the database with the tables of tenure, guarded by a hold.
    ///
    /// # Errors
    /// When the hold is lost, or the server does not answer.
    ///
    /// # Cancel safety
    /// Safe: the transaction is rolled back.
    pub async fn begin(
        connection: &'c mut MySqlConnection,
        guard: &'g Guard,
    ) -> Result<Self, GuardedTxError> {
        Self::guard(connection.begin().await?, guard).await
    }

    /// Guards a transaction that has just begun, for instance one from a pool. Call it before the first statement.
    ///
    /// # Errors
    /// As [`GuardedTx::begin`].
    ///
    /// # Cancel safety
    /// As [`GuardedTx::begin`].
    pub async fn guard(tx: Transaction<'c, MySql>, guard: &'g Guard) -> Result<Self, GuardedTxError> {
        Self::of_claim(tx, guard.key(), guard.claim(), guard.token()).await
    }

    /// As [`GuardedTx::guard`], for a hold whose guard is elsewhere. The hold must not be released before the
    /// transaction has ended: a release fails until then.
    ///
    /// # Errors
    /// As [`GuardedTx::begin`].
    ///
    /// # Cancel safety
    /// As [`GuardedTx::begin`].
    pub async fn of_claim(
        mut tx: Transaction<'c, MySql>,
        key: &Key,
        claim: ClaimId,
        token: FencingToken,
    ) -> Result<Self, GuardedTxError> {
        let token = i64::try_from(token.get()).unwrap_or(i64::MAX);
        let asked = sqlx::query(GUARD).bind(key.as_str().as_bytes()).bind(claim.to_string()).bind(token);
        let answer: String = asked.fetch_one(&mut *tx).await?.try_get(0)?;
        let refused = match answer.strip_prefix(&claim.to_string()).map(str::trim_start) {
            Some("guarded") => return Ok(Self { tx, guard: PhantomData }),
            Some("gone") => GuardedTxError::Lost,
            Some("expired") => GuardedTxError::Expired,
            Some("unseen") => GuardedTxError::Unseen,
            _ => {
                GuardedTxError::Sql(sqlx::Error::Protocol(format!("{answer:?} is no answer of tenure_guard")))
            }
        };
        // What it has locked is freed now, not when the connection is used again.
        tx.rollback().await?;
        Err(refused)
    }

    /// Commits.
    ///
    /// # Errors
    /// When the server does not answer; then it may have been committed, as any transaction.
    ///
    /// # Cancel safety
    /// Not safe: whether it was committed is unknown.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.tx.commit().await
    }

    /// Rolls back.
    ///
    /// # Errors
    /// When the server does not answer; it will be rolled back all the same.
    ///
    /// # Cancel safety
    /// Safe: it is rolled back.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.tx.rollback().await
    }
}

impl<'c> Deref for GuardedTx<'c, '_> {
    type Target = Transaction<'c, MySql>;

    fn deref(&self) -> &Self::Target {
        &self.tx
    }
}

impl DerefMut for GuardedTx<'_, '_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.tx
    }
}
