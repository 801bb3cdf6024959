//! The same transactions on connections of `sqlx`.

use std::ops::{Deref, DerefMut};

use sqlx::{PgConnection, Postgres, Row, Transaction};

use crate::guarded::{Hold, NotHeld};

/// A transaction of the user's own `sqlx` connection, in the database of the locks, that pins a hold: what
/// [`GuardedTx`](crate::GuardedTx) is on `tokio_postgres`, with the same guarantees. Dropped, it is rolled back.
///
/// # Examples
/// ```no_run
/// # async fn transfer(tenure: tenure_core::Tenure, mut connection: sqlx::PgConnection)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use tenure_postgres::SqlxGuardedTx;
///
/// let guard = tenure.lock("account/7").acquire().await?;
/// let mut transaction = SqlxGuardedTx::begin(&mut connection, &guard).await?;
/// sqlx::query("UPDATE accounts SET balance = balance - 10 WHERE id = 7").execute(&mut **transaction).await?;
/// transaction.commit().await?;
/// guard.release().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a transaction that is dropped is rolled back"]
pub struct SqlxGuardedTx<'a> {
    transaction: Transaction<'a, Postgres>,
    /// The guard, if there is one, outlives the transaction.
    _hold: Hold<'a>,
}

/// Why a transaction on `sqlx` was not begun.
#[derive(Debug, thiserror::Error)]
#[allow(clippy::exhaustive_enums, reason = "lost or broken: a caller must tell these apart")]
pub enum SqlxGuardedTxError {
    /// The hold is lost: begin again with the lock.
    #[error(transparent)]
    NotHeld(#[from] NotHeld),
    /// The database could not be asked.
    #[error("the hold cannot be pinned: {0}")]
    Sqlx(#[from] sqlx::Error),
}

impl<'a> SqlxGuardedTx<'a> {
    /// Begins a transaction and pins the hold in it.
    ///
    /// # Errors
    /// When the hold is lost, or the database cannot be asked. Then there is no transaction.
    ///
    /// # Cancel safety
    /// Safe: the transaction is rolled back.
    pub async fn begin(
        connection: &'a mut PgConnection,
        hold: impl Into<Hold<'a>>,
    ) -> Result<Self, SqlxGuardedTxError> {
        let hold = hold.into();
        Self::within(sqlx::Connection::begin(connection).await?, hold).await
    }

    /// Pins the hold in a transaction that has begun, such as that of a pool, none of whose statements has read what
    /// the lock is for.
    ///
    /// # Errors
    /// As [`begin`](Self::begin); the transaction is rolled back.
    ///
    /// # Cancel safety
    /// Safe: the transaction is rolled back.
    pub async fn within(
        mut transaction: Transaction<'a, Postgres>,
        hold: Hold<'a>,
    ) -> Result<Self, SqlxGuardedTxError> {
        let (key, claim, token) = hold.values();
        // The text is ours, and the schema in it is quoted.
        let pin = sqlx::query(sqlx::AssertSqlSafe(Hold::pin_sql(hold.schema())));
        // Not prepared by name: a pooler may be in between.
        let pin = pin.persistent(false).bind(key).bind(claim).bind(token);
        let why: Option<String> = pin.fetch_one(&mut *transaction).await?.try_get(0)?;
        match why {
            None => Ok(Self { transaction, _hold: hold }),
            Some(why) => {
                transaction.rollback().await?;
                Err(hold.not_held(why).into())
            }
        }
    }

    /// Commits.
    ///
    /// # Errors
    /// As that of `sqlx`: when no answer comes, the transaction may have been committed.
    ///
    /// # Cancel safety
    /// Not: it may be committed or not.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.transaction.commit().await
    }

    /// Rolls back.
    ///
    /// # Errors
    /// As that of `sqlx`; the server rolls back by itself what it lost the client of.
    ///
    /// # Cancel safety
    /// Safe: it is rolled back anyway.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.transaction.rollback().await
    }
}

impl<'a> Deref for SqlxGuardedTx<'a> {
    type Target = Transaction<'a, Postgres>;

    fn deref(&self) -> &Self::Target {
        &self.transaction
    }
}

impl DerefMut for SqlxGuardedTx<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.transaction
    }
}
