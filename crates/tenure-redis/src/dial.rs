//! From an address to a connection that may be trusted: connect, log in, check the server, listen.
//!
//! Everything is asked in one go, and judged before the first verb: a server that is too old, a replica, or one that
//! may evict locks is refused with the reason, again on each new connection. A node of a cluster is first asked which
//! slots it serves: we listen on a channel in one of them.

#[cfg(feature = "tls")]
use std::error::Error;

use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, RedisError, Value,
};
use tenure_core::engine::Trouble;

use crate::names;
use crate::options::{Address, Eviction, RedisOptions};
use crate::reply::{self, Reply};
use crate::scripts::{Script, Voice};
use crate::slots::Served;
use crate::survey::{self, Survey};
use crate::trouble;

/// The oldest server whose scripts and pushes do what we need.
const OLDEST: (u32, u32) = (6, 2);

/// The oldest node of a cluster that tells those who listen at itself alone.
const SHARDED: (u32, u32) = (7, 0);

/// What a server is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It keeps all lines by itself.
    Alone,
    /// It keeps the lines of some slots.
    OfCluster,
}

/// A connection that is ready for verbs.
pub(crate) struct Dialed {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) footing: Footing,
    pub(crate) server: Server,
    /// The names by which the server knows our scripts, in the order of [`Script::ALL`].
    pub(crate) scripts: Vec<String>,
}

/// How a connection listens at its server.
pub(crate) struct Footing {
    /// Its name in places, and of its channel.
    pub(crate) name: u64,
    pub(crate) voice: Voice,
    pub(crate) served: Served,
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
    /// The names of this run of the server and of its replication, and how long it had been up when it was asked.
    pub(crate) run: String,
    pub(crate) replication: String,
    pub(crate) uptime: Duration,
}

/// How many requests may be on their way to a connection's task before the next one waits.
const QUEUE: usize = 1024;

/// Connects, logs in, checks, and listens on a channel of its own. What is pushed goes to `pushes`.
pub(crate) async fn dial(
    options: &RedisOptions,
    part: Part,
    pushes: impl AsyncPushSender,
) -> Result<Dialed, Trouble> {
    in_time(options, async {
        let mut connection = connect(options, Some(pushes)).await?;
        let footing = footing(&mut connection, options, part).await?;
        let (server, scripts) = greet(&mut connection, options, part, &footing).await?;
        Ok(Dialed { connection, footing, server, scripts })
    })
    .await
}

/// Connects and asks something, for answers that do not depend on what the server is. What is pushed goes to `pushes`.
pub(crate) async fn ask(
    options: &RedisOptions,
    questions: &[&[&str]],
    pushes: Option<impl AsyncPushSender>,
) -> Result<(MultiplexedConnection, Vec<Value>), Trouble> {
    in_time(options, async {
        let mut connection = connect(options, pushes).await?;
        let mut all = redis::pipe();
        for question in questions {
            all.add_command(redis::cmd(question[0])).arg(&question[1..]);
        }
        let answers = connection.send_packed_commands(&all, 0, all.len()).await;
        let answers = answers.map_err(|error| kept_out(&error, options))?;
        Ok((connection, answers))
    })
    .await
}

/// Connecting has a limit, and certainly applies nothing.
async fn in_time<T>(
    options: &RedisOptions,
    dialing: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout(options.connect_timeout, dialing).await {
        Ok(dialed) => dialed.map_err(Trouble::without_effect),
        Err(_) => {
            let (address, limit) = (options.address(), options.connect_timeout);
            Err(Trouble::away(format!("{address} did not let us in within {limit:?}")))
        }
    }
}

async fn connect(
    options: &RedisOptions,
    pushes: Option<impl AsyncPushSender>,
) -> Result<MultiplexedConnection, Trouble> {
    let mut config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(options.connect_timeout))
        .set_response_timeout(Some(options.patience()))
        .set_pipeline_buffer_size(QUEUE);
    if let Some(pushes) = pushes {
        config = config.set_push_sender(pushes);
    }
    let connection = client(options)?.get_multiplexed_async_connection_with_config(&config).await;
    connection.map_err(|error| kept_out(&error, options))
}

