//! The tables and procedures on the server, and their version.
//!
//! DDL is not transactional here. Every step can be repeated, and the version is written last: a migration that was
//! interrupted leaves a schema without a version, which every client refuses until the migration is run again.
//!
//! # Invariants
//! 1. Nothing is touched that is not ours, and nothing of a newer version.
//! 2. The version says that all that belongs to it is there.

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use tenure_core::engine::{EngineError, Trouble};

use crate::options::MySqlOptions;
use crate::{login, trouble};

/// The version of the schema that this crate speaks.
pub(crate) const VERSION: u32 = 1;

/// The time of the server in microseconds since 1970, read by a statement of its own after the key's row is locked. In
/// UTC, because the local time that `SYSDATE` gives is ambiguous for an hour each year.
const NOW: &str = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))";

/// Whether a place or tombstone is dead at `p_now`.
const DEAD: &str = "(
  (ends_us <= p_now AND NOT (session <> 0 AND state = 'held'))
  OR (session <> 0 AND state IN ('waiting', 'offered', 'held') AND IS_FREE_LOCK(CONCAT('tenure ', session)))
)";

/// How the columns of our tables are called, to tell ours from those of others.
const COLUMNS: &[(&str, &[&str])] = &[
    ("tenure_schema", &["version", "floor_token"]),
    ("tenure_keys", &["key", "last_token"]),
    (
        "tenure_places",
        &["key", "seq", "claim", "mode", "lim", "term_us", "state", "ends_us", "token", "session"],
    ),
    ("tenure_holds", &["key", "claim"]),
];

/// The procedures: name and text. Those that others call come first.
const PROCEDURES: &[(&str, &str)] = &[
    ("tenure_free", include_str!("sql/free.sql")),
    ("tenure_stamp", include_str!("sql/stamp.sql")),
    ("tenure_slot", include_str!("sql/slot.sql")),
    ("tenure_enter", include_str!("sql/enter.sql")),
    ("tenure_promote", include_str!("sql/promote.sql")),
    ("tenure_attempt", include_str!("sql/attempt.sql")),
    ("tenure_renew", include_str!("sql/renew.sql")),
    ("tenure_restamp", include_str!("sql/restamp.sql")),
    ("tenure_withdraw", include_str!("sql/withdraw.sql")),
    ("tenure_evict", include_str!("sql/evict.sql")),
    ("tenure_guard", include_str!("sql/guard.sql")),
    ("tenure_sweep", include_str!("sql/sweep.sql")),
    ("tenure_probe", include_str!("sql/probe.sql")),
];

/// The statements that make the schema, in order, for a server whose clock is `now`.
fn statements(now: &str) -> Vec<String> {
    let filled = |text: &str| {
        let filled = text.replace("{claim}", "CHAR(32) CHARACTER SET ascii COLLATE ascii_bin");
        let filled = filled.replace("{word}", "VARCHAR(9) CHARACTER SET ascii COLLATE ascii_bin");
        let filled = filled.replace("{text}", "MEDIUMTEXT CHARACTER SET ascii COLLATE ascii_bin");
        let filled = filled.replace("{key}", "VARBINARY(512)").replace("{identity}", "VARBINARY(2048)");
        let filled = filled.replace("{dead}", &DEAD.replace('\n', "\n      "));
        filled.replace("{now}", now).replace("{window}", "3000000").trim_end().to_owned()
    };
    // A procedure keeps the mode of the session that made it.
    let mut statements = vec!["SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'".to_owned()];
    statements.extend(
        filled(include_str!("sql/tables.sql")).split(";\n").map(|one| one.trim_end_matches(';').to_owned()),
    );
    for (name, text) in PROCEDURES {
        statements.push(format!("DROP PROCEDURE IF EXISTS {name}"));
        statements.push(filled(text));
    }
    statements.push(format!(
        "INSERT INTO tenure_schema (version) SELECT {VERSION} FROM DUAL \
         WHERE NOT EXISTS (SELECT 1 FROM tenure_schema)"
    ));
    statements
}

/// The migration as a script for the client `mariadb` or `mysql`, for those who keep migrations themselves.
#[must_use]
pub fn migration_sql() -> String {
    let mut script = String::from("DELIMITER $$\n");
    for statement in statements(NOW) {
        script.push_str(&statement);
        script.push_str("$$\n");
    }
    script.push_str("DELIMITER ;\n");
    script
}

/// Makes the tables and procedures, or brings them up to date. Does nothing where they are.
///
/// # Errors
/// When the server cannot be reached or refuses us, when tables of our names are somebody else's, or when the schema is
/// newer than this program.
///
/// # Cancel safety
/// Safe: run it again. Every step may be repeated.
pub async fn migrate(options: &MySqlOptions) -> Result<(), EngineError> {
    let mut connection = login::connect(options).await?;
    let migrated = run(&mut connection, NOW).await;
    // Whatever becomes of the connection, the answer is there.
    let _ = connection.close().await;
    Ok(migrated?)
}

