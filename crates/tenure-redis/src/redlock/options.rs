//! Which nodes, and on what to insist, from code or from a URL.

use std::time::Duration;

use crate::RedisUrlError;
use crate::options::RedisOptions;

/// How many nodes there may be: fewer are no quorum, and more only cost.
const NODES: [usize; 4] = [3, 5, 7, 9];

/// The longest term of a lock unless told otherwise.
const LONGEST: Duration = Duration::from_secs(60);

/// Where a [`Redlock`](crate::Redlock) keeps its lines: an odd number of Redis primaries that know nothing of each
/// other.
///
/// ```
/// use tenure_redis::RedlockOptions;
///
/// let url = "redlock:redis://a.example,redis://b.example,redis://c.example?longest-ttl-ms=30000";
/// assert_eq!(RedlockOptions::from_url(url)?.nodes(), 3);
/// # Ok::<(), tenure_redis::RedlockUrlError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedlockOptions {
    pub(crate) nodes: Vec<RedisOptions>,
    pub(crate) longest_ttl: Duration,
    pub(crate) young: Young,
}

/// Whether a node counts that has started only recently.
///
/// A node that keeps nothing on its disk has forgotten its locks when it restarts, and would give them away a second
/// time. So it takes part again only when the longest lock that it may have forgotten has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Young {
    /// It counts when it has been up for the longest TTL, or writes each command to its disk before it answers.
    #[default]
    Wait,
    /// It counts at once. Exclusion is then best effort: for a deployment that starts for the first time, and tests.
    Count,
}

impl RedlockOptions {
    /// The options of these nodes.
    ///
    /// # Errors
    /// When there are not 3, 5, 7 or 9 of them, one is named twice, or one has options that make no sense in a quorum.
    pub fn new(nodes: Vec<RedisOptions>) -> Result<Self, RedlockUrlError> {
        if !NODES.contains(&nodes.len()) {
            return Err(RedlockUrlError::Nodes(nodes.len()));
        }
        for (at, node) in nodes.iter().enumerate() {
            if node.acks() > 0 {
                return Err(RedlockUrlError::Acks);
            }
            if nodes[..at].iter().any(|other| other.address() == node.address()) {
                return Err(RedlockUrlError::Twice(node.address()));
            }
        }
        let nodes = nodes.into_iter().map(RedisOptions::independent).collect();
        Ok(Self { nodes, longest_ttl: LONGEST, young: Young::default() })
    }

    /// The same options with another longest TTL: 60 s unless told otherwise.
    ///
    /// No lock may ask for longer (its quarantine included), and a node that has restarted does not count for so long.
    /// All clients of these locks must agree on it.
    #[must_use]
    pub fn with_longest_ttl(self, longest_ttl: Duration) -> Self {
        Self { longest_ttl, ..self }
    }

    /// The same options with another answer to nodes that have started only recently.
    #[must_use]
    pub fn with_young(self, young: Young) -> Self {
        Self { young, ..self }
    }

    /// How many nodes there are.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The options that a URL names: `redlock:` and the URLs of the nodes with commas between them, each `redis://`,
    /// `rediss://` or `redis+unix://`. What follows the first `?` concerns all nodes: the options of such a URL but for
    /// `acks`, `longest-ttl-ms=N` and `allow=young`. A comma in a name or password is written `%2c`.
    ///
    /// # Errors
    /// [`RedlockUrlError`] names the part that cannot be read, and never a password.
    pub fn from_url(url: &str) -> Result<Self, RedlockUrlError> {
        let rest = url.strip_prefix("redlock:").ok_or(RedlockUrlError::Scheme)?;
        let (nodes, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (mut longest_ttl, mut young, mut of_nodes) = (LONGEST, Young::default(), String::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("longest-ttl-ms", value) => {
                    let millis = value.parse().ok().filter(|millis| *millis > 0);
                    let millis = millis.ok_or_else(|| RedlockUrlError::LongestTtl(value.to_owned()))?;
                    longest_ttl = Duration::from_millis(millis);
                }
                ("allow", "young") => young = Young::Count,
                _ => {
                    of_nodes.push('&');
                    of_nodes.push_str(pair);
                }
            }
        }
        let node = |node: &str| {
            let node = node.trim();
            let scheme = node.split(':').next().unwrap_or_default();
            if !["redis", "rediss", "redis+unix"].contains(&scheme) {
                return Err(RedlockUrlError::NodeScheme(scheme.to_owned()));
            }
            Ok(RedisOptions::from_url(&format!("{node}?{of_nodes}"))?)
        };
        let nodes = nodes.split(',').map(node).collect::<Result<Vec<_>, RedlockUrlError>>()?;
        Ok(Self::new(nodes)?.with_longest_ttl(longest_ttl).with_young(young))
    }
}

