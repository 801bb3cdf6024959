//! From an address to a connection that may be trusted: connect, log in, check the server, listen.
//!
//! Everything is asked in one go, and judged before the first verb: a server that is too old, a replica, or one that
//! may evict locks is refused with the reason, again on each new connection.

use std::time::Duration;

use tenure_core::engine::EngineErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::names;
use crate::options::{Address, Eviction, RedisOptions};
use crate::resp::{self, Value};
use crate::scripts::Script;
use crate::trouble::Trouble;
use crate::wire::Stream;

/// The oldest server whose scripts and pushes do what we need.
const OLDEST: (u32, u32) = (6, 2);

/// A connection that is ready for verbs.
pub(crate) struct Dialed {
    pub(crate) stream: Box<dyn Stream>,
    /// What came after the last answer of the greeting.
    pub(crate) unread: Vec<u8>,
    pub(crate) server: Server,
    /// The names by which the server knows our scripts, in the order of [`Script::ALL`].
    pub(crate) scripts: Vec<String>,
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) version: (u32, u32),
    /// Whether replicas listen to it, to which somebody may fail over.
    pub(crate) replicas: u32,
    /// Whether each write is on the disk before it is answered.
    pub(crate) durable: bool,
    /// Whether it may evict what we keep.
    pub(crate) evicts: bool,
}

/// Connects, logs in, checks, and listens on the channel of `connection`.
pub(crate) async fn dial(options: &RedisOptions, connection: u64) -> Result<Dialed, Trouble> {
    let dialing = async {
        let mut stream = open(options).await?;
        let (server, scripts, unread) = greet(stream.as_mut(), options, connection).await?;
        Ok(Dialed { stream, unread, server, scripts })
    };
    match tokio::time::timeout(options.connect_timeout, dialing).await {
        Ok(dialed) => dialed,
        Err(_) => {
            let (address, limit) = (options.address(), options.connect_timeout);
            Err(Trouble::away(format!("{address} did not let us in within {limit:?}")))
        }
    }
}

async fn open(options: &RedisOptions) -> Result<Box<dyn Stream>, Trouble> {
    let failed =
        |error: std::io::Error| Trouble::away(format!("cannot connect to {}: {error}", options.address()));
    match &options.address {
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            match &options.tls {
                None => Ok(Box::new(stream)),
                #[cfg(feature = "tls")]
                Some(tls) => crate::tls::wrap(stream, host, tls).await,
                #[cfg(not(feature = "tls"))]
                Some(_) => Err(Trouble::unsupported("this build has no TLS: turn the feature `tls` on")),
            }
        }
    }
}

/// The greeting, all in one write. Only the last two may be refused without consequence.
async fn greet(
    stream: &mut dyn Stream,
    options: &RedisOptions,
    connection: u64,
) -> Result<(Server, Vec<String>, Vec<u8>), Trouble> {
    let database = options.database.to_string();
    let channel = names::channel_of(connection);
    let mut talk = Talk { stream, unread: Vec::new(), address: options.address() };
    let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
    if let Some(password) = &options.password {
        let user = options.user.as_deref().unwrap_or("default");
        hello.extend([&b"AUTH"[..], user.as_bytes(), password.as_bytes()]);
    }
    hello.extend([&b"SETNAME"[..], b"tenure"]);
    let mut out = Vec::new();
    resp::command(&mut out, &hello);
    resp::command(&mut out, &[b"SELECT", database.as_bytes()]);
    resp::command(&mut out, &[b"INFO"]);
    for script in Script::ALL {
        resp::command(&mut out, &[b"SCRIPT", b"LOAD", script.source().as_bytes()]);
    }
    resp::command(&mut out, &[b"PUBLISH", channel.as_bytes(), b""]);
    resp::command(&mut out, &[b"CONFIG", b"GET", b"appendfsync"]);
    resp::command(&mut out, &[b"SUBSCRIBE", channel.as_bytes()]);
    talk.stream.write_all(&out).await.map_err(|error| talk.broke(&error))?;

    match talk.answer().await? {
        Value::Error(error) if error.starts_with("ERR unknown command") || error.starts_with("NOPROTO") => {
            return Err(too_old(&options.address(), "one that does not speak RESP3"));
        }
        Value::Error(error) => return Err(Trouble::of_reply(&error)),
        _ => {}
    }
    let selected = talk.answer().await?;
    let info = talk.answer().await?;
    let Value::Text(info) = info else { return Err(refusal(info)) };
    let mut server = judge(&String::from_utf8_lossy(&info), options)?;
    if let Value::Error(error) = selected {
        let message = format!("{} has no database {database} ({error})", options.address());
        return Err(if error.starts_with("NOPERM") {
            Trouble::denied(message)
        } else {
            Trouble::unsupported(message)
        });
    }
    let mut scripts = Vec::with_capacity(Script::ALL.len());
    for _ in Script::ALL {
        let loaded = talk.answer().await?;
        scripts.push(loaded.text().map(str::to_owned).ok_or_else(|| refusal(loaded))?);
    }
    let published = talk.answer().await?;
    if matches!(published, Value::Error(_)) {
        return Err(refusal(published));
    }
    // Managed servers hide their configuration; then the worst is assumed.
    let fsync = talk.answer().await?.list();
    let always = fsync.is_some_and(|fsync| fsync.get(1).and_then(Value::text) == Some("always"));
    server.durable &= always;
    match talk.answer().await? {
        Value::Push(_) => {}
        other => return Err(refusal(other)),
    }
    Ok((server, scripts, talk.unread))
}

