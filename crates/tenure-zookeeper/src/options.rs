//! Which ensemble, how to get in and what to insist on, from code or from a URL.

use std::fmt;
use std::time::Duration;

use tenure_core::engine::url::{self, percent_decoded_text};

use crate::Layout;

/// Where a [`Zookeeper`](crate::Zookeeper) engine keeps its lines, and on what it insists.
///
/// ```
/// use tenure_zookeeper::ZookeeperOptions;
///
/// let options = ZookeeperOptions::from_url("zookeeper://app:secret@zk1,zk2:2182,zk3/locks?session-ms=15000")?;
/// assert_eq!(options.session().as_secs(), 15);
/// assert!(!format!("{options:?}").contains("secret"));
/// # Ok::<(), tenure_zookeeper::ZookeeperUrlError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ZookeeperOptions {
    /// As the client library reads them.
    pub(crate) servers: String,
    /// An absolute path; `/` for none.
    pub(crate) chroot: String,
    pub(crate) login: Option<(String, String)>,
    pub(crate) session: Duration,
    pub(crate) terms: Terms,
    pub(crate) layout: Layout,
    pub(crate) connect_timeout: Duration,
}

/// Whether a claim may be granted by a session that lasts much longer than the TTL it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Terms {
    /// Refuse a TTL below a quarter of the session's timeout: the key of a holder that vanished would stay taken for
    /// much longer than was asked for.
    #[default]
    Near,
    /// Any TTL. The holder counts on no more than it asked for; the key stays taken for up to a session's timeout.
    Any,
}

impl ZookeeperOptions {
    /// The options of an ensemble: `host:port` for each server, apart by commas.
    #[must_use]
    pub fn new(servers: impl Into<String>) -> Self {
        Self {
            servers: servers.into(),
            chroot: "/".to_owned(),
            login: None,
            session: Duration::from_secs(30),
            terms: Terms::default(),
            layout: Layout::default(),
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// The same options below a node, which must exist.
    #[must_use]
    pub fn with_chroot(self, chroot: impl Into<String>) -> Self {
        Self { chroot: chroot.into(), ..self }
    }

    /// The same options with a login by digest. All nodes that are made are then for this user alone.
    #[must_use]
    pub fn with_login(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { login: Some((user.into(), password.into())), ..self }
    }

    /// The same options with another timeout of the session to ask for: 30 s unless told otherwise.
    ///
    /// The ensemble answers with one between 2 and 20 of its ticks, unless it is configured otherwise; what it answers
    /// is what counts. A holder may be paused for two thirds of it, and its key is free after all of it.
    #[must_use]
    pub fn with_session(self, timeout: Duration) -> Self {
        Self { session: timeout, ..self }
    }

    /// The same options with another answer to TTLs that are short for the session.
    #[must_use]
    pub fn with_terms(self, terms: Terms) -> Self {
        Self { terms, ..self }
    }

    /// The same options with another layout of the nodes.
    #[must_use]
    pub fn with_layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// The same options with another time to connect and log in: 5 s unless told otherwise.
    #[must_use]
    pub fn with_connect_timeout(self, timeout: Duration) -> Self {
        Self { connect_timeout: timeout, ..self }
    }

    /// The timeout of the session that is asked for.
    #[must_use]
    pub fn session(&self) -> Duration {
        self.session
    }

    /// The options that a URL names: `zookeeper://[user:password@]host[:port][,host[:port]…][/chroot]`, then
    /// `?session-ms=N`, `connect-timeout-ms=N`, `allow=longer-terms` and `layout=curator` or `curator-rw`. Bytes
    /// outside the usual are written `%2f`.
    ///
    /// # Errors
    /// [`ZookeeperUrlError`] names the part that cannot be read, and never a password.
    pub fn from_url(url: &str) -> Result<Self, ZookeeperUrlError> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url.split(':').next().unwrap_or_default(), ""));
        match scheme {
            "zookeeper" => {}
            "zookeepers" => return Err(ZookeeperUrlError::Tls),
            _ => return Err(ZookeeperUrlError::Scheme(scheme.chars().take(32).collect())),
        }
        if rest.contains('#') {
            return Err(ZookeeperUrlError::Fragment);
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let servers: Vec<_> = hosts.split(',').map(server).collect::<Result<_, _>>()?;
        let mut options = Self::new(servers.join(","));
        let path = percent_decoded_text(path.trim_end_matches('/')).ok_or(ZookeeperUrlError::Chroot)?;
        if !path.is_empty() {
            options.chroot = path;
        }
        if let Some(login) = login {
            let (user, password) = login.split_once(':').ok_or(ZookeeperUrlError::Login)?;
            let user = percent_decoded_text(user).filter(|user| !user.is_empty() && !user.contains(':'));
            let password = percent_decoded_text(password).ok_or(ZookeeperUrlError::Login)?;
            options = options.with_login(user.ok_or(ZookeeperUrlError::Login)?, password);
        }
        query.split('&').filter(|pair| !pair.is_empty()).try_fold(options, option)
    }
}

impl fmt::Debug for ZookeeperOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZookeeperOptions")
            .field("servers", &self.servers)
            .field("chroot", &self.chroot)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("session", &self.session)
            .field("terms", &self.terms)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

