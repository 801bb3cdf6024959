//! By hand: it wants a server, and its figures a quiet machine.
//!
//! Measures a lock's cycle against the bare one, on a server given by URL:
//! `cargo run --release -p tenure-redis --example measure_redis -- redis://127.0.0.1:6379`
//!
//! The bare cycle is `SET NX PX` and a script that compares and deletes, on the redis crate: no line, no fencing token,
//! nobody to renew. All take turns in short rounds; a ratio is the median of those of the rounds. What the commands of
//! a cycle cost the server is what `INFO commandstats` says, of the round in which it was least.
//!
//! `… -- URL bare|verbs|face TASKS CYCLES` runs so many cycles in each of so many tasks, and nothing else: for a
//! profiler that counts, such as callgrind, on the server. Two numbers of cycles give what one takes.

#![allow(clippy::unwrap_used, reason = "a program for people who measure")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tenure_core::engine::{Attempt, Contender, Engine, Stray};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{Claim, ClaimId, Key, Tenure};
use tenure_redis::{Redis, RedisOptions};

const ROUND: Duration = Duration::from_millis(700);
const ROUNDS: usize = 9;
/// A machine that does other work as well may stall for long.
const PATIENCE: Duration = Duration::from_secs(10);

trait Cycle: Send + 'static {
    fn once(&mut self) -> impl Future<Output = ()> + Send;
}

struct Raw {
    connection: redis::aio::MultiplexedConnection,
    script: Arc<redis::Script>,
    key: String,
}

impl Cycle for Raw {
    async fn once(&mut self) {
        let owner = format!("{:032x}", rand::random::<u128>());
        let set: Option<String> = redis::cmd("SET")
            .arg(&[self.key.as_str(), &owner, "NX", "PX", "30000"])
            .query_async(&mut self.connection)
            .await
            .unwrap();
        assert!(set.is_some());
        let deleted: u8 =
            self.script.key(&self.key).arg(&owner).invoke_async(&mut self.connection).await.unwrap();
        assert_eq!(deleted, 1);
    }
}

/// The engine's two verbs alone.
struct Verbs {
    engine: Redis,
    key: Key,
}

impl Cycle for Verbs {
    async fn once(&mut self) {
        let claim = Claim::new(self.key.clone(), ClaimId::from_bits(rand::random()));
        let mut contender = self.engine.contend(claim);
        assert!(matches!(contender.attempt().await.unwrap(), Attempt::Granted(_)));
        contender.withdraw(Stray::Impossible).await.unwrap();
    }
}

/// What users write.
struct Face {
    tenure: Tenure,
    key: Key,
}

impl Cycle for Face {
    async fn once(&mut self) {
        let guard = self.tenure.lock(self.key.as_str()).acquire().await.unwrap();
        guard.release().await.unwrap();
    }
}

/// What the server has spent on commands, in microseconds. What scripts call is part of what they take.
async fn spent(connection: &redis::aio::MultiplexedConnection) -> f64 {
    let mut connection = connection.clone();
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
    let of = |command: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")));
        let usec = line.and_then(|line| line.split(',').find_map(|part| part.strip_prefix("usec=")));
        usec.map_or(0.0, |usec| usec.parse().unwrap())
    };
    // Neither the scripts here nor those of the engine call SET.
    of("set") + of("evalsha") + of("eval")
}

