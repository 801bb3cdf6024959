//! Sessions: what the places of a client live and end with in the dialect `get_lock`.
//!
//! A session is a connection that has taken a named lock of the server, by a name that is drawn anew for each. Places
//! are rows as in the other dialect, and name their session. Whoever acts on a line asks the server whether the lock
//! is still taken: the server frees it when the connection ends, however it ends, and the places are dead with it.
//!
//! No key is ever a name of such a lock. So neither its 64 characters, nor letters that count as equal, nor that one
//! connection may take it twice, can let somebody in.
//!
//! # Invariants
//! 1. A client has one session at a time. It begins when the one before is certainly over, and so with nothing of it
//!    under way: no place of an earlier session is adopted, and none is left in the way.
//! 2. A hold is valid for less time after an answer than the server keeps a session of which it hears nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;
use sqlx::mysql::MySqlConnection;
use tenure_core::engine::Trouble;

use crate::dial::Server;
use crate::trouble;

/// For how long the server keeps a session of which it hears nothing.
pub(crate) const KEPT: Duration = Duration::from_secs(10);

/// For how long a hold is valid after a request that proved it, at most.
pub(crate) const VALIDITY: Duration = Duration::from_secs(6);

/// After how long without a request the server hears from us all the same.
pub(crate) const BEAT: Duration = Duration::from_secs(2);

/// The bounds of the pause between two looks whether the session before is over.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

const TAKE: &str = "SELECT GET_LOCK(CONCAT('tenure ', ?), 0)";
const WHOSE: &str = "SELECT CAST(IS_USED_LOCK(CONCAT('tenure ', ?)) AS SIGNED)";

/// The session that a client has begun last.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Option<i64>>);

impl Sessions {
    /// Makes the connection that of a new session, within a limit.
    pub(crate) async fn begin(
        &self,
        connection: &mut MySqlConnection,
        server: &Server,
        limit: Duration,
    ) -> Result<i64, Trouble> {
        let begun = tokio::time::timeout(limit, self.begin_at_last(connection, server)).await;
        begun.unwrap_or_else(|_| {
            Err(Trouble::away(format!(
                "no session could be begun within {limit:?}: the server may still keep the one before, which it ends \
                 {KEPT:?} after it has last heard of it"
            )))
        })
    }

    async fn begin_at_last(&self, connection: &mut MySqlConnection, server: &Server) -> Result<i64, Trouble> {
        check(server)?;
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last {
            until_over(connection, last).await?;
        }
        let session = rand::rng().random_range(1..=i64::MAX);
        // Remembered before it is taken: the answer may be lost.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        let kept = sqlx::query("SET SESSION wait_timeout = ?").bind(KEPT.as_secs());
        kept.execute(&mut *connection).await.map_err(|error| trouble::of_setup(&error))?;
        let taken = sqlx::query_scalar::<_, Option<i64>>(TAKE).bind(session).fetch_one(connection).await;
        match taken {
            Ok(Some(1)) => Ok(session),
            Ok(_) => Err(Trouble::away("the server did not let us take the lock of a session")),
            Err(error) => Err(trouble::of_setup(&error)),
        }
    }
}

/// Waits until a session of ours is over. To wait is harmless; a `KILL` by the number of a connection that may just be
/// ending is not known to be.
async fn until_over(connection: &mut MySqlConnection, session: i64) -> Result<(), Trouble> {
    let mut pause = PAUSE_MIN;
    // Ends with the session, or with the time that the caller gives.
    loop {
        let whose = sqlx::query_scalar::<_, Option<i64>>(WHOSE).bind(session).fetch_one(&mut *connection);
        if whose.await.map_err(|error| trouble::of_setup(&error))?.is_none() {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether a server can keep sessions.
fn check(server: &Server) -> Result<(), Trouble> {
    if server.clustered {
        return Err(Trouble::unsupported(
            "dialect=get_lock cannot be used on Galera, whose nodes do not know each other's named locks: leave the \
             dialect out of the URL",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_core::engine::{Effect, EngineErrorKind, Retry};

    #[test]
    fn c063_sessions_are_refused_on_galera_where_named_locks_are_those_of_one_node() {
        let alone = Server { connection: 1, durable: true, followed: false, clustered: false };
        assert_eq!(check(&alone), Ok(()));
        let refused = check(&Server { clustered: true, ..alone }).unwrap_err();
        let axes = (refused.kind, refused.effect, refused.retry);
        assert_eq!(axes, (EngineErrorKind::Unsupported, Effect::None, Retry::Useless));
        assert!(refused.message.contains("leave the dialect out"), "{}", refused.message);
    }

    #[test]
    fn c007_a_hold_ends_for_its_holder_before_the_server_frees_the_key_of_a_silent_one() {
        assert!(VALIDITY < KEPT && BEAT * 2 < KEPT);
    }
}
