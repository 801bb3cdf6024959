//! From an address to a connection that may be trusted: connect, log in, check the server and the tables.
//!
//! Everything is judged before the first verb, again on each new connection: a standby, a database without our tables
//! or with those of another version is refused with what mends it.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tenure_core::engine::Trouble;
use tokio::task::AbortHandle;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Row, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::options::{PostgresOptions, Tls};
use crate::trouble;

/// The version of the tables and functions.
pub(crate) const VERSION: i32 = 1;

/// The oldest server whose SQL does what we need.
const OLDEST: i32 = 120_000;

/// What is asked of every server first. `$1` is the schema, if it was named.
const GREETING: &str = "SELECT current_setting('server_version_num')::int4, current_setting('server_encoding'), \
    current_setting('fsync') = 'on', pg_is_in_recovery(), current_setting('synchronous_standby_names') <> '', \
    (SELECT count(*) FROM pg_stat_replication), pg_backend_pid(), coalesce($1, current_schema()::text), \
    (SELECT (extract(epoch FROM clock_timestamp() - a.backend_start) * 1000000)::int8 FROM pg_stat_activity a \
     WHERE a.pid = pg_backend_pid()), \
    (SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.oid = to_regclass(coalesce(quote_ident($1) || '.', '') || 'tenure_schema'))";

/// What lets the server notice after 20 s, and not before, that a client's machine is gone, and keeps it from ending
/// who is idle. Names that this version does not know are left out.
const KEPT_ALIVE: &str = "SELECT set_config(s.name, v.value, false) FROM (VALUES ('tcp_keepalives_idle', '5'), \
    ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '20000'), \
    ('idle_session_timeout', '0')) v (name, value) JOIN pg_settings s ON s.name = v.name";

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Whether each commit is on the disk before it is answered.
    pub(crate) durable: bool,
    /// How many standbys follow it, and whether it waits for any.
    pub(crate) standbys: i64,
    pub(crate) waits_for_standbys: bool,
    /// Which process of the server serves us.
    pub(crate) process: i32,
    /// For how long it has been there, as far as it says.
    pub(crate) age: Option<Duration>,
    /// Where new tables would go.
    pub(crate) schema: String,
    /// Where our tables are, if they are.
    pub(crate) found: Option<String>,
}

/// A connection with what drives it.
pub(crate) struct Dialed {
    pub(crate) client: Client,
    pub(crate) driver: AbortHandle,
}

/// Connects and logs in, on the current runtime; what is pushed goes to `take`, and `ended` is dropped at the end.
pub(crate) async fn connect(
    options: &PostgresOptions,
    take: impl FnMut(&str) + Send + 'static,
) -> Result<Dialed, Trouble> {
    let config = options.connection();
    let kept_out = |error: &tokio_postgres::Error| kept_out(error, options);
    match &options.tls {
        None => {
            let (client, connection) = config.connect(NoTls).await.map_err(|error| kept_out(&error))?;
            Ok(Dialed { client, driver: drive(connection, take) })
        }
        Some(tls) => {
            let tls = MakeRustlsConnect::new(tls_config(tls)?);
            let (client, connection) = config.connect(tls).await.map_err(|error| kept_out(&error))?;
            Ok(Dialed { client, driver: drive(connection, take) })
        }
    }
}

fn drive<S>(mut connection: Connection<Socket, S>, mut take: impl FnMut(&str) + Send + 'static) -> AbortHandle
where
    S: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
{
    let driver = tokio::spawn(async move {
        // Ends with the connection; what went wrong, whoever waits for an answer is told.
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                take(notification.payload());
            }
        }
    });
    driver.abort_handle()
}

