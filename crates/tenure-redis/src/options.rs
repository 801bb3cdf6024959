//! Which server, how to get in and what to insist on, from code or from a URL.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tenure_core::engine::url::percent_decoded;

/// Where a [`Redis`](crate::Redis) engine keeps its lines, and on what it insists.
///
/// ```
/// use tenure_redis::RedisOptions;
///
/// let options = RedisOptions::from_url("redis://app:secret@db.example:6380/2?acks=1")?;
/// assert_eq!(options.acks(), 1);
/// assert!(!format!("{options:?}").contains("secret"));
/// # Ok::<(), tenure_redis::RedisUrlError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RedisOptions {
    pub(crate) address: Address,
    pub(crate) tls: Option<Tls>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: u32,
    pub(crate) eviction: Eviction,
    pub(crate) acks: u32,
    pub(crate) acks_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) connect_timeout: Duration,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// How the server proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Whom to trust instead of the system's authorities.
    pub(crate) ca: Option<PathBuf>,
}

/// Whether to work on a server that may evict locks when its memory is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Eviction {
    /// Refuse it: an evicted lock has two holders.
    #[default]
    Refuse,
    /// Work on it. Exclusion is then best effort, and only the token refuses the loser.
    Allow,
}

impl RedisOptions {
    /// The options of a server at a host name or address and a port.
    #[must_use]
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::at(Address::Tcp { host: host.into(), port })
    }

    /// The options of a server behind a Unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::at(Address::Unix(path.into()))
    }

    fn at(address: Address) -> Self {
        Self {
            address,
            tls: None,
            user: None,
            password: None,
            database: 0,
            eviction: Eviction::default(),
            acks: 0,
            acks_timeout: Duration::from_millis(500),
            response_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(2),
        }
    }

    /// The same options over TLS, with a server that an authority of the system vouches for.
    #[must_use]
    pub fn with_tls(self) -> Self {
        Self { tls: Some(Tls::default()), ..self }
    }

    /// The same options over TLS, with a server that an authority in this PEM file vouches for.
    #[must_use]
    pub fn with_ca(self, ca: impl Into<PathBuf>) -> Self {
        Self { tls: Some(Tls { ca: Some(ca.into()) }), ..self }
    }

    /// The same options with a user (none: `default`) and a password.
    #[must_use]
    pub fn with_login(self, user: Option<String>, password: impl Into<String>) -> Self {
        Self { user, password: Some(password.into()), ..self }
    }

    /// The same options with another numbered database.
    #[must_use]
    pub fn with_database(self, database: u32) -> Self {
        Self { database, ..self }
    }

    /// The same options with another answer to eviction.
    #[must_use]
    pub fn with_eviction(self, eviction: Eviction) -> Self {
        Self { eviction, ..self }
    }

    /// The same options with grants that count only when `acks` replicas have them within `timeout`.
    ///
    /// A grant that too few acknowledge is undone on the primary, and the attempt is an error. This makes it less
    /// likely that a failover forgets a hold; it cannot make it impossible.
    #[must_use]
    pub fn with_acks(self, acks: u32, timeout: Duration) -> Self {
        Self { acks, acks_timeout: timeout, ..self }
    }

    /// The same options with another time after which a connection that does not answer is given up: 1 s unless told
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

    /// By how many replicas a grant must be acknowledged.
    #[must_use]
    pub fn acks(&self) -> u32 {
        self.acks
    }

    /// The options that a URL names: `redis://[[user]:password@]host[:port][/database]`, the same with `rediss://` for
    /// TLS, or `redis+unix:///path/to/socket`; then `?acks=N`, `acks-timeout-ms=N`, `timeout-ms=N`,
    /// `connect-timeout-ms=N`, `allow=eviction`, `database=N` and `ca=/path.pem`. Bytes outside the usual are
    /// written `%2f`.
    ///
    /// # Errors
    /// [`RedisUrlError`] names the part that cannot be read, and never a password.
    pub fn from_url(url: &str) -> Result<Self, RedisUrlError> {
        let scheme = url.split(':').next().unwrap_or_default();
        let rest = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
        let rest = rest.ok_or_else(|| RedisUrlError::Scheme(scheme.to_owned()))?;
        if rest.contains('#') {
            return Err(RedisUrlError::Fragment);
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let options = match scheme {
            "redis" => server(place)?,
            "rediss" => server(place)?.with_tls(),
            "redis+unix" => socket(place)?,
            _ => return Err(RedisUrlError::Scheme(scheme.to_owned())),
        };
        query.split('&').filter(|pair| !pair.is_empty()).try_fold(options, option)
    }

    /// How long an answer may take: those behind a `WAIT` wait for it as well.
    pub(crate) fn patience(&self) -> Duration {
        let acks = if self.acks == 0 { Duration::ZERO } else { self.acks_timeout };
        self.response_timeout.saturating_add(acks)
    }

    pub(crate) fn address(&self) -> String {
        match &self.address {
            Address::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Address::Tcp { host, port } => format!("{host}:{port}"),
            Address::Unix(path) => path.display().to_string(),
        }
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("address", &self.address())
            .field("tls", &self.tls)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("database", &self.database)
            .field("eviction", &self.eviction)
            .field("acks", &self.acks)
            .finish_non_exhaustive()
    }
}

