//! The tables and functions of tenure: made once for each schema, by one transaction.

use std::fmt::Write;
use std::time::Duration;

use tenure_core::engine::links::OwnThread;
use tenure_core::engine::{EngineError, Trouble};
use tokio::runtime::Handle;
use tokio_postgres::Client;

use crate::dial::{self, Dialed, VERSION, quoted};
use crate::options::PostgresOptions;
use crate::trouble;

/// What a version adds to the one before it.
const STEPS: [&str; VERSION as usize] = [include_str!("sql/version_1.sql")];

/// What a migration has done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// The schema of the tables.
    pub schema: String,
    /// The version that was found, none when there were no tables.
    pub from: Option<u32>,
    /// The version that they have now.
    pub to: u32,
}

/// The SQL that makes the tables and functions from nothing, in one transaction, for a migration tool of one's own:
/// in the named schema, which is made, or in the first of the search path.
#[must_use]
pub fn migration_sql(schema: Option<&str>) -> String {
    let mut sql = String::from("BEGIN;\n");
    if let Some(schema) = schema {
        // Writing to a string cannot fail.
        let _ = writeln!(sql, "CREATE SCHEMA IF NOT EXISTS {};", quoted(schema));
        let _ = writeln!(sql, "SET LOCAL search_path TO {}, pg_temp;", quoted(schema));
    } else {
        sql.push_str(
            "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);\n",
        );
    }
    STEPS.iter().for_each(|step| sql.push_str(step));
    sql.push_str("COMMIT;\n");
    sql
}

/// Makes the tables and functions, or brings them to this version; nothing is changed when they are.
///
/// Everything happens in one transaction, one at a time.
///
/// # Errors
/// When the server cannot be reached or refuses us, when the tables are of a newer version, or when a table of our name
/// is somebody else's. Nothing was changed then.
///
/// # Cancel safety
/// Safe: it is done as a whole or not at all.
pub async fn migrate(options: &PostgresOptions) -> Result<Migrated, EngineError> {
    let work = work(options.clone());
    if Handle::try_current().is_ok() {
        return Ok(work.await?);
    }
    let thread = OwnThread::start()?;
    let done = thread.runtime().spawn(work).await;
    Ok(done.map_err(|_| Trouble::lost("the thread of the migration has ended"))??)
}

async fn work(options: PostgresOptions) -> Result<Migrated, Trouble> {
    // Others may be at it, each with all of it.
    let limit = options.connect_timeout + Duration::from_secs(60);
    let working = async {
        let Dialed { client, driver } = dial::connect(&options, |_| ()).await?;
        let done = transaction(&client, &options).await;
        drop(client);
        if done.is_err() {
            driver.abort();
        }
        done
    };
    let late = |_| Trouble::lost(format!("the migration took longer than {limit:?}"));
    tokio::time::timeout(limit, working).await.map_err(late)?
}

async fn transaction(client: &Client, options: &PostgresOptions) -> Result<Migrated, Trouble> {
    let failed = |error: tokio_postgres::Error| refused(&error, options);
    let server = dial::greet(client, options).await?;
    client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await.map_err(failed)?;
    // A number of ours: two migrations at once would meet in the middle.
    client.batch_execute("SELECT pg_advisory_xact_lock(8387241)").await.map_err(failed)?;
    let server = dial::Server { found: dial::greet(client, options).await?.found, ..server };
    let from = match &server.found {
        None => None,
        Some(schema) => match dial::version(client, schema).await? {
            Some(version) if version > VERSION => {
                let message = format!(
                    "the tables in schema {schema:?} are of version {version}, newer than {VERSION}: use a newer tenure"
                );
                return Err(Trouble::foreign(message));
            }
            Some(version) => Some(version),
            None => return Err(dial::foreign(schema, &options.address())),
        },
    };
    let schema = server.found.unwrap_or(server.schema);
    let done = u32::try_from(from.unwrap_or(0)).unwrap_or(0);
    let steps: String = STEPS.iter().skip(done as usize).copied().collect();
    if !steps.is_empty() {
        let name = quoted(&schema);
        let path = format!("SET LOCAL search_path TO {name}, pg_temp;\n");
        let make = if options.schema.is_some() {
            format!("CREATE SCHEMA IF NOT EXISTS {name};\n")
        } else {
            String::new()
        };
        client.batch_execute(&format!("{make}{path}{steps}")).await.map_err(failed)?;
    }
    client.batch_execute("COMMIT").await.map_err(|error| trouble::of(&error).with_unknown_effect())?;
    Ok(Migrated { schema, from: from.and_then(|from| u32::try_from(from).ok()), to: VERSION.unsigned_abs() })
}

fn refused(error: &tokio_postgres::Error, options: &PostgresOptions) -> Trouble {
    let trouble = trouble::of(error).without_effect();
    match error.code().map(|state| state.code()) {
        Some("42501") => Trouble::denied(format!(
            "the role may not create tables there: GRANT CREATE ON SCHEMA …, or name its own with schema=NAME ({})",
            error.as_db_error().map_or("", |answer| answer.message())
        )),
        Some("42P07" | "42723") => Trouble::foreign(format!(
            "{} has something of our name that is not ours: name another schema with schema=NAME ({})",
            options.address(),
            error.as_db_error().map_or("", |answer| answer.message())
        )),
        _ => trouble,
    }
}
