//! Which servers, how to get in and what to insist on, from code or from a URL.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tenure_core::engine::url::{self, percent_decoded_text};

/// Where an [`Etcd`](crate::Etcd) engine keeps its lines, and on what it insists.
///
/// ```
/// use tenure_etcd::EtcdOptions;
///
/// let options = EtcdOptions::from_url("etcd://app:secret@one:2379,two:2379/locks")?;
/// assert!(!format!("{options:?}").contains("secret"));
/// # Ok::<(), tenure_etcd::EtcdUrlError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdOptions {
    pub(crate) servers: Vec<Server>,
    pub(crate) tls: Option<Tls>,
    pub(crate) login: Option<Login>,
    pub(crate) root: String,
    pub(crate) layout: EtcdLayout,
    pub(crate) longer_ttl: LongerTtl,
    pub(crate) response_timeout: Duration,
    pub(crate) connect_timeout: Duration,
}

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// How the servers prove who they are, and how we do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Whom to trust instead of the system's authorities.
    pub(crate) ca: Option<PathBuf>,
    /// Our own certificate.
    pub(crate) cert: Option<PathBuf>,
    /// The key of our own certificate.
    pub(crate) key: Option<PathBuf>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// How lines are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EtcdLayout {
    /// In tenure's own keys, with every mode.
    #[default]
    Tenure,
    /// As etcd's `concurrency` package, its Lock service and `etcdctl lock` do: exclusive locks only, and each side
    /// keeps the other out.
    Concurrency,
}

/// What to do when the servers grant a lease of more than four times the length that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LongerTtl {
    /// Refuse it: a key would stay taken for much longer than its user thinks.
    #[default]
    Refuse,
    /// Take it.
    Allow,
}

impl EtcdOptions {
    /// The options of a cluster with a server at this host name or address and port.
    #[must_use]
    pub fn server(host: impl Into<String>, port: u16) -> Self {
        Self {
            servers: vec![Server { host: host.into(), port }],
            tls: None,
            login: None,
            root: "tenure".to_owned(),
            layout: EtcdLayout::default(),
            longer_ttl: LongerTtl::default(),
            response_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(2),
        }
    }

    /// The same options with one more server of the same cluster.
    #[must_use]
    pub fn and_server(mut self, host: impl Into<String>, port: u16) -> Self {
        self.servers.push(Server { host: host.into(), port });
        self
    }

    /// The same options over TLS, with servers that an authority of the system vouches for.
    #[must_use]
    pub fn with_tls(self) -> Self {
        Self { tls: Some(self.tls.unwrap_or_default()), ..self }
    }

    /// The same options over TLS, with servers that an authority in this PEM file vouches for.
    #[must_use]
    pub fn with_ca(self, ca: impl Into<PathBuf>) -> Self {
        Self { tls: Some(Tls { ca: Some(ca.into()), ..self.tls.unwrap_or_default() }), ..self }
    }

    /// The same options over TLS, with a certificate of our own and its key, both PEM files.
    #[must_use]
    pub fn with_certificate(self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let (cert, key) = (Some(cert.into()), Some(key.into()));
        Self { tls: Some(Tls { cert, key, ..self.tls.unwrap_or_default() }), ..self }
    }

    /// The same options with a user and a password.
    #[must_use]
    pub fn with_login(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { login: Some(Login { user: user.into(), password: password.into() }), ..self }
    }

    /// The same options with keys that begin with `root` and a slash instead of `tenure/`.
    #[must_use]
    pub fn with_root(self, root: impl Into<String>) -> Self {
        Self { root: root.into(), ..self }
    }

    /// The same options with another layout.
    #[must_use]
    pub fn with_layout(self, layout: EtcdLayout) -> Self {
        Self { layout, ..self }
    }

    /// The same options with another answer to leases that are much longer than asked for.
    #[must_use]
    pub fn with_longer_ttl(self, longer_ttl: LongerTtl) -> Self {
        Self { longer_ttl, ..self }
    }

    /// The same options with another time after which a connection that does not answer is given up, and another
    /// server is asked: 2 s unless told otherwise.
    #[must_use]
    pub fn with_response_timeout(self, timeout: Duration) -> Self {
        Self { response_timeout: timeout, ..self }
    }

    /// The same options with another time to connect to one server and log in: 2 s unless told otherwise.
    #[must_use]
    pub fn with_connect_timeout(self, timeout: Duration) -> Self {
        Self { connect_timeout: timeout, ..self }
    }

