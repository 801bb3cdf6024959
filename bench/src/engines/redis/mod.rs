//! Redis on this machine, without persistence.

mod ours;
mod peers;
mod push;
mod raw;
mod rslock;
mod socket;

use std::time::Duration;

use anyhow::{Context, Result};
use tenure_servers::redis::RedisServer;
use tenure_servers::{Monitor, Proxy, Side};

use super::{
    ALONE, ALONE_ON_TWO, Client, Counter, Engine, Entrant, IN_ALL_NUMBERS, NOT_AWAITED, ON_TWO, Site, Work,
};
use crate::anchors::Cohort;
use crate::clock::cpu_of;
use crate::crew::{tasks, tasks_on_two_threads};

pub(crate) const ENGINE: Engine = Engine {
    name: "redis",
    start: || Ok(Box::new(Redis::start(None)?)),
    entrants: &[
        Entrant::here(
            "raw_sync",
            "SET NX PX and a script that compares and deletes, on a blocking socket; in w2 64 in one write",
            &["w1", "w2"],
            raw::on_a_socket,
        )
        .anchors(&["w1", "w2"]),
        Entrant { work: Work::RoundTrip(raw::pings), ..ROUND_TRIP },
        Entrant::here(
            "PING, as if to renew",
            "a thread for each hold that asks for a round trip every third of a TTL: what any renewal survives",
            &["ttl"],
            raw::beats,
        ),
        Entrant::here(
            "raw",
            "the same on the redis crate; asks again without a pause",
            &["w1", "w2", "w3", "w4"],
            tasks::<raw::Raw>,
        ),
        Entrant::here(
            "push",
            "our own least: a queue in Redis, the release grants and pushes; a fence, no renewal",
            &["w1", "w2", "w3", "w4", "w5", "scale"],
            tasks::<push::Push>,
        )
        .anchors(&["w3", "scale"]),
        Entrant::here("cohort", "push, passed on in the process 64 times", &["w4"], tasks::<PushCohort>)
            .anchors(&["w4"]),
        Entrant::tenure(IN_ALL_NUMBERS),
        Entrant::strict(&["w3", "w5", "scale"]),
        Entrant::here(
            NOT_AWAITED,
            "`tenure` whose guards are dropped: nobody waits for a release, and the next acquire begins before it",
            &["w1"],
            tasks::<ours::Dropping>,
        ),
        Entrant::here(
            ALONE,
            "the engine's two verbs with no client above them, and no keeper",
            &["w1"],
            tasks::<ours::Alone>,
        ),
        Entrant::here(
            ON_TWO,
            "`tenure` on a runtime with two threads",
            &["w1"],
            tasks_on_two_threads::<tenure::Tenure>,
        ),
        Entrant::here(
            ALONE_ON_TWO,
            "the engine's two verbs on such a runtime",
            &["w1"],
            tasks_on_two_threads::<ours::Alone>,
        ),
        Entrant::here(
            "rslock",
            "crate rslock 0.10, acquire and release, its defaults",
            &["w1", "w2", "w3", "w4", "w5"],
            tasks::<rslock::Rslock>,
        ),
        peers::REDIS_PY,
        peers::REDSYNC,
        peers::REDISLOCK,
        peers::REDIS_SEMAPHORE,
        peers::NODE_REDLOCK,
        peers::POTTERY,
        peers::REDISSON,
    ],
};

/// The same Redis behind a way that takes about ten times as long as the loopback address.
pub(crate) const SLOW: Engine = Engine {
    name: "redis, slow network",
    start: || Ok(Box::new(Redis::start(Some(ONE_WAY))?)),
    entrants: &[
        Entrant::here("raw_sync", "as above, each way 0.5 ms longer", &["w1"], raw::on_a_socket)
            .anchors(&["w1"]),
        Entrant { work: Work::RoundTrip(raw::pings), takes_part_in: &["w1", "w3"], ..ROUND_TRIP },
        Entrant::here("push", "as above", &["w1", "w3", "w4"], tasks::<push::Push>).anchors(&["w3"]),
        Entrant::here("cohort", "as above", &["w4"], tasks::<PushCohort>).anchors(&["w4"]),
        Entrant::tenure(&["w1", "w3", "w4"]),
        Entrant::strict(&["w3"]),
        Entrant::here("rslock", "as above", &["w1", "w3", "w4"], tasks::<rslock::Rslock>),
    ],
};

