//! Which server, how to get in and what to insist on, from code or from a URL.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use tenure_core::engine::url::percent_decoded_text;

use crate::passfile::{self, Unusable};

/// Where a [`Postgres`](crate::Postgres) engine keeps its lines, and on what it insists.
///
/// ```
/// use tenure_postgres::PostgresOptions;
///
/// let options = PostgresOptions::from_url("postgres://app:secret@db.example/orders?schema=locks")?;
/// assert_eq!(options.schema(), Some("locks"));
/// assert!(!format!("{options:?}").contains("secret"));
/// # Ok::<(), tenure_postgres::PostgresUrlError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    pub(crate) config: Config,
    pub(crate) tls: Option<Tls>,
    pub(crate) schema: Option<String>,
    pub(crate) dialect: Dialect,
    pub(crate) response_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) lock_timeout: Duration,
}

/// What a hold lasts as long as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// A lease, which the server's clock ends. Connections may end, and a pooler may be between.
    #[default]
    Table,
    /// A session: an advisory lock on one connection of the engine's own, which the server frees with the connection.
    Advisory,
}

/// How the server proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Whom to trust instead of the system's authorities.
    pub(crate) ca: Option<PathBuf>,
}

/// Parameters of a connection that the client library reads by itself.
const PASSED_ON: &[&str] = &[
    "application_name",
    "channel_binding",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "target_session_attrs",
    "user",
];