fn tls_config(tls: &Tls) -> Result<ClientConfig, Trouble> {
    let roots = match &tls.ca {
        Some(path) => roots_of(path)?,
        None => {
            let mut roots = RootCertStore::empty();
            // Certificates that cannot be read vouch for nobody.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| Trouble::unsupported(format!("no TLS can be had: {error}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn roots_of(path: &Path) -> Result<RootCertStore, Trouble> {
    let unreadable = |why: &dyn std::fmt::Display| {
        Trouble::denied(format!("cannot read authorities from {}: {why}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    if roots.is_empty() { Err(unreadable(&"there are none in it")) } else { Ok(roots) }
}

/// Why there is no connection. Nothing was applied: no verb has been sent.
fn kept_out(error: &tokio_postgres::Error, options: &PostgresOptions) -> Trouble {
    let address = options.address();
    if let Some(answer) = error.as_db_error() {
        let mut trouble = trouble::of_answer(answer.code(), answer.message()).without_effect();
        trouble.message = format!("{address}: {}", trouble.message);
        // Proxies between us and the server say so whatever they do not like of us.
        if answer.code().code() == "08P01" {
            trouble = Trouble::unsupported(trouble.message);
        }
        return trouble;
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        // A broken stream may be better next time; a certificate that proves nothing will not.
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
        {
            return Trouble::denied(format!("no TLS with {address}: {io}"));
        }
        source = cause.source();
    }
    let text = trouble::shown(error);
    if text.contains("server does not support TLS") {
        return Trouble::denied(format!(
            "{address} has no TLS: turn ssl on at the server, or write sslmode=disable"
        ));
    }
    if text.contains("password missing") {
        return Trouble::denied(format!(
            "{address} wants a password: add it to the URL, PGPASSWORD or PGPASSFILE"
        ));
    }
    Trouble::away(format!("cannot connect to {address}: {text}"))
}

/// Asks a server what it is, and judges it.
pub(crate) async fn greet(client: &Client, options: &PostgresOptions) -> Result<Server, Trouble> {
    let rows = client.query_typed(GREETING, &[(&options.schema, Type::TEXT)]).await;
    let rows = rows.map_err(|error| trouble::of(&error).without_effect())?;
    let server = rows.first().and_then(|row| read(row).ok());
    let (version, encoding, standby, server) = server.ok_or_else(|| {
        Trouble::unsupported(format!("{} greets us in a way that no PostgreSQL does", options.address()))
    })?;
    judge(options, version, &encoding, standby)?;
    Ok(server)
}

fn read(row: &Row) -> Result<(i32, String, bool, Server), tokio_postgres::Error> {
    let server = Server {
        durable: row.try_get(2)?,
        waits_for_standbys: row.try_get(4)?,
        standbys: row.try_get(5)?,
        process: row.try_get(6)?,
        schema: row.try_get::<_, Option<String>>(7)?.unwrap_or_else(|| "public".to_owned()),
        age: row
            .try_get::<_, Option<i64>>(8)?
            .and_then(|age| u64::try_from(age).ok())
            .map(Duration::from_micros),
        found: row.try_get(9)?,
    };
    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(3)?, server))
}

fn judge(options: &PostgresOptions, version: i32, encoding: &str, standby: bool) -> Result<(), Trouble> {
    let address = options.address();
    if version < OLDEST {
        let message = format!(
            "{address} is version {}: PostgreSQL {} or newer is needed",
            version / 10_000,
            OLDEST / 10_000
        );
        return Err(Trouble::unsupported(message));
    }
    if encoding != "UTF8" {
        let message = format!(
            "the database at {address} is in {encoding}: create one WITH ENCODING 'UTF8', which has all names"
        );
        return Err(Trouble::unsupported(message));
    }
    if standby {
        // A failover may be going on: who asks again may find a primary there.
        return Err(Trouble::away(format!("{address} is a standby: name its primary")));
    }
    Ok(())
}

/// Makes sure that our tables are there and of our version; the schema they are in.
pub(crate) async fn check_tables(
    client: &Client,
    server: &Server,
    options: &PostgresOptions,
) -> Result<String, Trouble> {
    let address = options.address();
    let Some(schema) = &server.found else {
        let message = format!(
            "schema {:?} at {address} has no tables of tenure: run tenure migrate --at URL, or name another with \
             schema=NAME in the URL",
            server.schema
        );
        return Err(Trouble::unsupported(message));
    };
    match version(client, schema).await? {
        Some(VERSION) => Ok(schema.clone()),
        Some(other) if other < VERSION => Err(Trouble::foreign(format!(
            "the tables at {address} are of version {other}, older than {VERSION}: run tenure migrate --at URL"
        ))),
        Some(other) => Err(Trouble::foreign(format!(
            "the tables at {address} are of version {other}, newer than {VERSION}: use a newer tenure"
        ))),
        None => Err(foreign(schema, &address)),
    }
}

/// How often a number that somebody else has is drawn again.
const DRAWS: usize = 8;

/// Makes a session of a connection: a lock that the server frees with it, and so soon after the client is gone.
///
/// The lock's number is drawn, not made from names, so that no name can collide with another.
pub(crate) async fn begin_session(client: &Client) -> Result<i64, Trouble> {
    let failed = |error: tokio_postgres::Error| trouble::of(&error).without_effect();
    client.query_typed(KEPT_ALIVE, &[]).await.map_err(failed)?;
    for _ in 0..DRAWS {
        let number: i64 = rand::random();
        // Twice, for a verb proves that the session is its own by giving the lock back once.
        let lock = "SELECT pg_try_advisory_lock($1) AND pg_try_advisory_lock($1)";
        let locked = client.query_typed_one(lock, &[(&number, Type::INT8)]).await;
        if number != 0 && locked.and_then(|row| row.try_get(0)).map_err(failed)? {
            return Ok(number);
        }
    }
    Err(Trouble::away("every number that was drawn for the session is locked by somebody else"))
}

/// Something of ours is somebody else's.
pub(crate) fn foreign(schema: &str, address: &str) -> Trouble {
    Trouble::foreign(format!(
        "schema {schema:?} at {address} has a table tenure_schema that is not ours: name another with \
         schema=NAME in the URL"
    ))
}

/// The version of the tables in a schema that has a table of that name; none when it is not ours.
pub(crate) async fn version(client: &Client, schema: &str) -> Result<Option<i32>, Trouble> {
    let sql = format!("SELECT version FROM {}.tenure_schema", quoted(schema));
    match client.query_typed(&sql, &[]).await {
        Ok(rows) => Ok(rows.first().and_then(|row| row.try_get(0).ok())),
        Err(error) => match error.code().map(|state| state.code()) {
            Some("42703" | "42809") => Ok(None),
            _ => Err(trouble::of(&error).without_effect()),
        },
    }
}

/// A name as SQL has it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_core::engine::{EngineErrorKind, Retry};

    #[test]
    fn a_server_is_judged_before_the_first_verb() {
        let options = PostgresOptions::from_url_and("postgres://u@h/d", &|_| None).unwrap();
        assert!(judge(&options, 150_018, "UTF8", false).is_ok());
        for (version, encoding) in [(110_022, "UTF8"), (150_000, "LATIN1"), (150_000, "SQL_ASCII")] {
            let refused = judge(&options, version, encoding, false).unwrap_err();
            assert_eq!((refused.kind, refused.retry), (EngineErrorKind::Unsupported, Retry::Useless));
        }
        let refused = judge(&options, 150_000, "UTF8", true).unwrap_err();
        assert_eq!((refused.kind, refused.retry), (EngineErrorKind::Unreachable, Retry::Worth));
    }

    #[test]
    fn a_hostile_schema_is_a_name() {
        assert_eq!(quoted("a\"; DROP TABLE x; --"), "\"a\"\"; DROP TABLE x; --\"");
    }
}