/// Cycles per second of some tasks, and what the server spends on the commands of one.
async fn rate<C: Cycle>(connection: &redis::aio::MultiplexedConnection, cycles: Vec<C>) -> [f64; 2] {
    let before = spent(connection).await;
    let (start, done) = (SystemClock.now(), Arc::new(AtomicU64::new(0)));
    let end = start.after(ROUND);
    let tasks: Vec<_> = cycles
        .into_iter()
        .map(|mut cycle| {
            let done = Arc::clone(&done);
            tokio::spawn(async move {
                while !SystemClock.now().reached(end) {
                    cycle.once().await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (done, time) = (done.load(Ordering::Relaxed) as f64, SystemClock.now().since(start));
    [done / time.as_secs_f64(), (spent(connection).await - before) / done]
}

/// Everybody who takes part.
struct Stage {
    connection: redis::aio::MultiplexedConnection,
    script: Arc<redis::Script>,
    engine: Redis,
    tenure: Tenure,
    run: u64,
}

impl Stage {
    async fn open(url: &str) -> Self {
        let client = redis::Client::open(url).unwrap();
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
        let text =
            "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
        let script = Arc::new(redis::Script::new(text));
        let options = RedisOptions::from_url(url).unwrap();
        let options = options.with_response_timeout(PATIENCE).with_connect_timeout(PATIENCE);
        let engine = Redis::open(&options).await.unwrap();
        Self { connection, script, tenure: Tenure::new(engine.clone()), engine, run: rand::random() }
    }

    fn key(&self, n: usize) -> String {
        format!("measure/{:x}/{n}", self.run)
    }

    fn raw(&self, n: usize) -> Raw {
        Raw { connection: self.connection.clone(), script: Arc::clone(&self.script), key: self.key(n) }
    }

    fn verbs(&self, n: usize) -> Verbs {
        Verbs { engine: self.engine.clone(), key: Key::new(self.key(n)).unwrap() }
    }

    fn face(&self, n: usize) -> Face {
        Face { tenure: self.tenure.clone(), key: Key::new(self.key(n)).unwrap() }
    }
}

/// So many cycles of each.
async fn repeat<C: Cycle>(each: Vec<C>, cycles: usize) {
    let tasks: Vec<_> = each
        .into_iter()
        .map(|mut cycle| {
            tokio::spawn(async move {
                for _ in 0..cycles {
                    cycle.once().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn count(url: &str, who: &str, tasks: usize, cycles: usize) {
    let stage = Stage::open(url).await;
    match who {
        "bare" => repeat((0..tasks).map(|n| stage.raw(n)).collect(), cycles).await,
        "verbs" => repeat((0..tasks).map(|n| stage.verbs(n)).collect(), cycles).await,
        "face" => repeat((0..tasks).map(|n| stage.face(n)).collect(), cycles).await,
        _ => panic!("who is {who}?"),
    }
}

async fn measure(url: &str, tasks: usize) {
    let stage = Stage::open(url).await;
    let mut rates: Vec<[[f64; 2]; 3]> = Vec::new();
    for _ in 0..=ROUNDS {
        rates.push([
            rate(&stage.connection, (0..tasks).map(|n| stage.raw(n)).collect()).await,
            rate(&stage.connection, (0..tasks).map(|n| stage.verbs(n)).collect()).await,
            rate(&stage.connection, (0..tasks).map(|n| stage.face(n)).collect()).await,
        ]);
    }
    rates.remove(0); // The first round warms up.
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    for (at, what) in
        ["bare cycle, redis crate", "the engine's verbs", "acquire and release"].iter().enumerate()
    {
        let rate = median(rates.iter().map(|round| round[at][0]).collect());
        let ratio = median(rates.iter().map(|round| round[at][0] / round[0][0]).collect());
        // Whatever else the machine does only adds to it.
        let spent = rates.iter().map(|round| round[at][1]).fold(f64::INFINITY, f64::min);
        println!("{tasks:>3} tasks  {what:<24} {rate:>9.0}/s  {ratio:.2}  commands {spent:>5.1} us/cycle");
    }
}

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let url = args.first().cloned().unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    if let [_, who, tasks, cycles] = &args[..] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(count(&url, who, tasks.parse().unwrap(), cycles.parse().unwrap()));
    }
    for (name, mut builder) in [
        ("one thread", tokio::runtime::Builder::new_current_thread()),
        ("two threads", tokio::runtime::Builder::new_multi_thread()),
    ] {
        println!("{name}");
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            for tasks in [1, 64] {
                // In a task, as in most programs: the future of `block_on` is another thread's business.
                let url = url.clone();
                tokio::spawn(async move { measure(&url, tasks).await }).await.unwrap();
            }
        });
    }
}