fn server(place: &str) -> Result<String, ZookeeperUrlError> {
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => {
            (format!("[{host}]"), port.strip_prefix(':').or((port.is_empty()).then_some("2181")))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (place.to_owned(), Some("2181")),
        },
    };
    let host = percent_decoded_text(&host).filter(|host| !host.is_empty()).ok_or(ZookeeperUrlError::Host)?;
    // What stands where a port should be is a password whose host was forgotten, unless it has digits only.
    let port = port.unwrap_or("***");
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if port != 0 && digits => Ok(format!("{host}:{port}")),
        _ => Err(ZookeeperUrlError::Port(if digits { port.to_owned() } else { "***".to_owned() })),
    }
}

fn option(options: ZookeeperOptions, pair: &str) -> Result<ZookeeperOptions, ZookeeperUrlError> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let bad = || ZookeeperUrlError::Value { option: name.to_owned(), value: value.to_owned() };
    let millis = || url::millis(value).ok_or_else(bad);
    match name {
        "session-ms" => Ok(options.with_session(millis()?)),
        "connect-timeout-ms" => Ok(options.with_connect_timeout(millis()?)),
        "allow" if value == "longer-terms" => Ok(options.with_terms(Terms::Any)),
        "layout" if value == "curator" => Ok(options.with_layout(Layout::Curator)),
        "layout" if value == "curator-rw" => Ok(options.with_layout(Layout::CuratorReadWrite)),
        "layout" if value == "tenure" => Ok(options.with_layout(Layout::Tenure)),
        "allow" | "layout" => Err(bad()),
        "tls" | "ca" => Err(ZookeeperUrlError::Tls),
        _ => Err(ZookeeperUrlError::Option(name.to_owned())),
    }
}

/// Why a URL is not one of a ZooKeeper ensemble. Never shows a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZookeeperUrlError {
    /// It begins with something else.
    #[error("{0:?} is no scheme of a ZooKeeper ensemble: write zookeeper://host1,host2,host3")]
    Scheme(String),
    /// It asks for TLS.
    #[error("TLS with ZooKeeper is not offered: put a tunnel between, and write zookeeper://host")]
    Tls,
    /// A host is missing or has a broken escape.
    #[error("a ZooKeeper URL needs hosts: write zookeeper://host1,host2:2181")]
    Host,
    /// A port is no port.
    #[error("{0:?} is no port: write a number from 1 to 65535, or nothing for 2181")]
    Port(String),
    /// The path has a broken escape.
    #[error("the path after the hosts cannot be read: write % as %25")]
    Chroot,
    /// User and password cannot be told apart, or have a broken escape.
    #[error(
        "user and password cannot be read: write zookeeper://user:password@host, with % as %25, @ as %40 and / as %2f"
    )]
    Login,
    /// It has a fragment.
    #[error("a ZooKeeper URL has no fragment: write # as %23")]
    Fragment,
    /// An option is unknown.
    #[error("a ZooKeeper URL has no option {0:?}: it has session-ms, connect-timeout-ms, allow and layout")]
    Option(String),
    /// An option has an unknown value.
    #[error("{value:?} is no value for {option} in this ZooKeeper URL: see docs/engines/zookeeper.md")]
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

    fn refused(url: &str) -> ZookeeperUrlError {
        ZookeeperOptions::from_url(url).unwrap_err()
    }

    #[test]
    fn a_url_names_servers_login_chroot_and_terms() {
        let options = ZookeeperOptions::from_url("zookeeper://zk").unwrap();
        assert_eq!(options, ZookeeperOptions::new("zk:2181"));
        let options = ZookeeperOptions::from_url(
            "zookeeper://app:p%40ss@[::1]:7000,b,c:1/a/b%2dc/?session-ms=4000&allow=longer-terms&layout=curator",
        );
        let expected = ZookeeperOptions::new("[::1]:7000,b:2181,c:1")
            .with_login("app", "p@ss")
            .with_chroot("/a/b-c")
            .with_session(Duration::from_secs(4))
            .with_terms(Terms::Any)
            .with_layout(Layout::Curator);
        assert_eq!(options.unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert_eq!(refused("redis://h"), ZookeeperUrlError::Scheme("redis".into()));
        assert_eq!(refused("zookeeper:h"), ZookeeperUrlError::Host);
        assert_eq!(refused("zookeepers://h"), ZookeeperUrlError::Tls);
        assert_eq!(refused("zookeeper://h?tls=yes"), ZookeeperUrlError::Tls);
        assert_eq!(refused("zookeeper://"), ZookeeperUrlError::Host);
        assert_eq!(refused("zookeeper://a,,b"), ZookeeperUrlError::Host);
        assert_eq!(refused("zookeeper://a:0"), ZookeeperUrlError::Port("0".into()));
        assert_eq!(refused("zookeeper://a@h"), ZookeeperUrlError::Login);
        assert_eq!(refused("zookeeper://h/%zz"), ZookeeperUrlError::Chroot);
        assert_eq!(refused("zookeeper://h#x"), ZookeeperUrlError::Fragment);
        assert_eq!(refused("zookeeper://h?nope=1"), ZookeeperUrlError::Option("nope".into()));
        for (option, value) in [("session-ms", "0"), ("layout", "kazoo"), ("allow", "all")] {
            let error = ZookeeperUrlError::Value { option: option.into(), value: value.into() };
            assert_eq!(refused(&format!("zookeeper://h?{option}={value}")), error);
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let options = ZookeeperOptions::from_url("zookeeper://u:hunter2@h").unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
        for url in [
            "zookeeper://u:hunter2@h:x",
            "zookeeper://u:hunter2@",
            "zookeeper://u:hunter2",
            "nope://u:hunter2@h",
        ] {
            let error = refused(url);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}");
        }
    }
}
