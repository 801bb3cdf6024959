//! Which servers, how to get in and what to insist on. From a URL: see `url`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::url::{self, RedisUrlError};

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
    pub(crate) acks_on: AcksOn,
    pub(crate) response_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// Whether it is a node of a quorum, which depends on nobody else.
    pub(crate) independent: bool,
}

/// Where to find the server that keeps a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(Node),
    Unix(PathBuf),
    /// The primary that these sentinels know by this name.
    Sentinel {
        sentinels: Vec<Node>,
        primary: String,
        user: Option<String>,
        password: Option<String>,
    },
    /// The cluster of which these nodes are a part.
    Cluster(Vec<Node>),
}

/// One server, by host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Node {
    pub(crate) fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
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

/// Where a replica must have a grant before it acknowledges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AcksOn {
    /// In its memory.
    #[default]
    Memory,
    /// On its disk: it must keep an append-only file, and the server must be 7.2 or newer.
    Disk,
}

impl RedisOptions {
    /// The options of a server at a host name or address and a port.
    #[must_use]
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::at(Address::Tcp(Node::new(host, port)))
    }

    /// The options of a server behind a Unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::at(Address::Unix(path.into()))
    }

    /// The options of the primary that sentinels watch under a name. Any of them may be asked, and need not answer;
    /// name all, for those that are not named are not asked.
    #[must_use]
    pub fn sentinel<H: Into<String>>(
        primary: impl Into<String>,
        sentinels: impl IntoIterator<Item = (H, u16)>,
    ) -> Self {
        let sentinels = sentinels.into_iter().map(|(host, port)| Node::new(host, port)).collect();
        Self::at(Address::Sentinel { sentinels, primary: primary.into(), user: None, password: None })
    }

    /// The options of a cluster of which some nodes are named. One that answers is enough to find the others.
    #[must_use]
    pub fn cluster<H: Into<String>>(nodes: impl IntoIterator<Item = (H, u16)>) -> Self {
        Self::at(Address::Cluster(nodes.into_iter().map(|(host, port)| Node::new(host, port)).collect()))
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
            acks_on: AcksOn::default(),
            response_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(2),
            independent: false,
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

    /// The same options with a user (none: `default`) and a password for the sentinels, who ask for none otherwise.
    /// Changes nothing where there are no sentinels.
    #[must_use]
    pub fn with_sentinel_login(mut self, name: Option<String>, secret: impl Into<String>) -> Self {
        if let Address::Sentinel { user, password, .. } = &mut self.address {
            (*user, *password) = (name, Some(secret.into()));
        }
        self
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

    /// The same options with another answer to where replicas must have a grant.
    #[must_use]
    pub fn with_acks_on(self, acks_on: AcksOn) -> Self {
        Self { acks_on, ..self }
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

    /// The same options for a node of a quorum.
    pub(crate) fn independent(self) -> Self {
        Self { independent: true, ..self }
    }

    /// By how many replicas a grant must be acknowledged.
    #[must_use]
    pub fn acks(&self) -> u32 {
        self.acks
    }

    /// The options that a URL names:
    ///
    /// - `redis://[[user]:password@]host[:port][/database]`: one primary;
    /// - `redis+unix:///path/to/socket`: the same behind a socket;
    /// - `redis+sentinel://[[user]:password@]host[:port],host[:port],…/primary[/database]`: the primary that these
    ///   sentinels know by that name; user and password are those of the primary, and the options `sentinel-user=` and
    ///   `sentinel-password=` those of the sentinels;
    /// - `redis+cluster://[[user]:password@]host[:port],host[:port],…`: a cluster, by some of its nodes;
    ///
    /// with `rediss` instead of `redis` for TLS. Then `?acks=N`, `acks-on=disk`, `acks-timeout-ms=N`, `timeout-ms=N`,
    /// `connect-timeout-ms=N`, `allow=eviction`, `database=N` and `ca=/path.pem`. Bytes outside the usual are written
    /// `%2f`.
    ///
    /// # Errors
    /// [`RedisUrlError`] names the part that cannot be read, and never a password.
    pub fn from_url(url: &str) -> Result<Self, RedisUrlError> {
        url::read(url)
    }

    /// How long an answer may take: those behind a `WAIT` wait for it as well.
    pub(crate) fn patience(&self) -> Duration {
        let acks = if self.acks == 0 { Duration::ZERO } else { self.acks_timeout };
        self.response_timeout.saturating_add(acks)
    }

    pub(crate) fn address(&self) -> String {
        match &self.address {
            Address::Tcp(node) => node.to_string(),
            Address::Unix(path) => path.display().to_string(),
            Address::Sentinel { sentinels, primary, .. } => format!("{primary:?} of {}", listed(sentinels)),
            Address::Cluster(nodes) => format!("the cluster of {}", listed(nodes)),
        }
    }

    /// What leads to one server of several.
    pub(crate) fn of_node(&self, node: &Node) -> Self {
        Self { address: Address::Tcp(node.clone()), ..self.clone() }
    }
}

fn listed(nodes: &[Node]) -> String {
    nodes.iter().map(Node::to_string).collect::<Vec<_>>().join(", ")
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
