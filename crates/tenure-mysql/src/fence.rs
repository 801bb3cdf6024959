//! A fence for rows in another database than the locks: one column remembers the highest token.

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Encode, MySql, Type};
use tenure_core::{FencingToken, Stale};

/// Refuses stale holders at the rows of a table that has a column for the fence, a `BIGINT` that begins as zero.
///
/// Where data and locks are in one database, [`GuardedTx`](crate::GuardedTx) is stronger. Here, let a holder
/// [`enter`](FencedTable::enter) **before it reads**, and make each of its writes with the same condition:
///
/// ```sql
/// UPDATE accounts SET balance = ?, fence = ? WHERE id = ? AND fence <= ?
/// ```
///
/// with the token twice. A write that finds no row is that of a stale holder. Both may be in one transaction or in
/// several.
#[derive(Clone, Debug)]
pub struct FencedTable {
    enter: String,
    mark: String,
}

/// Why a holder was not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FencedTableError {
    /// A newer holder was there: the hold is lost.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// There is no such row: it needs one before it can be fenced.
    #[error("there is no row to fence: insert it first, with a fence of 0")]
    NoRow,
    /// The server did not answer, or refused.
    #[error("the fence cannot decide: {0}")]
    Sql(#[from] sqlx::Error),
}

impl FencedTable {
    /// A fence in the column `fence` of a table whose rows the column `id` names.
    #[must_use]
    pub fn new(table: &str, id: &str, fence: &str) -> Self {
        let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
        let (table, id, fence) = (quoted(table), quoted(id), quoted(fence));
        Self {
            enter: format!("UPDATE {table} SET {fence} = ? WHERE {id} = ? AND {fence} <= ?"),
            mark: format!("SELECT CAST({fence} AS UNSIGNED) FROM {table} WHERE {id} = ?"),
        }
    }

    /// Lets a holder in and keeps every older one out; called before the holder's first read.
    ///
    /// # Guarantees
    /// Once it has returned, no write of an older holder with the condition above is made.
    ///
    /// # Errors
    /// When a newer holder has entered, there is no such row, or the server does not answer.
    ///
    /// # Cancel safety
    /// The mark may be raised; entering again is harmless.
    pub async fn enter<I>(
        &self,
        connection: &mut MySqlConnection,
        id: I,
        token: FencingToken,
    ) -> Result<(), FencedTableError>
    where
        I: for<'q> Encode<'q, MySql> + Type<MySql> + Send + Clone + 'static,
    {
        let number = i64::try_from(token.get()).unwrap_or(i64::MAX);
        let enter = sqlx::query(AssertSqlSafe(self.enter.clone())).bind(number).bind(id.clone()).bind(number);
        // The client counts rows that were found, changed or not.
        if enter.execute(&mut *connection).await?.rows_affected() > 0 {
            return Ok(());
        }
        let mark = sqlx::query_scalar::<_, u64>(AssertSqlSafe(self.mark.clone())).bind(id);
        let Some(mark) = mark.fetch_optional(connection).await? else { return Err(FencedTableError::NoRow) };
        Err(match FencingToken::new(mark) {
            Some(mark) if mark > token => Stale { slot: 0, offered: token, mark }.into(),
            _ => sqlx::Error::Protocol(format!("the fence {mark} is no token")).into(),
        })
    }
}