/// A conversation before the connection is shared.
struct Talk<'a> {
    stream: &'a mut dyn Stream,
    unread: Vec<u8>,
    address: String,
}

impl Talk<'_> {
    async fn answer(&mut self) -> Result<Value, Trouble> {
        let mut chunk = [0; 4096];
        loop {
            let parsed = resp::parse(&self.unread);
            let parsed = parsed.map_err(|_| {
                Trouble::unsupported(format!("{} does not speak the protocol of Redis", self.address))
            })?;
            if let Some((value, length)) = parsed {
                self.unread.drain(..length);
                return Ok(value);
            }
            let read = self.stream.read(&mut chunk).await.map_err(|error| self.broke(&error))?;
            if read == 0 {
                return Err(Trouble::away(format!(
                    "{} closed the connection while we logged in",
                    self.address
                )));
            }
            self.unread.extend_from_slice(&chunk[..read]);
        }
    }

    fn broke(&self, error: &std::io::Error) -> Trouble {
        Trouble::away(format!("the connection to {} broke while we logged in: {error}", self.address))
    }
}

/// Why something that must be answered was not. Nothing was applied: the first verb has not been sent.
fn refusal(answer: Value) -> Trouble {
    match answer {
        Value::Error(error) => {
            let trouble = Trouble::of_reply(&error);
            Trouble { effect: tenure_core::engine::Effect::None, ..trouble }
        }
        other => Trouble::unsupported(format!("the server greets us in a way that no Redis does: {other:?}")),
    }
}

fn too_old(address: &str, what: &str) -> Trouble {
    let (major, minor) = OLDEST;
    Trouble::unsupported(format!("{address} is {what}: Redis {major}.{minor} or newer is needed"))
}

