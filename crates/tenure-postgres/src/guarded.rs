//! Transactions that only a holder can commit: the lock and the data change in one database.
//!
//! The hold's row is locked in the user's own transaction. Until that transaction ends, however long its client is
//! paused and whatever clocks do, the row cannot go, so nobody else is granted; and where the row has gone already, the
//! transaction is refused before it has read anything. No verb waits for such a transaction: whoever wants the key
//! waits in the line, and the holder's own renewals go on, because they leave the row's key alone.

use std::ops::{Deref, DerefMut};

use tenure_core::engine::{EngineError, Trouble};
use tenure_core::{ClaimId, FencingToken, Guard, Key, blocking};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Transaction};

use crate::dial::quoted;
use crate::trouble;

/// A hold as its row knows it: what [`GuardedTx`] pins. Made from a guard, which cannot be released meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Hold<'a> {
    key: &'a Key,
    claim: ClaimId,
    token: FencingToken,
    schema: Option<&'a str>,
}

impl<'a> Hold<'a> {
    /// The hold of a claim with a token.
    #[must_use]
    pub fn new(key: &'a Key, claim: ClaimId, token: FencingToken) -> Self {
        Self { key, claim, token, schema: None }
    }

    /// The same hold, with the tables of `tenure` in another schema than the first of the transaction's search path
    /// that has them.
    #[must_use]
    pub fn in_schema(self, schema: &'a str) -> Self {
        Self { schema: Some(schema), ..self }
    }

    /// The statement that pins a hold, for clients of other libraries: `$1` is the name of the key and `$2` the claim,
    /// both text, `$3` the token, a bigint. It answers one text: NULL when the hold is pinned until the transaction
    /// ends, or why it is not.
    #[must_use]
    pub fn pin_sql(schema: Option<&str>) -> String {
        let schema = schema.map(|schema| format!("{}.", quoted(schema))).unwrap_or_default();
        format!("SELECT {schema}tenure_pin($1, $2, $3)")
    }

    pub(crate) fn not_held(&self, why: String) -> NotHeld {
        NotHeld { key: self.key.clone(), why }
    }

    #[cfg(feature = "sqlx")]
    pub(crate) fn schema(&self) -> Option<&'a str> {
        self.schema
    }

    /// What the statement is given. A token is below 2^53.
    pub(crate) fn values(&self) -> (&'a str, String, i64) {
        (self.key.as_str(), self.claim.to_string(), i64::try_from(self.token.get()).unwrap_or(i64::MAX))
    }
}

impl<'a> From<&'a Guard> for Hold<'a> {
    fn from(guard: &'a Guard) -> Self {
        Self::new(guard.key(), guard.claim(), guard.token())
    }
}

impl<'a> From<&'a blocking::Guard> for Hold<'a> {
    fn from(guard: &'a blocking::Guard) -> Self {
        Self::new(guard.key(), guard.claim(), guard.token())
    }
}

/// A transaction of the user's own connection, in the database of the locks, that pins a hold.
///
/// # Guarantees
/// From [`begin`](Self::begin) to its end nobody else is granted the key, whatever is paused and whatever clocks do. If
/// the hold was lost before, it does not begin. A lease that ends meanwhile, a release and an operator's `break` take
/// effect when it ends.
///
/// Everything that it reads after `begin` is younger than whatever earlier holders wrote, at the usual isolation, read
/// committed. At stricter isolation `begin` must be its first statement, and may ask to be tried again.
///
/// # Examples
/// ```no_run
/// # async fn transfer(tenure: tenure_core::Tenure, mut client: tokio_postgres::Client)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use tenure_postgres::GuardedTx;
///
/// let guard = tenure.lock("account/7").acquire().await?;
/// let transaction = GuardedTx::begin(&mut client, &guard).await?;
/// transaction.execute("UPDATE accounts SET balance = balance - 10 WHERE id = 7", &[]).await?;
/// transaction.commit().await?;
/// guard.release().await?;
/// # Ok(()) }
/// ```
pub struct GuardedTx<'a> {
    transaction: Transaction<'a>,
    /// The guard, if there is one, outlives the transaction.
    hold: Hold<'a>,
}

impl<'a> GuardedTx<'a> {
    /// Begins a transaction and pins the hold in it.
    ///
    /// # Errors
    /// When the hold is lost, or the database cannot be asked. Then there is no transaction.
    ///
    /// # Cancel safety
    /// Safe: the transaction is rolled back.
    pub async fn begin(client: &'a mut Client, hold: impl Into<Hold<'a>>) -> Result<Self, GuardedTxError> {
        let hold = hold.into();
        let transaction = client.transaction().await.map_err(|error| failed(&error))?;
        Self::within(transaction, hold).await
    }

    /// Pins the hold in a transaction that has begun, for other isolation than the usual, or none of whose statements
    /// has read what the lock is for.
    ///
    /// # Errors
    /// As [`begin`](Self::begin); the transaction is rolled back.
    ///
    /// # Cancel safety
    /// Safe: the transaction is rolled back.
    pub async fn within(transaction: Transaction<'a>, hold: Hold<'a>) -> Result<Self, GuardedTxError> {
        let (key, claim, token) = hold.values();
        let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&key, Type::TEXT), (&claim, Type::TEXT), (&token, Type::INT8)];
        let row = transaction.query_typed_one(&Hold::pin_sql(hold.schema), &values).await;
        let why: Option<String> = row.and_then(|row| row.try_get(0)).map_err(|error| failed(&error))?;
        match why {
            None => Ok(Self { transaction, hold }),
            Some(why) => Err(hold.not_held(why).into()),
        }
    }

    /// Commits. The key is anybody's from then on, unless the guard still holds.
    ///
    /// # Errors
    /// As that of the client library: when no answer comes, the transaction may have been committed.
    ///
    /// # Cancel safety
    /// Not: it may be committed or not.
    pub async fn commit(self) -> Result<(), tokio_postgres::Error> {
        self.transaction.commit().await
    }

    /// Rolls back.
    ///
    /// # Errors
    /// As that of the client library; the server rolls back by itself what it lost the client of.
    ///
    /// # Cancel safety
    /// Safe: it is rolled back anyway.
    pub async fn rollback(self) -> Result<(), tokio_postgres::Error> {
        self.transaction.rollback().await
    }
}

impl<'a> Deref for GuardedTx<'a> {
    type Target = Transaction<'a>;

    fn deref(&self) -> &Transaction<'a> {
        &self.transaction
    }
}

impl DerefMut for GuardedTx<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.transaction
    }
}

impl std::fmt::Debug for GuardedTx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardedTx").field("hold", &self.hold).finish_non_exhaustive()
    }
}

/// A hold that cannot be pinned any more, because it is lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key:?} is not held any more: {why}")]
#[non_exhaustive]
pub struct NotHeld {
    /// The key.
    pub key: Key,
    /// What the server says of the hold.
    pub why: String,
}

/// Why a transaction was not begun.
#[derive(Debug, thiserror::Error)]
#[allow(clippy::exhaustive_enums, reason = "lost or broken: a caller must tell these apart")]
pub enum GuardedTxError {
    /// The hold is lost: begin again with the lock.
    #[error(transparent)]
    NotHeld(#[from] NotHeld),
    /// The database could not be asked.
    #[error("the hold cannot be pinned: {0}")]
    Trouble(#[source] EngineError),
}

fn failed(error: &tokio_postgres::Error) -> GuardedTxError {
    let trouble: Trouble = trouble::of(error).without_effect();
    GuardedTxError::Trouble(trouble.into())
}