/// As [`migrate`], on a connection, for a server whose clock is `now`.
pub(crate) async fn run(connection: &mut MySqlConnection, now: &str) -> Result<(), Trouble> {
    let ours = one_at_a_time(connection).await?;
    let migrated = run_alone(connection, now).await;
    if ours {
        let released = sqlx::query("DO RELEASE_LOCK(CONCAT('tenure migrates ', SHA1(DATABASE())))");
        released.execute(connection).await.map_err(|error| trouble::of_setup(&error))?;
    }
    migrated
}

async fn run_alone(connection: &mut MySqlConnection, now: &str) -> Result<(), Trouble> {
    check_foreign(connection).await?;
    match version(connection).await? {
        Some(known) if known > VERSION => return Err(newer(known)),
        Some(VERSION) => return Ok(()),
        _ => {}
    }
    for statement in statements(now) {
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await;
        done.map_err(|error| trouble::of_setup(&error))?;
    }
    Ok(())
}

/// Two migrations at once would drop each other's procedures. A cluster has no such locks for all; there, run one.
async fn one_at_a_time(connection: &mut MySqlConnection) -> Result<bool, Trouble> {
    let wait = sqlx::query_scalar("SELECT GET_LOCK(CONCAT('tenure migrates ', SHA1(DATABASE())), 30)");
    match wait.fetch_one(connection).await {
        Ok(Some(1_i64)) => Ok(true),
        Ok(_) => Err(Trouble::away("somebody else migrates this database: try again")),
        // A cluster that forbids such locks.
        Err(error) if trouble::number(&error) == Some(1235) => Ok(false),
        Err(error) => Err(trouble::of_setup(&error)),
    }
}

/// Which version is there; none when there is none, or when a migration was interrupted.
async fn version(connection: &mut MySqlConnection) -> Result<Option<u32>, Trouble> {
    let asked = sqlx::query_scalar::<_, u32>("SELECT MAX(version) FROM tenure_schema HAVING COUNT(*) > 0");
    match asked.fetch_optional(connection).await {
        Ok(version) => Ok(version),
        Err(error) if trouble::number(&error) == Some(trouble::NO_TABLE) => Ok(None),
        Err(error) => Err(trouble::of_setup(&error)),
    }
}

/// Refuses tables of our names that somebody else has made.
async fn check_foreign(connection: &mut MySqlConnection) -> Result<(), Trouble> {
    let asked = sqlx::query(
        "SELECT LOWER(table_name), LOWER(column_name) FROM information_schema.columns \
         WHERE table_schema = DATABASE() AND LEFT(table_name, 7) = 'tenure_'",
    );
    let rows = asked.fetch_all(connection).await.map_err(|error| trouble::of_setup(&error))?;
    let found: Vec<(String, String)> =
        rows.iter().filter_map(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?))).collect();
    for (table, columns) in COLUMNS {
        let theirs = found.iter().filter(|(name, _)| name == table).map(|(_, column)| column.as_str());
        let theirs: Vec<_> = theirs.collect();
        if !theirs.is_empty() && columns.iter().any(|column| !theirs.contains(column)) {
            return Err(Trouble::foreign(format!(
                "the table {table} was not made by tenure: rename it, or give tenure a database of its own"
            )));
        }
    }
    Ok(())
}

/// Whether the schema is there and of our version, and whether we may use it.
pub(crate) async fn check(connection: &mut MySqlConnection) -> Result<(), Trouble> {
    let probed = sqlx::query_scalar::<_, u32>("CALL tenure_probe()").fetch_optional(&mut *connection).await;
    match probed {
        Ok(Some(VERSION)) => Ok(()),
        Ok(Some(known)) if known > VERSION => Err(newer(known)),
        Ok(_) => Err(missing("an older or unfinished schema")),
        Err(error) => {
            let number = trouble::number(&error);
            if matches!(number, Some(trouble::NO_PROCEDURE | trouble::NO_TABLE | trouble::NO_COLUMN)) {
                check_foreign(connection).await?;
                return Err(missing("no schema of tenure"));
            }
            Err(trouble::of_setup(&error))
        }
    }
}

fn missing(what: &str) -> Trouble {
    Trouble::unsupported(format!(
        "the database has {what}: run `tenure migrate --at URL` once, with a user that may create tables and procedures"
    ))
}

fn newer(known: u32) -> Trouble {
    Trouble::unsupported(format!(
        "the database has version {known} of the schema, and this program knows {VERSION}: use a newer tenure"
    ))
}