fn client(options: &RedisOptions) -> Result<Client, Trouble> {
    let address = match &options.address {
        Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
        Address::Tcp(node) if options.tls.is_none() => ConnectionAddr::Tcp(node.host.clone(), node.port),
        Address::Tcp(node) => ConnectionAddr::TcpTls {
            host: node.host.clone(),
            port: node.port,
            insecure: false,
            tls_params: None,
        },
        Address::Sentinel { .. } | Address::Cluster(_) => {
            return Err(Trouble::unsupported(format!("{} is more than one server", options.address())));
        }
    };
    // The database is selected by the greeting, which can tell why it is refused.
    let mut login =
        RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    if let Some(password) = &options.password {
        login = login.set_username(options.user.as_deref().unwrap_or("default")).set_password(password);
    }
    let unusable = |error: RedisError| Trouble::unsupported(format!("no client can be made: {error}"));
    let info = address.into_connection_info().map_err(unusable)?;
    let info = info.set_redis_settings(login).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    match &options.tls {
        None => Client::open(info).map_err(unusable),
        #[cfg(feature = "tls")]
        Some(tls) => {
            if rustls::crypto::CryptoProvider::get_default().is_none() {
                // Somebody else may have been faster, which is as good.
                let _ = rustls::crypto::ring::default_provider().install_default();
            }
            let Some(path) = &tls.ca else { return Client::open(info).map_err(unusable) };
            let unreadable = |why: &dyn Error| {
                Trouble::denied(format!("cannot read authorities from {}: {why}", path.display()))
            };
            let root_cert = Some(std::fs::read(path).map_err(|error| unreadable(&error))?);
            let certificates = redis::TlsCertificates { client_tls: None, root_cert };
            Client::build_with_tls(info, certificates).map_err(|error| unreadable(&error))
        }
        #[cfg(not(feature = "tls"))]
        Some(_) => Err(Trouble::unsupported("this build has no TLS: turn the feature `tls` on")),
    }
}

/// Why there is no connection. Nothing was applied: no verb has been sent.
fn kept_out(error: &RedisError, options: &RedisOptions) -> Trouble {
    let address = options.address();
    #[cfg(feature = "tls")]
    if is_of_tls(error) {
        // A broken stream may be better next time; a certificate that proves nothing will not.
        return Trouble::denied(format!("no TLS with {address}: {error}"));
    }
    match (error.kind(), error.code(), error.detail()) {
        (ErrorKind::RESP3NotSupported, ..) | (_, Some("NOPROTO"), _) => {
            too_old(&address, "one that does not speak RESP3")
        }
        (_, Some("ERR"), Some(detail)) if detail.starts_with("unknown command") => {
            too_old(&address, "one that does not speak RESP3")
        }
        (_, Some(code), detail) => trouble::of_reply(&format!("{code} {}", detail.unwrap_or_default())),
        (ErrorKind::Io, ..) => Trouble::away(format!("cannot connect to {address}: {error}")),
        _ => Trouble::unsupported(format!("{address} does not speak the protocol of Redis: {error}")),
    }
}

#[cfg(feature = "tls")]
fn is_of_tls(error: &RedisError) -> bool {
    type Shared = std::sync::Arc<dyn Error + Send + Sync>;
    let shared = error.source().and_then(|source| source.downcast_ref::<Shared>());
    let io = shared.and_then(|shared| shared.downcast_ref::<std::io::Error>());
    io.and_then(std::io::Error::get_ref).is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Where to listen. A node of a cluster lets us listen only in a slot that it serves.
async fn footing(
    connection: &mut MultiplexedConnection,
    options: &RedisOptions,
    part: Part,
) -> Result<Footing, Trouble> {
    if part == Part::Alone {
        return Ok(Footing { name: rand::random(), voice: Voice::Plain, served: Served::All });
    }
    let mut questions = redis::pipe();
    questions.cmd("INFO").arg("server");
    questions.cmd("CLUSTER").arg("MYID");
    questions.cmd("CLUSTER").arg("SLOTS");
    let answers = connection.send_packed_commands(&questions, 0, questions.len()).await;
    let mut answers = answers.map_err(|error| kept_out(&error, options))?.into_iter();
    // There are as many answers as commands.
    let mut answer = || answers.next().unwrap_or(Value::Nil);
    let (info, id, slots) = (answer(), answer(), answer());
    let address = options.address();
    let Some(info) = info.text() else { return Err(refusal(info)) };
    let voice = if version_of(info) >= SHARDED { Voice::Sharded } else { Voice::Plain };
    let Some(id) = id.text() else { return Err(survey::no_cluster(&address, id)) };
    let served =
        Survey::read(slots, "").map_err(|answer| survey::no_cluster(&address, answer))?.served_by(id);
    let name = served.first(rand::random, names::channel_of);
    let name = name.ok_or_else(|| Trouble::away(format!("{address} serves no slots of its cluster")))?;
    Ok(Footing { name, voice, served })
}

/// The greeting, all in one write.
async fn greet(
    connection: &mut MultiplexedConnection,
    options: &RedisOptions,
    part: Part,
    footing: &Footing,
) -> Result<(Server, Vec<String>), Trouble> {
    let (channel, voice) = (names::channel_of(footing.name), footing.voice);
    let mut greeting = redis::pipe();
    greeting.cmd("CLIENT").arg("SETNAME").arg("tenure");
    greeting.cmd("SELECT").arg(options.database);
    greeting.cmd("INFO");
    let wanted = |script: &Script| options.independent || !script.is_of_quorums();
    for script in Script::ALL.into_iter().filter(wanted) {
        greeting.cmd("SCRIPT").arg("LOAD").arg(script.source(voice));
    }
    greeting.cmd(voice.publish()).arg(&channel).arg("");
    greeting.cmd("CONFIG").arg("GET").arg("appendfsync");
    greeting.cmd(voice.subscribe()).arg(&channel);
    let answers = connection.send_packed_commands(&greeting, 0, greeting.len()).await;
    let mut answers = answers.map_err(|error| kept_out(&error, options))?.into_iter();
    // There are as many answers as commands.
    let mut answer = || answers.next().unwrap_or(Value::Nil);

    // The name is for people, who may have forbidden it.
    let (_named, selected, info) = (answer(), answer(), answer());
    let Some(info) = info.text() else { return Err(refusal(info)) };
    let mut server = judge(info, options, part)?;
    if let Value::ServerError(error) = selected {
        let error = reply::error_text(&error);
        let message = format!("{} has no database {} ({error})", options.address(), options.database);
        return Err(if error.starts_with("NOPERM") {
            Trouble::denied(message)
        } else {
            Trouble::unsupported(message)
        });
    }
    let mut scripts = Vec::with_capacity(Script::ALL.len());
    for _ in Script::ALL.iter().filter(|script| wanted(script)) {
        let loaded = answer();
        scripts.push(loaded.text().map(str::to_owned).ok_or_else(|| refusal(loaded))?);
    }
    let published = answer();
    if matches!(published, Value::ServerError(_)) {
        return Err(refusal(published));
    }
    // Managed servers hide their configuration; then the worst is assumed.
    let fsync = answer().list();
    let always = fsync.is_some_and(|fsync| fsync.get(1).and_then(Reply::text) == Some("always"));
    server.durable &= always;
    match answer() {
        Value::Push { .. } => Ok((server, scripts)),
        other => Err(refusal(other)),
    }
}

/// Why something that must be answered was not.
fn refusal(answer: Value) -> Trouble {
    match answer {
        Value::ServerError(error) => trouble::of_reply(&reply::error_text(&error)),
        other => Trouble::unsupported(format!("the server greets us in a way that no Redis does: {other:?}")),
    }
}

fn too_old(address: &str, what: &str) -> Trouble {
    let (major, minor) = OLDEST;
    Trouble::unsupported(format!("{address} is {what}: Redis {major}.{minor} or newer is needed"))
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim)
}

