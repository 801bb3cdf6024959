//! Rows that refuse stale holders, for data in another database than the locks.
//!
//! Each row remembers the highest token that it has seen, in a column of its own. A holder enters before it reads, and
//! every write compares and remembers in the same statement.

use tenure_core::engine::EngineError;
use tenure_core::{FencingToken, Stale};
use tokio_postgres::GenericClient;
use tokio_postgres::types::{ToSql, Type};

use crate::dial::quoted;
use crate::trouble;

/// A table with a column for tokens: `ALTER TABLE … ADD COLUMN fence bigint NOT NULL DEFAULT 0`.
///
/// A write of the user's is guarded by two pieces of SQL, `fence = $1` among what it sets and `fence <= $1` among what
/// it asks for, with the token as `$1`:
///
/// ```sql
/// UPDATE accounts SET balance = $3, fence = $1 WHERE id = $2 AND fence <= $1
/// ```
///
/// It changes no row when the holder is stale.
///
/// # Guarantees
/// After [`enter`](Self::enter), no guarded write with a lower token changes the row.
#[derive(Clone, Debug)]
pub struct FencedTable {
    enter: String,
    mark: String,
}

/// Why a holder was not let in.
#[derive(Debug, thiserror::Error)]
#[allow(clippy::exhaustive_enums, reason = "refused, missing or broken: a caller must tell these apart")]
pub enum FencedTableError {
    /// The holder is stale: its hold is lost.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// There is no such row, so nothing to guard: make it first.
    #[error("there is no such row to enter")]
    Missing,
    /// The database could not be asked, or did not answer; then the holder may have entered, which is harmless.
    #[error("the fence cannot decide: {0}")]
    Trouble(#[source] EngineError),
}

impl FencedTable {
    /// The table with this name, whose rows are found by the column `id` and remember tokens in the column `fence`.
    #[must_use]
    pub fn new(table: &str, id: &str, fence: &str) -> Self {
        // A name with dots has a schema before it.
        let table: Vec<_> = table.split('.').map(quoted).collect();
        let (table, id, fence) = (table.join("."), quoted(id), quoted(fence));
        Self {
            enter: format!("UPDATE {table} SET {fence} = $1 WHERE {id} = $2 AND {fence} <= $1"),
            mark: format!("SELECT {fence} FROM {table} WHERE {id} = $1"),
        }
    }

    /// Lets a new holder in and keeps every older one out; called before the holder's first read.
    ///
    /// `id` is the row's, of the type that its column has.
    ///
    /// # Errors
    /// When a newer holder has entered, the row is missing, or the database cannot be asked.
    ///
    /// # Cancel safety
    /// The mark may be raised; entering again is harmless.
    pub async fn enter<C: GenericClient>(
        &self,
        client: &C,
        id: (&(dyn ToSql + Sync), Type),
        token: FencingToken,
    ) -> Result<(), FencedTableError> {
        let failed = |error: tokio_postgres::Error| {
            FencedTableError::Trouble(trouble::of(&error).with_unknown_effect().into())
        };
        // A token is below 2^53.
        let number = i64::try_from(token.get()).unwrap_or(i64::MAX);
        let changed = client.execute_typed(&self.enter, &[(&number, Type::INT8), (id.0, id.1.clone())]).await;
        if changed.map_err(failed)? > 0 {
            return Ok(());
        }
        let row = client.query_typed(&self.mark, &[id]).await.map_err(failed)?;
        let mark = row.first().map(|row| row.try_get::<_, i64>(0)).transpose().map_err(failed)?;
        let mark = mark.ok_or(FencedTableError::Missing)?;
        match u64::try_from(mark).ok().and_then(FencingToken::new) {
            Some(mark) => Err(Stale { slot: 0, offered: token, mark }.into()),
            // Nobody but a stranger writes such a mark.
            None => Err(FencedTableError::Missing),
        }
    }
}