    /// The options that a URL names: `etcd://[user:password@]host[:port][,host[:port]…][/root]`, the same with
    /// `etcds://` for TLS; then `?layout=concurrency`, `allow=longer-ttl`, `timeout-ms=N`, `connect-timeout-ms=N`,
    /// `ca=/path.pem`, and `cert=/path.pem&key=/path.pem`. Bytes outside the usual are written `%2f`.
    ///
    /// # Errors
    /// [`EtcdUrlError`] names the part that cannot be read, and never a password.
    pub fn from_url(url: &str) -> Result<Self, EtcdUrlError> {
        let scheme = url.split(':').next().unwrap_or_default();
        let rest = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
        let rest = rest.ok_or_else(|| EtcdUrlError::Scheme(scheme.to_owned()))?;
        if rest.contains('#') {
            return Err(EtcdUrlError::Fragment);
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let options = match scheme {
            "etcd" => cluster(place)?,
            "etcds" => cluster(place)?.with_tls(),
            _ => return Err(EtcdUrlError::Scheme(scheme.to_owned())),
        };
        let options = query.split('&').filter(|pair| !pair.is_empty()).try_fold(options, option)?;
        match &options.tls {
            Some(tls) if tls.cert.is_some() != tls.key.is_some() => Err(EtcdUrlError::Certificate),
            _ => Ok(options),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("servers", &self.servers)
            .field("tls", &self.tls)
            .field("user", &self.login.as_ref().map(|login| &login.user))
            .field("root", &self.root)
            .field("layout", &self.layout)
            .field("longer_ttl", &self.longer_ttl)
            .finish_non_exhaustive()
    }
}

fn cluster(place: &str) -> Result<EtcdOptions, EtcdUrlError> {
    let (authority, root) = place.split_once('/').unwrap_or((place, ""));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    let servers = hosts.split(',').map(server).collect::<Result<_, _>>()?;
    let mut options = EtcdOptions { servers, ..EtcdOptions::server("", 0) };
    let root = root.strip_suffix('/').unwrap_or(root);
    if !root.is_empty() {
        let root = percent_decoded_text(root).filter(|root| !root.chars().any(char::is_control));
        options.root = root.ok_or(EtcdUrlError::Root)?;
    }
    if let Some(login) = login {
        let (user, password) = login.split_once(':').ok_or(EtcdUrlError::Login)?;
        let user = percent_decoded_text(user).filter(|user| !user.is_empty()).ok_or(EtcdUrlError::Login)?;
        options = options.with_login(user, percent_decoded_text(password).ok_or(EtcdUrlError::Login)?);
    }
    Ok(options)
}

fn server(address: &str) -> Result<Server, EtcdUrlError> {
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(|| bad_port(port))?)),
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let host = percent_decoded_text(host).filter(|host| !host.is_empty()).ok_or(EtcdUrlError::Host)?;
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| bad_port(port))?,
        None => 2379,
    };
    Ok(Server { host, port })
}

/// What stands where a port should be is a password whose host was forgotten, unless it has digits only.
fn bad_port(port: &str) -> EtcdUrlError {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    EtcdUrlError::Port(if digits { port.to_owned() } else { "***".to_owned() })
}

fn option(options: EtcdOptions, pair: &str) -> Result<EtcdOptions, EtcdUrlError> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let bad = || EtcdUrlError::Value { option: name.to_owned(), value: value.to_owned() };
    let millis = || url::millis(value).ok_or_else(bad);
    let path = |tls: &Option<Tls>| match percent_decoded_text(value) {
        Some(path) if tls.is_some() && !path.is_empty() => Ok(PathBuf::from(path)),
        _ => Err(bad()),
    };
    Ok(match name {
        "layout" if value == "concurrency" => options.with_layout(EtcdLayout::Concurrency),
        "layout" if value == "tenure" => options.with_layout(EtcdLayout::Tenure),
        "allow" if value == "longer-ttl" => options.with_longer_ttl(LongerTtl::Allow),
        "timeout-ms" => options.with_response_timeout(millis()?),
        "connect-timeout-ms" => options.with_connect_timeout(millis()?),
        "ca" => {
            let ca = path(&options.tls)?;
            options.with_ca(ca)
        }
        "cert" | "key" => {
            let path = path(&options.tls)?;
            let mut tls = options.tls.unwrap_or_default();
            *(if name == "cert" { &mut tls.cert } else { &mut tls.key }) = Some(path);
            EtcdOptions { tls: Some(tls), ..options }
        }
        "layout" | "allow" => return Err(bad()),
        _ => return Err(EtcdUrlError::Option(name.to_owned())),
    })
}

