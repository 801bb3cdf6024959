//! Servers that a run starts for itself, and may therefore kill, stop, starve and misguide.

use std::time::Duration;

use tenure_servers::etcd::EtcdCluster;
use tenure_servers::mariadb::MariaDbServer;
use tenure_servers::postgres::PostgresServer;
use tenure_servers::redis::{RedisCluster, RedisServer, SentinelSet};
use tenure_servers::zookeeper::ZookeeperEnsemble;
use tenure_servers::{ClockShim, ServerError, Step};

use crate::VerifyError;
use crate::nemesis::Kind;

/// After how long of silence a Redis server is replaced.
const DOWN_AFTER: Duration = Duration::from_secs(1);

/// Servers of our own.
#[derive(Debug)]
pub(crate) enum Own {
    /// One Redis primary that keeps nothing on disk, or the independent ones of Redlock, which keep everything there;
    /// and the clock of each, if there is a C compiler.
    Redis(Vec<RedisServer>, Vec<ClockShim>),
    /// A Redis primary with two replicas and three sentinels. Nothing is kept on a disk.
    Sentinel(SentinelSet),
    /// A Redis cluster of three primaries with a replica each. Nothing is kept on a disk.
    Cluster(RedisCluster),
    /// An etcd cluster.
    Etcd(EtcdCluster),
    /// A ZooKeeper ensemble.
    Zookeeper(ZookeeperEnsemble),
    /// One PostgreSQL server.
    Postgres(PostgresServer),
    /// One MariaDB server.
    Mysql(MariaDbServer),
}

impl Own {
    /// Starts servers for an engine that is named by the scheme of its URLs.
    pub(crate) fn start(scheme: &str, count: u32) -> Result<Self, VerifyError> {
        let started = match (scheme, count) {
            ("redis", 1) | ("redlock", 3..=7) => redis(count),
            ("redis+sentinel", 3) => SentinelSet::start(DOWN_AFTER, &[], &[]).map(Self::Sentinel),
            ("redis+cluster", 6) => RedisCluster::start(DOWN_AFTER * 2, &[]).map(Self::Cluster),
            ("etcd", 1) => EtcdCluster::single().map(Self::Etcd),
            ("etcd", 3) => EtcdCluster::three().map(Self::Etcd),
            ("zookeeper", 1) => ZookeeperEnsemble::single(&[]).map(Self::Zookeeper),
            ("zookeeper", 3) => ZookeeperEnsemble::three(&[]).map(Self::Zookeeper),
            ("postgres" | "postgresql", 1) => PostgresServer::start(&[]).map(Self::Postgres),
            ("mysql" | "mariadb", 1) => MariaDbServer::start(&[]).map(Self::Mysql),
            _ => {
                let known = "redis: 1; redis+sentinel: 3; redis+cluster: 6; redlock: 3 to 7; etcd: and zookeeper: 1 \
                             or 3; postgres: and mysql: 1";
                let message =
                    format!("{count} servers of {scheme:?} cannot be started here. Known are {known}");
                return Err(VerifyError::Usage(message));
            }
        };
        started.map_err(|error| VerifyError::trouble(error.to_string()))
    }

    /// Where each of them listens.
    pub(crate) fn ports(&mut self) -> Vec<u16> {
        match self {
            Self::Redis(servers, _) => servers.iter().map(RedisServer::port).collect(),
            Self::Sentinel(set) => set.sentinel_ports(),
            Self::Cluster(cluster) => cluster.nodes().iter().map(RedisServer::port).collect(),
            Self::Etcd(cluster) => (0..cluster.size()).map(|member| cluster.port(member)).collect(),
            Self::Zookeeper(ensemble) => ensemble.servers().iter().map(|server| server.port()).collect(),
            Self::Postgres(server) => vec![server.port()],
            Self::Mysql(server) => vec![server.port()],
        }
    }

    /// The URL by which they are reached when they, or proxies before them, listen at these ports.
    pub(crate) fn url(&self, ports: &[u16]) -> String {
        let list = |scheme: &str| {
            let servers: Vec<_> = ports.iter().map(|port| format!("{scheme}127.0.0.1:{port}")).collect();
            servers.join(",")
        };
        match self {
            Self::Redis(servers, _) if servers.len() == 1 => list("redis://"),
            Self::Redis(..) => format!("redlock:{}", list("redis://")),
            Self::Sentinel(set) => set.url(),
            Self::Cluster(cluster) => cluster.url(),
            Self::Etcd(_) => format!("etcd://{}", list("")),
            // As short a session as servers agree to by default, so that a TTL of seconds is served within it.
            Self::Zookeeper(_) => format!("zookeeper://{}?session-ms=4000", list("")),
            Self::Postgres(_) => format!("postgres://postgres@{}/postgres", list("")),
            Self::Mysql(_) => format!("mysql://root@{}/tenure", list("")),
        }
    }