fn server(place: &str) -> Result<RedisOptions, RedisUrlError> {
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
    let host = decoded(host).filter(|host| !host.is_empty()).ok_or(RedisUrlError::Host)?;
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| bad_port(port))?,
        None => 6379,
    };
    let mut options = RedisOptions::tcp(host, port);
    if !database.is_empty() {
        options.database = database.parse().map_err(|_| RedisUrlError::Database(database.to_owned()))?;
    }
    if let Some(login) = login {
        let (user, password) = login.split_once(':').ok_or(RedisUrlError::Login)?;
        let user = decoded(user).ok_or(RedisUrlError::Login)?;
        let password = decoded(password).ok_or(RedisUrlError::Login)?;
        options = options.with_login((!user.is_empty()).then_some(user), password);
    }
    Ok(options)
}

/// What stands where a port should be is a password whose host was forgotten, unless it has digits only.
fn bad_port(port: &str) -> RedisUrlError {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    RedisUrlError::Port(if digits { port.to_owned() } else { "***".to_owned() })
}

fn socket(place: &str) -> Result<RedisOptions, RedisUrlError> {
    let path = decoded(place).filter(|path| Path::new(path).is_absolute());
    path.map(RedisOptions::unix).ok_or_else(|| RedisUrlError::Socket(place.to_owned()))
}

fn option(options: RedisOptions, pair: &str) -> Result<RedisOptions, RedisUrlError> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let bad = || RedisUrlError::Value { option: name.to_owned(), value: value.to_owned() };
    let number = || value.parse::<u32>().map_err(|_| bad());
    let millis = || match number()? {
        0 => Err(bad()),
        millis => Ok(Duration::from_millis(millis.into())),
    };
    Ok(match name {
        "acks" => RedisOptions { acks: number()?, ..options },
        "acks-timeout-ms" => RedisOptions { acks_timeout: millis()?, ..options },
        "timeout-ms" => options.with_response_timeout(millis()?),
        "connect-timeout-ms" => options.with_connect_timeout(millis()?),
        "database" => RedisOptions { database: number()?, ..options },
        "allow" if value == "eviction" => options.with_eviction(Eviction::Allow),
        "ca" if options.tls.is_some() && !value.is_empty() => {
            options.with_ca(decoded(value).ok_or_else(bad)?)
        }
        "allow" | "ca" => return Err(bad()),
        _ => return Err(RedisUrlError::Option(name.to_owned())),
    })
}

/// The text that percent-encoded text stands for; none when an escape is broken.
fn decoded(text: &str) -> Option<String> {
    String::from_utf8(percent_decoded(text)?).ok()
}