/// Why a URL is not one of an etcd cluster. Never shows a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdUrlError {
    /// It begins with something else.
    #[error("{0:?} is no scheme of an etcd cluster: write etcd://host or etcds://host")]
    Scheme(String),
    /// A host is missing or has a broken escape.
    #[error("an etcd URL needs a host: write etcd://host:2379, or several with commas between them")]
    Host,
    /// A port is no port.
    #[error("{0:?} is no port: write a number from 1 to 65535, or nothing for 2379")]
    Port(String),
    /// The root of all keys has a broken escape or a control character.
    #[error("the path of an etcd URL is what all keys begin with: write for instance etcd://host/locks")]
    Root,
    /// User and password cannot be told apart, or have a broken escape.
    #[error(
        "user and password cannot be read: write etcd://user:password@host, with % as %25, @ as %40 and / as %2f"
    )]
    Login,
    /// Only one of our own certificate and its key was given.
    #[error("a certificate needs its key: write cert=/path.pem&key=/path.pem")]
    Certificate,
    /// It has a fragment.
    #[error("an etcd URL has no fragment: write # as %23")]
    Fragment,
    /// An option is unknown.
    #[error(
        "an etcd URL has no option {0:?}: it has layout, allow, timeout-ms, connect-timeout-ms, ca, cert and key"
    )]
    Option(String),
    /// An option has an unknown value.
    #[error("{value:?} is no value for {option} in this etcd URL: see docs/engines/etcd.md")]
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
    fn a_url_names_servers_login_root_and_terms() {
        let options = EtcdOptions::from_url("etcd://db").unwrap();
        assert_eq!(options, EtcdOptions::server("db", 2379));
        let url = "etcds://app:p%40ss@[::1]:7000,b/locks/x/?ca=/etc/ca.pem&timeout-ms=250&cert=/c&key=/k";
        let expected = EtcdOptions::server("::1", 7000)
            .and_server("b", 2379)
            .with_ca("/etc/ca.pem")
            .with_certificate("/c", "/k")
            .with_login("app", "p@ss")
            .with_root("locks/x")
            .with_response_timeout(Duration::from_millis(250));
        assert_eq!(EtcdOptions::from_url(url).unwrap(), expected);
        let options = EtcdOptions::from_url("etcd://h?layout=concurrency&allow=longer-ttl").unwrap();
        let expected = EtcdOptions::server("h", 2379).with_layout(EtcdLayout::Concurrency);
        assert_eq!(options, expected.with_longer_ttl(LongerTtl::Allow));
    }

    #[test]
    fn a_bad_url_is_refused_by_the_part_that_is_bad() {
        let refused = |url: &str| EtcdOptions::from_url(url).unwrap_err();
        assert_eq!(refused("http://x"), EtcdUrlError::Scheme("http".into()));
        assert_eq!(refused("etcd:x"), EtcdUrlError::Scheme("etcd".into()));
        for hostless in ["etcd://", "etcd://a,,b", "etcd://a,"] {
            assert_eq!(refused(hostless), EtcdUrlError::Host, "{hostless}");
        }
        for (port, shown) in [("0", "0"), ("65536", "65536"), ("x", "***"), ("", "")] {
            assert_eq!(refused(&format!("etcd://h:{port}/0")), EtcdUrlError::Port(shown.into()));
        }
        assert_eq!(refused("etcd://h/a%0ab"), EtcdUrlError::Root);
        assert_eq!(refused("etcd://secret@h"), EtcdUrlError::Login);
        assert_eq!(refused("etcd://u:%zz@h"), EtcdUrlError::Login);
        assert_eq!(refused("etcds://h?cert=/c"), EtcdUrlError::Certificate);
        assert_eq!(refused("etcd://h?speed=high"), EtcdUrlError::Option("speed".into()));
        assert_eq!(refused("etcd://h#x"), EtcdUrlError::Fragment);
        for (option, value) in [("layout", "x"), ("timeout-ms", "0"), ("allow", "all"), ("ca", "/x")] {
            let error = EtcdUrlError::Value { option: option.into(), value: value.into() };
            assert_eq!(refused(&format!("etcd://h?{option}={value}")), error);
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let options = EtcdOptions::from_url("etcd://u:hunter2@h").unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
        for url in ["etcd://u:hunter2@h:x", "etcd://u:hunter2@", "etcd://u:hunter2", "nope://u:hunter2@h"] {
            let error = EtcdOptions::from_url(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}");
        }
    }
}