    /// Whether their database needs tables before it is used.
    pub(crate) fn needs_tables(&self) -> bool {
        matches!(self, Self::Postgres(_) | Self::Mysql(_))
    }

    /// What is expected of them, where that differs from what is expected of one server.
    pub(crate) fn expected_as(&self) -> Option<&'static str> {
        match self {
            Self::Sentinel(_) => Some("redis+sentinel"),
            Self::Cluster(_) => Some("redis+cluster"),
            _ => None,
        }
    }

    /// Whether all that clients send can be led through a proxy: those who are told of other servers go there directly.
    pub(crate) fn can_be_cut_off(&self) -> bool {
        !matches!(self, Self::Sentinel(_) | Self::Cluster(_))
    }

    /// What they say of themselves.
    pub(crate) fn name(&mut self) -> String {
        let (name, version) = match self {
            Self::Redis(servers, _) => {
                (if servers.len() == 1 { "Redis" } else { "Redlock on Redis" }, version(&servers[0]))
            }
            Self::Sentinel(set) => ("Redis Sentinel", version(set.server(0))),
            Self::Cluster(cluster) => ("Redis Cluster", version(&cluster.nodes()[0])),
            Self::Etcd(cluster) => {
                let status = cluster.etcdctl(0, &["endpoint", "status"]).unwrap_or_default();
                ("etcd", status.split(", ").nth(2).map(str::to_owned))
            }
            Self::Zookeeper(ensemble) => {
                let said = ensemble.servers()[0].say("srvr").unwrap_or_default();
                let version = said.lines().find_map(|line| line.strip_prefix("Zookeeper version: "));
                ("ZooKeeper", version.and_then(|version| version.split('-').next()).map(str::to_owned))
            }
            Self::Postgres(server) => ("PostgreSQL", server.sql("SHOW server_version").ok()),
            Self::Mysql(server) => ("MariaDB", server.say("tenure", "SELECT VERSION()").ok()),
        };
        let version = version.as_deref().and_then(|version| version.split_whitespace().next()).unwrap_or("?");
        match self.ports().len() {
            1 => format!("{name} {version}"),
            count => format!("{name} {version}, {count} servers"),
        }
    }

    /// What can be done to them.
    pub(crate) fn possible(&self) -> Vec<Kind> {
        match self {
            Self::Redis(_, clocks) => {
                let clock = clocks.first().map(|_| Kind::Clock);
                [Kind::Freeze, Kind::Flush, Kind::Memory, Kind::Restart].into_iter().chain(clock).collect()
            }
            Self::Sentinel(_) | Self::Cluster(_) => {
                vec![Kind::Freeze, Kind::Flush, Kind::Restart, Kind::Failover]
            }
            // Its sessions are processes of their own, which go on while the first one is stopped.
            Self::Postgres(_) => vec![Kind::Restart],
            Self::Etcd(_) | Self::Zookeeper(_) | Self::Mysql(_) => vec![Kind::Freeze, Kind::Restart],
        }
    }

    /// Whether what they have acknowledged may be forgotten then.
    pub(crate) fn forgets(&self, kind: Kind) -> bool {
        match (self, kind) {
            (Self::Redis(servers, _), Kind::Restart) => servers.len() == 1,
            // A clock that is set forward ends leases, which looks the same.
            (Self::Redis(..), Kind::Clock) => true,
            // A replica that has not heard of it takes over, or an empty primary comes back in time.
            (Self::Sentinel(_) | Self::Cluster(_), Kind::Restart | Kind::Freeze | Kind::Failover) => true,
            _ => false,
        }
    }

    /// Does something to one of them; a seed decides what is left open.
    pub(crate) fn strike(&mut self, kind: Kind, victim: usize, dice: u32) -> Result<(), String> {
        let victim = victim % self.ports().len();
        match (self, kind) {
            (Self::Redis(_, clocks), Kind::Clock) => step(&clocks[victim], dice)?,
            (Self::Redis(servers, _), _) => strike_server(&mut servers[victim], kind)?,
            // Refused while the last one is being finished.
            (Self::Sentinel(set), Kind::Failover) => drop(set.ask_for_another()),
            (Self::Sentinel(set), _) => strike_server(&mut set.servers()[victim], kind)?,
            (Self::Cluster(cluster), Kind::Failover) => {
                let order =
                    if dice.is_multiple_of(2) { "CLUSTER FAILOVER" } else { "CLUSTER FAILOVER TAKEOVER" };
                let nodes = cluster.nodes();
                // Primaries refuse it.
                let _ = (0..nodes.len()).any(|nth| say(&nodes[(victim + nth) % nodes.len()], order).is_ok());
            }
            (Self::Cluster(cluster), _) => strike_server(&mut cluster.nodes()[victim], kind)?,
            (Self::Etcd(cluster), Kind::Freeze) => cluster.process(victim).freeze(),
            (Self::Etcd(cluster), Kind::Restart) => cluster.kill(victim),
            (Self::Zookeeper(ensemble), Kind::Freeze) => ensemble.servers()[victim].process().freeze(),
            (Self::Zookeeper(ensemble), Kind::Restart) => ensemble.servers()[victim].kill(),
            (Self::Postgres(server), Kind::Restart) => server.kill(),
            (Self::Mysql(server), Kind::Freeze) => server.process().freeze(),
            (Self::Mysql(server), Kind::Restart) => server.kill(),
            _ => {}
        }
        Ok(())
    }

    /// Makes it good.
    pub(crate) fn heal(&mut self, kind: Kind, victim: usize) -> Result<(), String> {
        let victim = victim % self.ports().len();
        let said = |error: ServerError| error.to_string();
        match (self, kind) {
            (Self::Redis(servers, _), _) => heal_server(&mut servers[victim], kind)?,
            (Self::Sentinel(set), _) => heal_server(&mut set.servers()[victim], kind)?,
            (Self::Cluster(cluster), _) => heal_server(&mut cluster.nodes()[victim], kind)?,
            (Self::Etcd(cluster), Kind::Freeze) => cluster.process(victim).thaw(),
            (Self::Etcd(cluster), Kind::Restart) => cluster.revive(victim).map_err(said)?,
            (Self::Zookeeper(ensemble), Kind::Freeze) => ensemble.servers()[victim].process().thaw(),
            (Self::Zookeeper(ensemble), Kind::Restart) => {
                ensemble.servers()[victim].restart().map_err(said)?
            }
            (Self::Postgres(server), Kind::Restart) => server.restart().map_err(said)?,
            (Self::Mysql(server), Kind::Freeze) => server.process().thaw(),
            (Self::Mysql(server), Kind::Restart) => server.restart().map_err(said)?,
            _ => {}
        }
        Ok(())
    }
}