/// By how much longer each way is: the round trip of loopback is some 0.1 ms.
const ONE_WAY: Duration = Duration::from_micros(500);

const ROUND_TRIP: Entrant =
    Entrant::here("PING", "one round trip of the same minute, on a blocking socket", &["w3"], raw::pings);

/// A command that takes longer than this many microseconds is a stall for everybody else.
const STALL_US: &str = "300";

/// How long our anchors wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

struct Redis {
    server: RedisServer,
    /// What makes the way to it longer.
    proxy: Option<Proxy>,
    monitor: Option<Monitor>,
    /// Processor time and bytes when the counting began.
    before: (f64, f64),
}

impl Redis {
    fn start(one_way: Option<Duration>) -> Result<Self> {
        let server = RedisServer::start(&["--slowlog-log-slower-than", STALL_US])?;
        let proxy = one_way.map(|delay| {
            let proxy = Proxy::before(server.port(), Proxy::resp)?;
            proxy.delay(Side::Requests, delay);
            proxy.delay(Side::Replies, delay);
            anyhow::Ok(proxy)
        });
        Ok(Self { server, proxy: proxy.transpose()?, monitor: None, before: (0.0, 0.0) })
    }

    fn cpu_and_bytes(&self) -> Result<(f64, f64)> {
        let info = self.server.say("INFO stats")?;
        let field = |name: &str| -> f64 {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
        };
        let cpu = cpu_of(self.server.process().pid()).unwrap_or(0.0);
        Ok((cpu, field("total_net_input_bytes") + field("total_net_output_bytes")))
    }
}

impl Site for Redis {
    fn url(&self) -> String {
        // A machine that does other work as well may stall for longer than is usual between computers.
        format!("{}?timeout-ms=10000&connect-timeout-ms=10000", self.address())
    }

    fn address(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("redis://127.0.0.1:{}", proxy.port()),
            None => self.server.url(),
        }
    }

    fn begin(&mut self, closely: bool) -> Result<()> {
        if closely {
            self.monitor = Some(Monitor::start(self.server.port())?);
        }
        self.server.say("SLOWLOG RESET")?;
        self.before = self.cpu_and_bytes()?;
        Ok(())
    }

    fn end(&mut self) -> Result<Vec<Counter>> {
        let count = |per_cycle, per_second, count| Counter { per_cycle, per_second, count };
        if let Some(monitor) = self.monitor.take() {
            let seen = monitor.end()?;
            // Our own look at the server is no part of it.
            let ours = ["INFO", "QUIT", "SLOWLOG"];
            let commands = seen.commands.iter().filter(|(name, _)| !ours.contains(&name.as_str()));
            let commands = commands.map(|(_, count)| *count).sum::<u64>() as f64;
            let calls = seen.calls.values().sum::<u64>() as f64;
            let published = ["PUBLISH", "SPUBLISH"].iter().filter_map(|name| seen.calls.get(*name));
            let wakes = published.sum::<u64>() as f64;
            return Ok(vec![
                count("wakes/cycle", "wakes/s", wakes),
                count("commands/cycle", "commands/s", commands),
                count("script calls/cycle", "script calls/s", calls),
            ]);
        }
        let (cpu, bytes) = self.cpu_and_bytes()?;
        let stalls = self.server.say("SLOWLOG LEN")?;
        let stalls = stalls.trim().trim_start_matches(':').parse().context("SLOWLOG LEN")?;
        Ok(vec![
            count("stalls/cycle", "stalls/s", stalls),
            count("bytes/cycle", "bytes/s", bytes - self.before.1),
            count("server us/cycle", "server us/s", cpu - self.before.0),
        ])
    }
}

/// The `push` anchor with a cohort before it.
struct PushCohort {
    push: push::Push,
    cohorts: std::sync::Mutex<std::collections::HashMap<String, Cohort<push::PushLock>>>,
}

impl Client for PushCohort {
    type Lock = Cohort<push::PushLock>;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self { push: push::Push::open(at).await?, cohorts: std::sync::Mutex::default() })
    }

    fn lock(&self, key: &str, ttl: Duration) -> Self::Lock {
        let mut cohorts = self.cohorts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let cohort = cohorts.entry(key.to_owned());
        cohort.or_insert_with(|| Cohort::of(self.push.lock(key, ttl))).clone()
    }
}
