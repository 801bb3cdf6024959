//! A primary with two replicas, and three sentinels that watch them.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::{PACKAGE, RedisServer, say, together};
use crate::{Child, Program, ServerError, free_ports, until};

/// The name under which the sentinels know the primary.
const NAME: &str = "tenure";

/// A primary with two replicas, and three sentinels that watch them. Two sentinels decide.
#[derive(Debug)]
pub struct SentinelSet {
    servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
}

/// A sentinel on a port of its own.
#[derive(Debug)]
struct Sentinel {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl SentinelSet {
    /// Starts them. A primary that does not answer for `down_after` is replaced. The servers have these options of the
    /// command line besides, and the sentinels these lines of their file.
    ///
    /// # Errors
    /// When a server is not installed or does not start, or they do not find together.
    pub fn start(down_after: Duration, options: &[&str], lines: &[&str]) -> Result<Self, ServerError> {
        let primary = RedisServer::start(options)?;
        let port = primary.port().to_string();
        let follow = ["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"];
        let replica_options = [options, &follow].concat();
        let replicas = together(2, |_| RedisServer::start(&replica_options))?;
        let has = |server: &RedisServer, what: &str| {
            server.say("INFO replication").is_ok_and(|info| info.contains(what))
        };
        let followed = until(|| {
            has(&primary, "connected_slaves:2")
                && replicas.iter().all(|one| has(one, "master_link_status:up"))
        });
        let mut servers = vec![primary];
        servers.extend(replicas);
        let sentinels = Sentinel::start_three(&servers, down_after, lines)?;
        let set = Self { servers, sentinels };
        let quorum = format!("SENTINEL CKQUORUM {NAME}");
        let agreed = until(|| {
            set.sentinels.iter().all(|one| one.say(&quorum).is_ok_and(|reply| reply.starts_with("+OK")))
        });
        if followed && agreed {
            return Ok(set);
        }
        let said = set.sentinels.iter().map(|one| one.child.said()).collect();
        Err(ServerError::Silent { program: "redis-sentinel".to_owned(), said })
    }

    /// Their address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        let ports: Vec<_> = self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        format!("redis+sentinel://{}/{NAME}", ports.join(","))
    }

    /// The ports of the sentinels.
    #[must_use]
    pub fn sentinel_ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(|one| one.port).collect()
    }

    /// One of the servers, by its place in the order in which they were started.
    ///
    /// # Panics
    /// When there is no such server.
    #[must_use]
    pub fn server(&self, at: usize) -> &RedisServer {
        &self.servers[at]
    }

    /// The servers, in the order in which they were started: the first was the primary then.
    pub fn servers(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }

    /// Which server all sentinels that answer say is the primary, if they agree and it says so as well.
    #[must_use]
    pub fn primary(&self) -> Option<usize> {
        let mut answers: Vec<_> = self.sentinels.iter().filter_map(Sentinel::named_primary).collect();
        answers.dedup();
        let [answer] = &answers[..] else { return None };
        let is_named = |server: &RedisServer| answer.contains(&format!("\r\n{}\r\n", server.port()));
        let primary = self.servers.iter().position(is_named)?;
        self.servers[primary].is_primary().then_some(primary)
    }

    /// Waits until another server than `old` is the primary; none when that does not happen in time.
    #[must_use]
    pub fn wait_for_other(&self, old: usize) -> Option<usize> {
        let mut new = None;
        until(|| {
            new = self.primary().filter(|primary| *primary != old);
            new.is_some()
        });
        new
    }

    /// Makes another server the primary, as an operator does who first lets the replicas catch up; none when that does
    /// not happen in time. The old one is not told at once: for some seconds it still takes itself for a primary.
    #[must_use]
    pub fn fail_over(&self) -> Option<usize> {
        let old = self.primary()?;
        let written = offset(&self.servers[old], "master_repl_offset:")?;
        let behind =
            |at: usize| offset(&self.servers[at], "slave_repl_offset:").is_some_and(|at| at < written);
        until(|| !(0..self.servers.len()).any(|at| at != old && behind(at)));
        let (first, port) = (&self.sentinels[0], format!("\r\n{}\r\n", self.servers[old].port()));
        let mut new = None;
        until(|| {
            new = self.primary().filter(|primary| *primary != old);
            if new.is_none() && first.named_primary().is_some_and(|named| named.contains(&port)) {
                // Refused while it is under way; given up by itself when the machine is too busy for it.
                let _ = first.say(&format!("SENTINEL FAILOVER {NAME}"));
            }
            new.is_some()
        });
        new
    }

    /// Asks for another primary, and waits for nothing; whether that has begun.
    #[must_use]
    pub fn ask_for_another(&self) -> bool {
        let asked = self.sentinels[0].say(&format!("SENTINEL FAILOVER {NAME}"));
        asked.is_ok_and(|reply| reply.starts_with("+OK"))
    }

    /// Kills a sentinel.
    pub fn kill_sentinel(&mut self, at: usize) {
        self.sentinels[at].child.kill();
    }
}

/// How far a server's log of changes has come; none when it does not answer.
fn offset(server: &RedisServer, field: &str) -> Option<u64> {
    let said = server.say("INFO replication").ok()?;
    said.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok())
}

impl Sentinel {
    fn say(&self, command: &str) -> std::io::Result<String> {
        say(self.port, &[command.split(' ').collect()])
    }

    /// Where it says the primary is; none when it does not answer.
    fn named_primary(&self) -> Option<String> {
        self.say(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {NAME}")).ok()
    }

    /// Each knows the servers and the others from the start: finding each other by themselves takes seconds.
    fn start_three(
        servers: &[RedisServer],
        down_after: Duration,
        lines: &[&str],
    ) -> Result<Vec<Self>, ServerError> {
        let ports = free_ports::<3>()?;
        let id = |at: usize| format!("{:040x}", at + 1);
        together(3, |at| {
            let directory = tempfile::tempdir().map_err(ServerError::step("make a directory"))?;
            let (primary, millis) = (servers[0].port(), down_after.as_millis());
            let mut file = format!(
                "port {}\nbind 127.0.0.1\ndir {}\nsentinel myid {}\nsentinel monitor {NAME} 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds {NAME} {millis}\nsentinel failover-timeout {NAME} 1000\n",
                ports[at],
                directory.path().display(),
                id(at),
            );
            // Writing to a string cannot fail.
            for replica in &servers[1..] {
                let _ = writeln!(file, "sentinel known-replica {NAME} 127.0.0.1 {}", replica.port());
            }
            for other in (0..3).filter(|other| *other != at) {
                let _ =
                    writeln!(file, "sentinel known-sentinel {NAME} 127.0.0.1 {} {}", ports[other], id(other));
            }
            lines.iter().for_each(|line| file.extend([*line, "\n"]));
            let config = directory.path().join("sentinel.conf");
            std::fs::write(&config, file).map_err(ServerError::step("write a sentinel's file"))?;
            let child = spawn(ports[at], &config, &directory.path().join("sentinel.log"))?;
            Ok(Self { child, port: ports[at], _directory: directory })
        })
    }
}

fn spawn(port: u16, config: &Path, log: &Path) -> Result<Child, ServerError> {
    let mut child = Program::new("redis-server", PACKAGE).arg(config).arg("--sentinel").start(log)?;
    child.wait_ready(|| super::answers(port))?;
    Ok(child)
}