fn redis(count: u32) -> Result<Own, ServerError> {
    // Redlock does not count servers that have just started, unless they have everything on their disk.
    let durable: &[&str] = if count == 1 { &[] } else { &["--appendonly", "yes", "--appendfsync", "always"] };
    let (mut servers, mut clocks) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let mut program = RedisServer::program();
        // Independent servers have independent clocks.
        match ClockShim::new() {
            Ok(clock) => {
                program = clock.around(program);
                clocks.push(clock);
            }
            // Without a C compiler there are no clocks to set, and `clock` is not possible.
            Err(ServerError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        servers.push(RedisServer::start_program(program, durable)?);
    }
    Ok(Own::Redis(servers, clocks))
}

fn strike_server(server: &mut RedisServer, kind: Kind) -> Result<(), String> {
    match kind {
        Kind::Freeze => server.process().freeze(),
        Kind::Flush => say(server, "SCRIPT FLUSH")?,
        Kind::Memory => say(server, "CONFIG SET maxmemory 1")?,
        Kind::Restart => server.kill(),
        _ => {}
    }
    Ok(())
}

fn heal_server(server: &mut RedisServer, kind: Kind) -> Result<(), String> {
    match kind {
        Kind::Freeze => server.process().thaw(),
        Kind::Memory => say(server, "CONFIG SET maxmemory 0")?,
        Kind::Restart => server.restart().map_err(|error| error.to_string())?,
        _ => {}
    }
    Ok(())
}

fn version(server: &RedisServer) -> Option<String> {
    let info = server.say("INFO server").ok()?;
    info.lines().find_map(|line| line.strip_prefix("redis_version:")).map(str::to_owned)
}

fn say(server: &RedisServer, command: &str) -> Result<(), String> {
    let said = server.say(command).map_err(|error| format!("our Redis does not answer: {error}"))?;
    if said.starts_with('-') { Err(format!("our Redis says {}", said.trim())) } else { Ok(()) }
}

/// Sets a clock forward by up to ten seconds, or back by up to one: then nobody is granted for as long.
fn step(clock: &ClockShim, dice: u32) -> Result<(), String> {
    let by = Duration::from_millis(u64::from(dice % 10_000));
    let step = if dice.is_multiple_of(2) { Step::Back(by / 10) } else { Step::Forward(by) };
    clock.step(step).map_err(|error| error.to_string())
}
