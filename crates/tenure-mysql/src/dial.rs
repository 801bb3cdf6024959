//! From a login to a connection that may be trusted: set the session up, check server and schema.

use sqlx::Row;
use sqlx::mysql::{MySqlConnection, MySqlRow};
use tenure_core::engine::Trouble;

use crate::login::{connect, in_time};
use crate::options::MySqlOptions;
use crate::{schema, trouble};

/// The oldest servers that can pass over rows which others have locked.
const OLDEST_MARIADB: (u32, u32) = (10, 6);
const OLDEST_MYSQL: (u32, u32) = (8, 0);

/// How the session must be, whatever the server's settings are: the killer of idle connections is put off, a verb waits
/// a few seconds at most for the row of its key, and rows that were only looked at are not locked.
const SESSION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
    SET SESSION innodb_lock_wait_timeout = 3, wait_timeout = 28800, autocommit = 1";

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// The number of our connection there.
    pub(crate) connection: u64,
    /// Whether each transaction is on the disk before it is answered.
    pub(crate) durable: bool,
    /// Whether it keeps a log from which replicas follow, to which somebody may fail over.
    pub(crate) followed: bool,
    /// Whether it is a node of a cluster that keeps its locks to itself.
    pub(crate) clustered: bool,
}

/// A connection that is ready for verbs.
pub(crate) async fn dial(options: &MySqlOptions) -> Result<(MySqlConnection, Server), Trouble> {
    let mut connection = connect(options).await?;
    let server = in_time(options, async {
        let setup = sqlx::raw_sql(SESSION).execute(&mut connection).await;
        setup.map_err(|error| trouble::of_setup(&error))?;
        let server = greet(&mut connection, options).await?;
        schema::check(&mut connection).await.map_err(Trouble::without_effect)?;
        Ok(server)
    });
    let server = server.await??;
    Ok((connection, server))
}

/// Asks the server what it is, and judges it.
async fn greet(connection: &mut MySqlConnection, options: &MySqlOptions) -> Result<Server, Trouble> {
    let asked = "SHOW VARIABLES WHERE variable_name IN ('version', 'read_only', 'innodb_read_only', \
        'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog', 'wsrep_on', 'pseudo_thread_id')";
    let rows = sqlx::query(asked).fetch_all(connection).await.map_err(|error| trouble::of_setup(&error))?;
    let pair = |row: &MySqlRow| Some((row.try_get(0).ok()?, row.try_get(1).ok()?));
    let variables: Vec<(String, String)> = rows.iter().filter_map(pair).collect();
    judge(&variables, &options.address())
}

/// Whether a server that says this of itself may keep locks.
fn judge(variables: &[(String, String)], address: &str) -> Result<Server, Trouble> {
    let value = |name: &str| {
        let found = variables.iter().find(|(variable, _)| variable.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.as_str())
    };
    let on = |name: &str| matches!(value(name), "ON" | "1");
    let version = value("version");
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let oldest = if version.to_ascii_lowercase().contains("mariadb") { OLDEST_MARIADB } else { OLDEST_MYSQL };
    if number < oldest {
        return Err(Trouble::unsupported(format!(
            "{address} is version {version:?}: MariaDB 10.6, MySQL 8.0 or newer is needed"
        )));
    }
    if on("read_only") || on("innodb_read_only") {
        // A failover may be going on: who asks again may find a primary there.
        return Err(Trouble::away(format!("{address} is read-only: name its primary")));
    }
    let binlog_kept = !on("log_bin") || value("sync_binlog") == "1";
    Ok(Server {
        connection: value("pseudo_thread_id").parse().unwrap_or(0),
        durable: value("innodb_flush_log_at_trx_commit") == "1" && binlog_kept,
        followed: on("log_bin"),
        clustered: on("wsrep_on"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_core::engine::{EngineErrorKind, Retry};

    fn told(changes: &[(&str, &str)]) -> Vec<(String, String)> {
        let usual = [
            ("version", "10.11.19-MariaDB"),
            ("read_only", "OFF"),
            ("innodb_flush_log_at_trx_commit", "1"),
            ("log_bin", "OFF"),
            ("sync_binlog", "0"),
            ("wsrep_on", "OFF"),
        ];
        usual
            .iter()
            .chain(changes)
            .rev()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_server_that_cannot_pass_over_locked_rows_is_refused() {
        for version in ["10.5.9-MariaDB", "5.7.44", "8", "", "10.11.19"] {
            let judged = judge(&told(&[("version", version)]), "h");
            let refused = judged.as_ref().is_err_and(|refused| {
                (refused.kind, refused.retry) == (EngineErrorKind::Unsupported, Retry::Useless)
            });
            assert_eq!(refused, !matches!(version, "10.11.19" | "8"), "{version}");
        }
    }

    #[test]
    fn c063_what_a_server_says_of_itself_decides_what_can_be_promised() {
        let server = judge(&told(&[]), "h").unwrap();
        assert!(server.durable && !server.followed && !server.clustered);
        for (name, value) in [("innodb_flush_log_at_trx_commit", "2"), ("log_bin", "ON")] {
            assert!(!judge(&told(&[(name, value)]), "h").unwrap().durable, "{name}");
        }
        let logged = judge(&told(&[("log_bin", "ON"), ("sync_binlog", "1")]), "h").unwrap();
        assert!(logged.durable && logged.followed);
        assert!(judge(&told(&[("wsrep_on", "ON")]), "h").unwrap().clustered);
        let refused = judge(&told(&[("read_only", "ON")]), "h").unwrap_err();
        assert_eq!((refused.kind, refused.retry), (EngineErrorKind::Unreachable, Retry::Worth));
    }
}
