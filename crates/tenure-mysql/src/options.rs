//! Which server and database, how to get in, and how locks are kept there, from code or from a URL.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use tenure_core::engine::url::{self, percent_decoded_text};

/// Where a [`MySql`](crate::MySql) engine keeps its lines.
///
/// ```
/// use tenure_mysql::MySqlOptions;
///
/// let options = MySqlOptions::from_url("mysql://app:secret@db.example:3307/orders?ssl-mode=required")?;
/// assert!(!format!("{options:?}").contains("secret"));
/// # Ok::<(), tenure_mysql::MySqlUrlError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct MySqlOptions {
    pub(crate) address: Address,
    pub(crate) tls: Tls,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    pub(crate) database: String,
    pub(crate) dialect: Dialect,
    pub(crate) response_timeout: Duration,
    pub(crate) connect_timeout: Duration,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Whether to insist on TLS, and on whom it must prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Tls {
    /// Never.
    Disabled,
    /// If the server offers it; proves nothing about the server.
    #[default]
    Preferred,
    /// Always; proves nothing about the server.
    Required,
    /// Always, with a certificate that an authority vouches for.
    VerifyCa,
    /// Always, with a certificate that an authority vouches for, in the name of the host.
    VerifyIdentity,
}

/// How locks are kept on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Dialect {
    /// As rows with deadlines.
    #[default]
    Table,
    /// As rows that live and end with the session of their client, which a named lock of the server stands for: one
    /// connection, on a thread of the engine's own.
    GetLock,
}

impl MySqlOptions {
    /// The options of a database on a server at a host name or address and a port.
    #[must_use]
    pub fn tcp(host: impl Into<String>, port: u16, database: impl Into<String>) -> Self {
        Self::at(Address::Tcp { host: host.into(), port }, database.into())
    }

    /// The options of a database on a server behind a Unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>, database: impl Into<String>) -> Self {
        Self::at(Address::Unix(path.into()), database.into())
    }

    fn at(address: Address, database: String) -> Self {
        Self {
            address,
            tls: Tls::default(),
            ca: None,
            user: "root".to_owned(),
            password: None,
            database,
            dialect: Dialect::default(),
            response_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// The same options with a user and a password.
    #[must_use]
    pub fn with_login(self, user: impl Into<String>, password: Option<String>) -> Self {
        Self { user: user.into(), password, ..self }
    }

    /// The same options with another answer to TLS: if the server offers it, unless told otherwise.
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls, ..self }
    }

    /// The same options over TLS, with a server for whose name an authority in this PEM file vouches.
    #[must_use]
    pub fn with_ca(self, ca: impl Into<PathBuf>) -> Self {
        Self { tls: Tls::VerifyIdentity, ca: Some(ca.into()), ..self }
    }

    /// The same options with another time after which a connection that does not answer is given up: 5 s unless told
    /// otherwise.
    ///
    /// A verb waits three seconds at most for the row of its key. The time should be above that, or a row that a
    /// stranger has locked costs the connection instead of one answer.
    #[must_use]
    pub fn with_response_timeout(self, timeout: Duration) -> Self {
        Self { response_timeout: timeout, ..self }
    }

    /// The same options with another time to connect and log in: 5 s unless told otherwise.
    #[must_use]
    pub fn with_connect_timeout(self, timeout: Duration) -> Self {
        Self { connect_timeout: timeout, ..self }
    }

    /// The same options with another way to keep locks: as rows with deadlines, unless told otherwise.
    #[must_use]
    pub fn with_dialect(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }

    /// The options that a URL names: `mysql://[user[:password]@]host[:port]/database` or the same with `mariadb://`;
    /// then `?ssl-mode=disabled|preferred|required|verify-ca|verify-identity`, `ssl-ca=/path.pem`, `socket=/path`,
    /// `dialect=table|get_lock`, `timeout-ms=N` and `connect-timeout-ms=N`. Bytes outside the usual are written `%2f`.
    ///
    /// # Errors
    /// [`MySqlUrlError`] names the part that cannot be read, and never a password.
    pub fn from_url(url: &str) -> Result<Self, MySqlUrlError> {
        let scheme = url.split(':').next().unwrap_or_default();
        let rest = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
        let rest = rest.filter(|_| matches!(scheme, "mysql" | "mariadb"));
        let rest = rest.ok_or_else(|| MySqlUrlError::Scheme(scheme.to_owned()))?;
        if rest.contains('#') {
            return Err(MySqlUrlError::Fragment);
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        query.split('&').filter(|pair| !pair.is_empty()).try_fold(server(place)?, option)
    }

    pub(crate) fn address(&self) -> String {
        match &self.address {
            Address::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Address::Tcp { host, port } => format!("{host}:{port}"),
            Address::Unix(path) => path.display().to_string(),
        }
    }

    /// The same for the client.
    pub(crate) fn of_client(&self) -> MySqlConnectOptions {
        let options = MySqlConnectOptions::new().username(&self.user).database(&self.database);
        let options = match &self.address {
            Address::Tcp { host, port } => options.host(host).port(*port),
            Address::Unix(path) => options.socket(path),
        };
        let options = match &self.password {
            Some(password) => options.password(password),
            None => options,
        };
        let options = options.ssl_mode(match self.tls {
            Tls::Disabled => MySqlSslMode::Disabled,
            Tls::Preferred => MySqlSslMode::Preferred,
            Tls::Required => MySqlSslMode::Required,
            Tls::VerifyCa => MySqlSslMode::VerifyCa,
            Tls::VerifyIdentity => MySqlSslMode::VerifyIdentity,
        });
        match &self.ca {
            Some(ca) => options.ssl_ca(ca),
            None => options,
        }
    }
}