/// Why a URL is not one of a quorum of Redis servers. Never shows a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedlockUrlError {
    /// It begins with something else.
    #[error("a quorum of Redis servers is written redlock:redis://a,redis://b,redis://c")]
    Scheme,
    /// There are too few or too many, or an even number.
    #[error("{0} nodes are no quorum: name 3, 5, 7 or 9 independent primaries, with commas between them")]
    Nodes(usize),
    /// One is named twice.
    #[error("{0} is named twice: each node must be a server of its own")]
    Twice(String),
    /// A node is not written as a server.
    #[error("{0:?} is no scheme of a node: write redis://, rediss:// or redis+unix:// for each")]
    NodeScheme(String),
    /// Acknowledged grants make no sense here.
    #[error("a quorum has no acks: its nodes have no replicas to fail over to")]
    Acks,
    /// The longest TTL is no number.
    #[error("{0:?} is no longest TTL: write a number of milliseconds")]
    LongestTtl(String),
    /// The URL or the options of a node cannot be read.
    #[error(transparent)]
    Node(#[from] RedisUrlError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "redlock:redis://a,redis://b:7000,rediss://u:p%2cw@c/2";

    #[test]
    fn a_url_names_the_nodes_and_their_terms() {
        let options = RedlockOptions::from_url(THREE).unwrap();
        assert_eq!((options.nodes(), options.longest_ttl, options.young), (3, LONGEST, Young::Wait));
        let addresses: Vec<_> = options.nodes.iter().map(RedisOptions::address).collect();
        assert_eq!(addresses, ["a:6379", "b:7000", "c:6379"]);
        let url = format!("{THREE}?allow=young&timeout-ms=250&longest-ttl-ms=1500");
        let options = RedlockOptions::from_url(&url).unwrap();
        assert_eq!((options.longest_ttl, options.young), (Duration::from_millis(1500), Young::Count));
        assert!(options.nodes.iter().all(|node| node.response_timeout == Duration::from_millis(250)));
        assert!(!format!("{options:?}").contains("p,w"));
    }

    #[test]
    fn c059_too_few_nodes_an_even_number_and_one_that_is_named_twice_are_refused() {
        let refused = |url: &str| RedlockOptions::from_url(url).unwrap_err();
        let many = |n: usize| {
            let nodes: Vec<_> = (0..n).map(|node| format!("redis://h{node}")).collect();
            format!("redlock:{}", nodes.join(","))
        };
        for n in [1, 2, 4, 6, 8, 10, 11] {
            assert_eq!(refused(&many(n)), RedlockUrlError::Nodes(n));
        }
        for n in NODES {
            assert_eq!(RedlockOptions::from_url(&many(n)).unwrap().nodes(), n);
        }
        let twice = RedlockUrlError::Twice("a:6379".into());
        assert_eq!(refused("redlock:redis://a,redis://b,redis://a:6379"), twice);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let refused = |url: &str| RedlockOptions::from_url(url).unwrap_err();
        assert_eq!(refused("redis://a"), RedlockUrlError::Scheme);
        assert_eq!(refused("redlock:a,b,c"), RedlockUrlError::NodeScheme("a".into()));
        let nested = "redlock:redis+cluster://a,redis://b,redis://c";
        assert_eq!(refused(nested), RedlockUrlError::NodeScheme("redis+cluster".into()));
        assert_eq!(refused(&format!("{THREE}?acks=1")), RedlockUrlError::Acks);
        for value in ["", "0", "-1", "x"] {
            let refused = refused(&format!("{THREE}?longest-ttl-ms={value}"));
            assert_eq!(refused, RedlockUrlError::LongestTtl(value.into()));
        }
        assert!(matches!(refused(&format!("{THREE}?x=1")), RedlockUrlError::Node(RedisUrlError::Option(_))));
        let error = refused("redlock:redis://u:hunter2@,redis://b,redis://c");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