fn version_of(info: &str) -> (u32, u32) {
    let version = field(info, "redis_version").unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Whether a server that says this of itself may keep locks.
fn judge(info: &str, options: &RedisOptions, part: Part) -> Result<Server, Trouble> {
    let address = options.address();
    let field = |name: &str| field(info, name);
    let number = |name| field(name).and_then(|value| value.parse::<u32>().ok());
    let version = field("redis_version").unwrap_or("unknown");
    let version_number = version_of(info);
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
        Some("cluster") if part == Part::Alone => {
            let message = format!("{address} is a node of a cluster: write redis+cluster://{address}");
            return Err(Trouble::unsupported(message));
        }
        Some("sentinel") => {
            let message =
                format!("{address} is a sentinel: write redis+sentinel://{address}/NAME of its primary");
            return Err(Trouble::unsupported(message));
        }
        _ => {}
    }
    if field("role") != Some("master") && options.independent {
        let message = format!("{address} is a replica: the nodes of a quorum must be independent primaries");
        return Err(Trouble::unsupported(message));
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
        run: field("run_id").unwrap_or_default().to_owned(),
        replication: field("master_replid").unwrap_or_default().to_owned(),
        uptime: Duration::from_secs(field("uptime_in_seconds").and_then(|up| up.parse().ok()).unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_core::engine::{EngineErrorKind, Retry};

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
            let refused = judge(&info(&[("redis_version", version)]), &options, Part::Alone).unwrap_err();
            assert_eq!(
                (refused.kind, refused.retry),
                (EngineErrorKind::Unsupported, Retry::Useless),
                "{version}"
            );
        }
        for version in ["6.2.0", "7.0.15", "9.1.2", "10.0.0"] {
            assert!(judge(&info(&[("redis_version", version)]), &options, Part::Alone).is_ok(), "{version}");
        }
    }

    #[test]
    fn what_a_server_says_of_itself_decides_what_can_be_promised() {
        let options = RedisOptions::tcp("h", 1);
        let server = judge(&info(&[("connected_slaves", "2")]), &options, Part::Alone).unwrap();
        assert_eq!((server.replicas, server.durable, server.evicts), (2, true, false));
        assert!(
            judge(&info(&[("role", "slave")]), &options, Part::Alone)
                .unwrap_err()
                .message
                .contains("replica")
        );
        assert!(
            judge(&info(&[("redis_mode", "cluster")]), &options, Part::Alone)
                .unwrap_err()
                .message
                .contains("cluster")
        );
        assert!(
            judge(&info(&[("maxmemory_policy", "allkeys-lru")]), &options, Part::Alone).is_ok(),
            "without a limit"
        );
    }

    #[test]
    fn c068_a_server_that_may_evict_locks_is_refused_unless_allowed() {
        let options = RedisOptions::tcp("h", 1);
        let info = info(&[("maxmemory", "3000000"), ("maxmemory_policy", "volatile-lru")]);
        let refused = judge(&info, &options, Part::Alone).unwrap_err();
        assert_eq!(refused.kind, EngineErrorKind::Unsupported);
        assert!(refused.message.contains("volatile-lru"));
        assert!(judge(&info, &options.with_eviction(Eviction::Allow), Part::Alone).unwrap().evicts);
    }
}