impl fmt::Debug for MySqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlOptions")
            .field("address", &self.address())
            .field("tls", &self.tls)
            .field("ca", &self.ca)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("database", &self.database)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

fn server(place: &str) -> Result<MySqlOptions, MySqlUrlError> {
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (login, address) = match authority.rsplit_once('@') {
        Some((login, address)) => (Some(login), address),
        None => (None, authority),
    };
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(|| bad_port(port))?)),
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let host = percent_decoded_text(host).filter(|host| !host.is_empty()).ok_or(MySqlUrlError::Host)?;
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| bad_port(port))?,
        None => 3306,
    };
    let database =
        percent_decoded_text(database).filter(|name| !name.is_empty()).ok_or(MySqlUrlError::Database)?;
    let options = MySqlOptions::tcp(host, port, database);
    let Some(login) = login else { return Ok(options) };
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(percent_decoded_text(password).ok_or(MySqlUrlError::Login)?)),
        None => (login, None),
    };
    let user = percent_decoded_text(user).filter(|user| !user.is_empty()).ok_or(MySqlUrlError::Login)?;
    Ok(options.with_login(user, password))
}

/// What stands where a port should be is a password whose host was forgotten, unless it has digits only.
fn bad_port(port: &str) -> MySqlUrlError {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    MySqlUrlError::Port(if digits { port.to_owned() } else { "***".to_owned() })
}

fn option(options: MySqlOptions, pair: &str) -> Result<MySqlOptions, MySqlUrlError> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let bad = || MySqlUrlError::Value { option: name.to_owned(), value: value.to_owned() };
    let millis = || url::millis(value).ok_or_else(bad);
    let path = || {
        percent_decoded_text(value)
            .map(PathBuf::from)
            .filter(|path| Path::new(path).is_absolute())
            .ok_or_else(bad)
    };
    Ok(match name {
        "ssl-mode" | "sslmode" => {
            let tls = match &*value.to_ascii_lowercase().replace('_', "-") {
                "disabled" => Tls::Disabled,
                "preferred" => Tls::Preferred,
                "required" => Tls::Required,
                "verify-ca" => Tls::VerifyCa,
                "verify-identity" => Tls::VerifyIdentity,
                _ => return Err(bad()),
            };
            options.with_tls(tls)
        }
        "ssl-ca" | "ca" => {
            let named = options.tls == Tls::VerifyCa;
            let options = options.with_ca(path()?);
            if named { options.with_tls(Tls::VerifyCa) } else { options }
        }
        "socket" => MySqlOptions { address: Address::Unix(path()?), ..options },
        "timeout-ms" => options.with_response_timeout(millis()?),
        "connect-timeout-ms" => options.with_connect_timeout(millis()?),
        "dialect" if value == "table" => options.with_dialect(Dialect::Table),
        "dialect" if value == "get_lock" => options.with_dialect(Dialect::GetLock),
        "dialect" => return Err(bad()),
        _ => return Err(MySqlUrlError::Option(name.to_owned())),
    })
}