/// Why a URL is not one of a Redis server. Never shows a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisUrlError {
    /// It begins with something else.
    #[error("{0:?} is no scheme of a Redis server: write redis://host, rediss://host or redis+unix:///path")]
    Scheme(String),
    /// The host is missing or has a broken escape.
    #[error("a Redis URL needs a host: write redis://host:6379")]
    Host,
    /// The port is no port.
    #[error("{0:?} is no port: write a number from 1 to 65535, or nothing for 6379")]
    Port(String),
    /// The database is no number.
    #[error("{0:?} is no database: Redis numbers them, write for instance redis://host/0")]
    Database(String),
    /// User and password cannot be told apart, or have a broken escape.
    #[error(
        "user and password cannot be read: write redis://user:password@host, with % as %25, @ as %40 and / as %2f"
    )]
    Login,
    /// The path of the socket is not absolute.
    #[error("{0:?} is no path of a socket: write redis+unix:///absolute/path")]
    Socket(String),
    /// It has a fragment.
    #[error("a Redis URL has no fragment: write # as %23")]
    Fragment,
    /// An option is unknown.
    #[error(
        "a Redis URL has no option {0:?}: it has acks, acks-timeout-ms, timeout-ms, connect-timeout-ms, \
         database, allow and ca"
    )]
    Option(String),
    /// An option has an unknown value.
    #[error("{value:?} is no value for {option} in this Redis URL: see docs/engines/redis.md")]
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
        let options = RedisOptions::from_url("redis://db").unwrap();
        assert_eq!(options, RedisOptions::tcp("db", 6379));
        let options =
            RedisOptions::from_url("rediss://app:p%40ss@[::1]:7000/3?ca=/etc/ca.pem&timeout-ms=250").unwrap();
        let expected = RedisOptions::tcp("::1", 7000)
            .with_ca("/etc/ca.pem")
            .with_login(Some("app".into()), "p@ss")
            .with_database(3)
            .with_response_timeout(Duration::from_millis(250));
        assert_eq!(options, expected);
        let options =
            RedisOptions::from_url("redis://:pw@h?acks=2&acks-timeout-ms=100&allow=eviction").unwrap();
        let expected = RedisOptions::tcp("h", 6379).with_login(None, "pw").with_eviction(Eviction::Allow);
        assert_eq!(options, expected.with_acks(2, Duration::from_millis(100)));
        let options = RedisOptions::from_url("redis+unix:///run/redis.sock?database=1").unwrap();
        assert_eq!(options, RedisOptions::unix("/run/redis.sock").with_database(1));
    }

    #[test]
    fn a_bad_url_is_refused_by_the_part_that_is_bad() {
        let refused = |url: &str| RedisOptions::from_url(url).unwrap_err();
        assert_eq!(refused("http://x"), RedisUrlError::Scheme("http".into()));
        assert_eq!(refused("redis:x"), RedisUrlError::Scheme("redis".into()));
        assert_eq!(refused("redis://"), RedisUrlError::Host);
        for (port, shown) in [("0", "0"), ("65536", "65536"), ("x", "***"), ("", "")] {
            assert_eq!(refused(&format!("redis://h:{port}/0")), RedisUrlError::Port(shown.into()));
        }
        assert_eq!(refused("redis://h/zero"), RedisUrlError::Database("zero".into()));
        assert_eq!(refused("redis://secret@h"), RedisUrlError::Login);
        assert_eq!(refused("redis://u:%zz@h"), RedisUrlError::Login);
        assert_eq!(refused("redis+unix://relative"), RedisUrlError::Socket("relative".into()));
        assert_eq!(refused("redis://h?speed=high"), RedisUrlError::Option("speed".into()));
        assert_eq!(refused("redis://h#x"), RedisUrlError::Fragment);
        for (option, value) in [("acks", "many"), ("timeout-ms", "0"), ("allow", "all"), ("ca", "/x")] {
            let error = RedisUrlError::Value { option: option.into(), value: value.into() };
            assert_eq!(refused(&format!("redis://h?{option}={value}")), error);
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let options = RedisOptions::from_url("redis://u:hunter2@h").unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
        for url in [
            "redis://u:hunter2@h:x",
            "redis://u:hunter2@h/x",
            "redis://u:hunter2@",
            "redis://u:hunter2",
            "nope://u:hunter2@h",
        ] {
            let error = RedisOptions::from_url(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}");
        }
    }
}