impl PostgresOptions {
    /// The options of a server as `tokio_postgres` describes it. Whether to use TLS is said by
    /// [`with_tls`](Self::with_tls) alone.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            tls: None,
            schema: None,
            dialect: Dialect::default(),
            response_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(2),
            lock_timeout: Duration::from_millis(300),
        }
    }

    /// The same options over TLS, with a server that an authority of the system vouches for by its name.
    #[must_use]
    pub fn with_tls(self) -> Self {
        Self { tls: Some(Tls::default()), ..self }
    }

    /// The same options over TLS, with a server that an authority in this PEM file vouches for by its name.
    #[must_use]
    pub fn with_ca(self, ca: impl Into<PathBuf>) -> Self {
        Self { tls: Some(Tls { ca: Some(ca.into()) }), ..self }
    }

    /// The same options with the tables in another schema than the first that is found in the search path.
    #[must_use]
    pub fn with_schema(self, schema: impl Into<String>) -> Self {
        Self { schema: Some(schema.into()), ..self }
    }

    /// The same options with holds of another kind.
    #[must_use]
    pub fn with_dialect(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }

    /// The same options with another time after which a connection that does not answer is given up: 2 s unless told
    /// otherwise.
    ///
    /// A renewal is sent at a third of the TTL and repeated each twelfth. It should be well below a third of the
    /// shortest TTL in use, or a single lost answer costs the hold.
    #[must_use]
    pub fn with_response_timeout(self, timeout: Duration) -> Self {
        Self { response_timeout: timeout, ..self }
    }

    /// The same options with another time to connect and log in: 2 s unless told otherwise.
    #[must_use]
    pub fn with_connect_timeout(self, timeout: Duration) -> Self {
        Self { connect_timeout: timeout, ..self }
    }

    /// The same options with another time to wait for the row of a key: 300 ms unless told otherwise.
    ///
    /// Verbs hold it for moments. Only a transaction of somebody else, who locks rows of ours by hand, holds it longer,
    /// and meanwhile nothing else is answered on the connection.
    #[must_use]
    pub fn with_lock_timeout(self, timeout: Duration) -> Self {
        Self { lock_timeout: timeout, ..self }
    }

    /// The schema of the tables, if it was named.
    #[must_use]
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The options that a URL names: `postgres://[user[:password]@][host[:port]][,…][/database][?option=value&…]`.
    ///
    /// Options of `libpq` that are known: `sslmode` (`disable`, or `require`, `verify-ca` and `verify-full`, which all
    /// verify in full), `sslrootcert`, `connect_timeout` in seconds, `application_name`, `target_session_attrs`,
    /// `options`, `host`, `port`, `user`, `password`, `dbname`, `hostaddr`, `channel_binding`, `load_balance_hosts` and
    /// `keepalives…`. Ours: `schema=NAME`, `dialect=table` or `dialect=advisory`, `timeout-ms=N`,
    /// `connect-timeout-ms=N`, `lock-timeout-ms=N`, and `ca` for `sslrootcert`.
    ///
    /// What the URL leaves open is taken from `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE`,
    /// `PGSSLROOTCERT` and `PGAPPNAME`; a password also from the file `PGPASSFILE`, which is `~/.pgpass` unless said
    /// otherwise.
    ///
    /// # Errors
    /// [`PostgresUrlError`] names the part that cannot be read, and never a password.
    pub fn from_url(url: &str) -> Result<Self, PostgresUrlError> {
        Self::from_url_and(url, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// The same with an environment of one's own.
    pub(crate) fn from_url_and(
        url: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, PostgresUrlError> {
        let scheme = url.split(':').next().unwrap_or_default();
        let rest = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
        let rest = rest.filter(|_| matches!(scheme, "postgres" | "postgresql"));
        let rest = rest.ok_or_else(|| PostgresUrlError::Scheme(scheme.to_owned()))?;
        if rest.contains('#') {
            return Err(PostgresUrlError::Fragment);
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (mut passed, mut own) = (String::new(), Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if PASSED_ON.contains(&name) {
                passed.push(if passed.is_empty() { '?' } else { '&' });
                passed.push_str(pair);
            } else {
                own.push((name, value));
            }
        }
        // The client library says what it misses, but might say it with a part of a password.
        let config: Config =
            format!("postgres://{place}{passed}").parse().map_err(|_| PostgresUrlError::Place)?;
        let mut options = Self::new(config);
        let (mut mode, mut ca) = (environment("PGSSLMODE"), environment("PGSSLROOTCERT"));
        for (name, value) in own {
            options = option(options, &mut mode, &mut ca, name, value)?;
        }
        options.tls = tls(mode.as_deref(), ca)?;
        options.complete(environment)?;
        Ok(options)
    }

    /// Fills in what the URL has left open.
    fn complete(&mut self, environment: &dyn Fn(&str) -> Option<String>) -> Result<(), PostgresUrlError> {
        let config = &mut self.config;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            let hosts = environment("PGHOST").unwrap_or_else(|| "localhost".to_owned());
            hosts.split(',').for_each(|host| {
                config.host(host);
            });
        }
        if config.get_ports().is_empty()
            && let Some(ports) = environment("PGPORT")
        {
            for port in ports.split(',') {
                let bad = || PostgresUrlError::Value { option: "PGPORT".to_owned(), value: ports.clone() };
                config.port(port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?);
            }
        }
        if config.get_user().is_none() {
            let user = environment("PGUSER").or_else(|| environment("USER"));
            config.user(user.ok_or(PostgresUrlError::User)?);
        }
        if config.get_dbname().is_none()
            && let Some(database) = environment("PGDATABASE").or_else(|| config.get_user().map(str::to_owned))
        {
            config.dbname(database);
        }
        if config.get_application_name().is_none() {
            config.application_name(environment("PGAPPNAME").as_deref().unwrap_or("tenure"));
        }
        if config.get_password().is_none() {
            let password = match environment("PGPASSWORD") {
                Some(password) => Some(password),
                None => passfile::password(config, environment)
                    .map_err(|Unusable { path, why }| PostgresUrlError::PasswordFile { path, why })?,
            };
            if let Some(password) = password {
                config.password(password);
            }
        }
        Ok(())
    }

    /// The settings of a connection.
    pub(crate) fn connection(&self) -> Config {
        let mut config = self.config.clone();
        config.connect_timeout(self.connect_timeout).tcp_user_timeout(self.response_timeout);
        config.ssl_mode(if self.tls.is_some() { SslMode::Require } else { SslMode::Disable });
        config
    }

    /// Where it is, for people.
    pub(crate) fn address(&self) -> String {
        let mut ports = self.config.get_ports().iter().copied().cycle();
        let one = |host: &Host| {
            let port = ports.next().unwrap_or(5432);
            match host {
                Host::Tcp(host) if host.contains(':') => format!("[{host}]:{port}"),
                Host::Tcp(host) => format!("{host}:{port}"),
                #[cfg(unix)]
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        };
        let hosts: Vec<_> = self.config.get_hosts().iter().map(one).collect();
        let hosts = if hosts.is_empty() { "the server".to_owned() } else { hosts.join(",") };
        format!("{hosts}/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("address", &self.address())
            .field("user", &self.config.get_user())
            .field("password", &self.config.get_password().map(|_| "***"))
            .field("tls", &self.tls)
            .field("schema", &self.schema)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

/// One option that the client library does not read by itself.
fn option(
    options: PostgresOptions,
    mode: &mut Option<String>,
    ca: &mut Option<String>,
    name: &str,
    value: &str,
) -> Result<PostgresOptions, PostgresUrlError> {
    let bad = || PostgresUrlError::Value { option: name.to_owned(), value: value.to_owned() };
    let text = || percent_decoded_text(value).filter(|text| !text.is_empty()).ok_or_else(bad);
    let number = || value.parse::<u32>().ok().filter(|number| *number > 0).ok_or_else(bad);
    let millis = || number().map(|millis| Duration::from_millis(millis.into()));
    match name {
        "sslmode" => *mode = Some(text()?),
        "sslrootcert" | "ca" => *ca = Some(text()?),
        _ => {}
    }
    Ok(match name {
        "sslmode" | "sslrootcert" | "ca" => options,
        "schema" => options.with_schema(text()?),
        "dialect" => options.with_dialect(match value {
            "table" => Dialect::Table,
            "advisory" => Dialect::Advisory,
            _ => return Err(bad()),
        }),
        "timeout-ms" => options.with_response_timeout(millis()?),
        "connect-timeout-ms" => options.with_connect_timeout(millis()?),
        "connect_timeout" => options.with_connect_timeout(Duration::from_secs(number()?.into())),
        "lock-timeout-ms" => options.with_lock_timeout(millis()?),
        _ => return Err(PostgresUrlError::Option(name.to_owned())),
    })
}

/// Whether to use TLS. It is used and proves everything, or it is not used: modes in between prove nothing.
fn tls(mode: Option<&str>, ca: Option<String>) -> Result<Option<Tls>, PostgresUrlError> {
    let ca = ca.filter(|ca| ca != "system").map(PathBuf::from);
    match mode {
        None | Some("disable") => Ok(None),
        Some("require" | "verify-ca" | "verify-full") => Ok(Some(Tls { ca })),
        Some(mode @ ("allow" | "prefer")) => Err(PostgresUrlError::HalfTls(mode.to_owned())),
        Some(mode) => Err(PostgresUrlError::Value { option: "sslmode".to_owned(), value: mode.to_owned() }),
    }
}

/// Why a URL is not one of a PostgreSQL server. Never shows a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresUrlError {
    /// It begins with something else.
    #[error("{0:?} is no scheme of a PostgreSQL server: write postgres://user@host/database")]
    Scheme(String),
    /// Login, host, port, database or a parameter of the connection cannot be read.
    #[error(
        "login, host, port or database cannot be read: write postgres://user:password@host:5432/database, with % as \
         %25, @ as %40, : as %3a and / as %2f"
    )]
    Place,
    /// Nobody said who connects.
    #[error("nobody says who connects: write postgres://user@host/database, or set PGUSER")]
    User,
    /// It has a fragment.
    #[error("a PostgreSQL URL has no fragment: write # as %23")]
    Fragment,
    /// TLS that proves nothing.
    #[error("sslmode={0} protects from nobody: choose verify-full, or disable")]
    HalfTls(String),
    /// An option is unknown.
    #[error("a PostgreSQL URL has no option {0:?}: docs/engines/postgres.md lists them")]
    Option(String),
    /// An option has an unknown value.
    #[error("{value:?} is no value for {option}: see docs/engines/postgres.md")]
    Value {
        /// The option.
        option: String,
        /// Its value.
        value: String,
    },
    /// The password file cannot be used.
    #[error("the password file {path} cannot be used: {why}")]
    PasswordFile {
        /// The file.
        path: String,
        /// What to change.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<PostgresOptions, PostgresUrlError> {
        read_with(url, &[])
    }

    fn read_with(url: &str, environment: &[(&str, &str)]) -> Result<PostgresOptions, PostgresUrlError> {
        let of = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        PostgresOptions::from_url_and(url, &of)
    }

    #[test]
    fn a_url_names_server_login_database_and_terms() {
        let options = read("postgres://app:p%40ss@db:7000/orders").unwrap();
        assert_eq!(options.config.get_user(), Some("app"));
        assert_eq!(options.config.get_password(), Some(&b"p@ss"[..]));
        assert_eq!(options.config.get_dbname(), Some("orders"));
        assert_eq!(options.address(), "db:7000/orders");
        assert_eq!(options.tls, None);
        assert_eq!(options.dialect, Dialect::Table);
        assert_eq!(read("postgres://u@h?dialect=advisory").unwrap().dialect, Dialect::Advisory);
        let options = read(
            "postgresql://app@[::1]/?sslmode=verify-full&sslrootcert=/etc/ca.pem&schema=locks&timeout-ms=250\
             &connect_timeout=3",
        )
        .unwrap();
        assert_eq!(options.tls, Some(Tls { ca: Some("/etc/ca.pem".into()) }));
        assert_eq!(options.schema(), Some("locks"));
        assert_eq!(options.response_timeout, Duration::from_millis(250));
        assert_eq!(options.connect_timeout, Duration::from_secs(3));
        assert_eq!(read("postgres://u@%2Frun%2Fpg/d").unwrap().address(), "/run/pg:5432/d");
        assert_eq!(
            read("postgres://u@a:1,b:2/d?target_session_attrs=read-write").unwrap().address(),
            "a:1,b:2/d"
        );
    }

    #[test]
    fn what_a_url_leaves_open_comes_from_the_environment_as_with_libpq() {
        let environment = [
            ("PGHOST", "db"),
            ("PGPORT", "6000"),
            ("PGUSER", "app"),
            ("PGPASSWORD", "hunter2"),
            ("PGDATABASE", "orders"),
            ("PGSSLMODE", "require"),
        ];
        let options = read_with("postgres://", &environment).unwrap();
        assert_eq!(options.address(), "db:6000/orders");
        assert_eq!(options.config.get_password(), Some(&b"hunter2"[..]));
        assert!(options.tls.is_some());
        let options = read_with("postgres://me:mine@h:1/d?sslmode=disable", &environment).unwrap();
        assert_eq!((options.address().as_str(), options.config.get_user()), ("h:1/d", Some("me")));
        assert_eq!(options.tls, None);
        assert_eq!(read_with("postgres://h", &[("USER", "me")]).unwrap().address(), "h:5432/me");
    }

    #[test]
    fn a_bad_url_is_refused_by_the_part_that_is_bad() {
        let refused = |url: &str| read(url).unwrap_err();
        assert_eq!(refused("mysql://u@x"), PostgresUrlError::Scheme("mysql".into()));
        assert_eq!(refused("postgres:x"), PostgresUrlError::Scheme("postgres".into()));
        assert_eq!(refused("postgres://h"), PostgresUrlError::User);
        for place in ["u@h:x", "u@h:70000", "u@[::1"] {
            assert_eq!(refused(&format!("postgres://{place}")), PostgresUrlError::Place, "{place}");
        }
        assert_eq!(refused("postgres://u@h?speed=high"), PostgresUrlError::Option("speed".into()));
        assert_eq!(refused("postgres://u@h#x"), PostgresUrlError::Fragment);
        assert_eq!(refused("postgres://u@h?sslmode=prefer"), PostgresUrlError::HalfTls("prefer".into()));
        for (option, value) in [
            ("sslmode", "full"),
            ("timeout-ms", "0"),
            ("schema", "%zz"),
            ("schema", ""),
            ("dialect", "tables"),
        ] {
            let error = PostgresUrlError::Value { option: option.into(), value: value.into() };
            assert_eq!(refused(&format!("postgres://u@h?{option}={value}")), error);
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let options = read("postgres://u:hunter2@h/d?password=hunter2").unwrap();
        assert!(!format!("{options:?} {:?}", options.config).contains("hunter2"));
        for url in ["postgres://u:hunter2@h:x", "postgres://u:hunter2", "postgres://u:hunter2@h?x=y#"] {
            let refused = read(url).unwrap_err();
            assert!(!format!("{refused} {refused:?}").contains("hunter2"), "{refused}");
        }
    }
}