/// Whether a server that says this of itself may keep locks.
fn judge(info: &str, options: &RedisOptions) -> Result<Server, Trouble> {
    let address = options.address();
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim)
    };
    let number = |name| field(name).and_then(|value| value.parse::<u32>().ok());
    let version = field("redis_version").unwrap_or("unknown");
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version_number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version_number < OLDEST {
        return Err(too_old(&address, &format!("version {version}")));
    }
    if field("arch_bits").is_some_and(|bits| bits != "64") {
        // Our scripts write numbers as the server's machine words.
        return Err(Trouble::unsupported(format!(
            "{address} is built for {}-bit words: 64 are needed",
            field("arch_bits").unwrap_or_default()
        )));
    }
    match field("redis_mode") {
        Some("cluster") => {
            let message =
                format!("{address} is a node of a cluster, which this engine does not speak to yet");
            return Err(Trouble::unsupported(message));
        }
        Some("sentinel") => {
            let message = format!("{address} is a sentinel: name the primary that it watches");
            return Err(Trouble::unsupported(message));
        }
        _ => {}
    }
    if field("role") != Some("master") {
        // A failover may be going on: who asks again may find a primary there.
        return Err(Trouble::away(format!("{address} is a replica: name its primary")));
    }
    let limited = field("maxmemory").is_some_and(|limit| limit != "0");
    let policy = field("maxmemory_policy").unwrap_or("noeviction");
    let evicts = limited && policy != "noeviction";
    if evicts && options.eviction == Eviction::Refuse {
        let message = format!(
            "{address} may evict locks (maxmemory-policy {policy}): set it to noeviction, or add allow=eviction to \
             the URL and rely on fencing tokens alone"
        );
        return Err(Trouble::unsupported(message));
    }
    Ok(Server {
        version: version_number,
        replicas: number("connected_slaves").unwrap_or(0),
        durable: field("aof_enabled") == Some("1"),
        evicts,
    })
}

/// How long to wait before connecting again, after some failures in a row, without jitter.
pub(crate) fn pause_after(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => Duration::from_millis(10 << n.min(6)).min(Duration::from_millis(500)),
    }
}

/// Nothing was sent, and the runtime that was to connect has ended.
pub(crate) fn orphaned() -> Trouble {
    Trouble::new(
        EngineErrorKind::Unreachable,
        tenure_core::engine::Effect::None,
        tenure_core::engine::Retry::Worth,
        "the runtime that was connecting has ended",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_core::engine::Retry;

    fn info(changes: &[(&str, &str)]) -> String {
        let mut info = String::from("# Server\r\n");
        for (name, value) in [
            ("redis_version", "7.0.15"),
            ("redis_mode", "standalone"),
            ("role", "master"),
            ("maxmemory", "0"),
            ("maxmemory_policy", "noeviction"),
            ("connected_slaves", "0"),
            ("aof_enabled", "1"),
        ] {
            let value =
                changes.iter().find(|(changed, _)| *changed == name).map_or(value, |(_, value)| value);
            info.push_str(&format!("{name}:{value}\r\n"));
        }
        info
    }

    #[test]
    fn c074_a_server_that_is_too_old_is_refused_by_its_version() {
        let options = RedisOptions::tcp("h", 1);
        for version in ["6.0.16", "5.0.3", "2.8", ""] {
            let refused = judge(&info(&[("redis_version", version)]), &options).unwrap_err();
            assert_eq!(
                (refused.kind, refused.retry),
                (EngineErrorKind::Unsupported, Retry::Useless),
                "{version}"
            );
        }
        for version in ["6.2.0", "7.0.15", "9.1.2", "10.0.0"] {
            assert!(judge(&info(&[("redis_version", version)]), &options).is_ok(), "{version}");
        }
    }

    #[test]
    fn what_a_server_says_of_itself_decides_what_can_be_promised() {
        let options = RedisOptions::tcp("h", 1);
        let server = judge(&info(&[("connected_slaves", "2")]), &options).unwrap();
        assert_eq!((server.replicas, server.durable, server.evicts), (2, true, false));
        assert!(judge(&info(&[("role", "slave")]), &options).unwrap_err().message.contains("replica"));
        assert!(
            judge(&info(&[("redis_mode", "cluster")]), &options).unwrap_err().message.contains("cluster")
        );
        assert!(judge(&info(&[("maxmemory_policy", "allkeys-lru")]), &options).is_ok(), "without a limit");
    }

    #[test]
    fn c068_a_server_that_may_evict_locks_is_refused_unless_allowed() {
        let options = RedisOptions::tcp("h", 1);
        let info = info(&[("maxmemory", "3000000"), ("maxmemory_policy", "volatile-lru")]);
        let refused = judge(&info, &options).unwrap_err();
        assert_eq!(refused.kind, EngineErrorKind::Unsupported);
        assert!(refused.message.contains("volatile-lru"));
        assert!(judge(&info, &options.with_eviction(Eviction::Allow)).unwrap().evicts);
    }
}