/// Why a URL is not one of a MariaDB or MySQL server. Never shows a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MySqlUrlError {
    /// It begins with something else.
    #[error("{0:?} is no scheme of a MariaDB or MySQL server: write mysql://host/database")]
    Scheme(String),
    /// The host is missing or has a broken escape.
    #[error("a MySQL URL needs a host: write mysql://host:3306/database")]
    Host,
    /// The port is no port.
    #[error("{0:?} is no port: write a number from 1 to 65535, or nothing for 3306")]
    Port(String),
    /// The database is missing or has a broken escape.
    #[error("a MySQL URL needs a database, in which the tables of tenure are: write mysql://host/database")]
    Database,
    /// User or password has a broken escape.
    #[error(
        "user and password cannot be read: write mysql://user:password@host/database, with % as %25, @ as %40 and / \
         as %2f"
    )]
    Login,
    /// It has a fragment.
    #[error("a MySQL URL has no fragment: write # as %23")]
    Fragment,
    /// An option is unknown.
    #[error(
        "a MySQL URL has no option {0:?}: it has ssl-mode, ssl-ca, socket, dialect, timeout-ms and connect-timeout-ms"
    )]
    Option(String),
    /// An option has an unknown value.
    #[error("{value:?} is no value for {option} in this MySQL URL: see docs/engines/mysql.md")]
    Value {
        /// The option.
        option: String,
        /// Its value.
        value: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_server_login_database_and_terms() {
        let options = MySqlOptions::from_url("mysql://db/locks").unwrap();
        assert_eq!(options, MySqlOptions::tcp("db", 3306, "locks"));
        let options =
            MySqlOptions::from_url("mariadb://app:p%40ss@[::1]:7000/a?ssl-ca=/etc/ca.pem&timeout-ms=2500")
                .unwrap();
        let expected = MySqlOptions::tcp("::1", 7000, "a")
            .with_ca("/etc/ca.pem")
            .with_login("app", Some("p@ss".into()))
            .with_response_timeout(Duration::from_millis(2500));
        assert_eq!(options, expected);
        let options = MySqlOptions::from_url("mysql://app@h/a?ssl-mode=VERIFY_CA&ca=/ca.pem").unwrap();
        assert_eq!((options.tls, options.ca), (Tls::VerifyCa, Some("/ca.pem".into())));
        let options = MySqlOptions::from_url("mysql://h/a?dialect=get_lock").unwrap();
        assert_eq!(options, MySqlOptions::tcp("h", 3306, "a").with_dialect(Dialect::GetLock));
        let options = MySqlOptions::from_url("mysql://h/a?socket=/run/m.sock").unwrap();
        assert_eq!(options, MySqlOptions::unix("/run/m.sock", "a"));
    }

    #[test]
    fn a_bad_url_is_refused_by_the_part_that_is_bad() {
        let refused = |url: &str| MySqlOptions::from_url(url).unwrap_err();
        assert_eq!(refused("http://x"), MySqlUrlError::Scheme("http".into()));
        assert_eq!(refused("mysql:x"), MySqlUrlError::Scheme("mysql".into()));
        assert_eq!(refused("mysql:///a"), MySqlUrlError::Host);
        assert_eq!(refused("mysql://h"), MySqlUrlError::Database);
        for (port, shown) in [("0", "0"), ("65536", "65536"), ("x", "***"), ("", "")] {
            assert_eq!(refused(&format!("mysql://h:{port}/a")), MySqlUrlError::Port(shown.into()));
        }
        assert_eq!(refused("mysql://u:%zz@h/a"), MySqlUrlError::Login);
        assert_eq!(refused("mysql://h/a?speed=high"), MySqlUrlError::Option("speed".into()));
        assert_eq!(refused("mysql://h/a#x"), MySqlUrlError::Fragment);
        for (option, value) in [("ssl-mode", "on"), ("timeout-ms", "0"), ("dialect", "x"), ("ca", "x")] {
            let error = MySqlUrlError::Value { option: option.into(), value: value.into() };
            assert_eq!(refused(&format!("mysql://h/a?{option}={value}")), error);
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let options = MySqlOptions::from_url("mysql://u:hunter2@h/a").unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
        for url in
            ["mysql://u:hunter2@h:x/a", "mysql://u:hunter2@", "mysql://u:hunter2", "nope://u:hunter2@h"]
        {
            let error = MySqlOptions::from_url(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}");
        }
    }
}
