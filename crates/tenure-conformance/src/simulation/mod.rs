//! The real keeper on simulated time, under seeded faults.
//!
//! Everything above the engine is the code that users run: clients, keepers, guards. Time is tokio's paused clock,
//! the engine is the reference engine, and between the two lies a network that delays, loses and repeats. One seed
//! decides everything, so a seed that fails once fails always.
//!
//! # What is judged
//! 1. *Exclusion*: no two holds that exclude each other are believed valid at once, each by its own clock.
//! 2. *Tokens*: unique per key, and a hold granted before another was asked for has the lower token.
//! 3. *Fence*: the fenced register of each key loses no update and takes no stale one.
//! 4. *Ghosts*: a claim whose withdrawal was answered is never in the line again.
//! 5. *Signal*: a loss is told no later than the end of the lease.
//! 6. *Progress*: once the faults end, everybody who waits is served.
//! 7. *Leaks*: when all is released and told, the lines are empty and the keepers end.
//!
//! A failover that forgets the last writes breaks exclusion on any engine; in such seeds only the rest is judged.

mod clock;
mod freeze;
mod net;
mod referee;
mod worker;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_core::engine::memory::Memory;
use tenure_core::flaw::{Flaw, with_flaw};
use tenure_core::{Options, Tenure};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use clock::SimClock;
use freeze::Freezer;
use net::{Net, Weather};
use referee::Referee;
use worker::Worker;

/// What one seed went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Holds granted.
    pub grants: u64,
    /// Requests lost, replies lost, requests repeated or late, wakes lost.
    pub faults: u64,
    /// Clients paused for longer than a TTL, cut off, or killed.
    pub disasters: u64,
    /// Holds that were lost.
    pub losses: u64,
    /// Writes that the register refused because their token was stale.
    pub refused: u64,
}

impl Tally {
    /// The sum of two tallies.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            grants: self.grants + other.grants,
            faults: self.faults + other.faults,
            disasters: self.disasters + other.disasters,
            losses: self.losses + other.losses,
            refused: self.refused + other.refused,
        }
    }
}

/// A promise that a seed has broken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// What was broken, and how.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}\n  again with: cargo xtask sim --seed {}", self.seed, self.what, self.seed)
    }
}

impl std::error::Error for Violation {}

/// The TTL of most claims: longer than any message is under way, as a tombstone must be.
pub(crate) const TTL: Duration = Duration::from_secs(6);

/// The longest that a message is under way.
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(3);

/// How long the faults go on.
const STORM: Duration = Duration::from_secs(60);

/// How long after the storm everybody must have been served.
const CALM: Duration = Duration::from_secs(240);

/// Runs one seed.
///
/// # Errors
/// The first promise that was broken.
pub fn run(seed: u64, flaw: Option<Flaw>) -> Result<Tally, Violation> {
    with_flaw(flaw, || {
        // Without I/O there is nothing that could fail to start.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        match runtime {
            Ok(runtime) => runtime.block_on(storm_and_calm(seed)),
            Err(error) => Err(Violation { seed, what: format!("the simulation cannot start: {error}") }),
        }
    })
}

/// One client with everything that runs in its process.
struct Process {
    tenure: Option<Tenure>,
    freezer: Arc<Freezer>,
    weather: Arc<Weather>,
    clock: Arc<SimClock>,
    keeper: JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
}

async fn storm_and_calm(seed: u64) -> Result<Tally, Violation> {
    let mut dice = StdRng::seed_from_u64(seed);
    let failover = dice.random_bool(0.25);
    let engine = Memory::with_clock(Arc::new(SimClock::new(0)));
    let referee = Arc::new(Referee::new(!failover));
    let faults = Arc::new(AtomicU64::new(0));
    let count = dice.random_range(2..=3);
    let mut processes: Vec<_> = (0..count).map(|_| spawn(&mut dice, &engine, &referee, &faults)).collect();
    let disasters = storm(&mut dice, &engine, &mut processes, &referee, failover).await;
    for process in &processes {
        process.weather.clear();
    }
    let verdict = calm(&mut processes, &engine, &referee).await;
    let fail = |what| Violation { seed, what };
    if let Some(what) = referee.verdict() {
        return Err(fail(what));
    }
    verdict.map_err(fail)?;
    Ok(Tally { faults: faults.load(Ordering::Relaxed), disasters, ..referee.tally() })
}

fn spawn(dice: &mut StdRng, engine: &Memory, referee: &Arc<Referee>, faults: &Arc<AtomicU64>) -> Process {
    let freezer = Arc::new(Freezer::default());
    let weather = Arc::new(Weather::new(dice.random(), Arc::clone(faults)));
    // Rates that differ by up to half a percent: more than any crystal, less than the margin.
    let clock = Arc::new(SimClock::new(dice.random_range(-5_000..=5_000)));
    let net = Net::new(engine.clone(), Arc::clone(&weather));
    let options = Options::default().clock(Arc::clone(&clock) as _).seed(dice.random());
    let options = options.observer(referee.observer());
    let (tenure, keeper) = Tenure::with_own_keeper(net, options);
    let keeper = tokio::spawn(freeze::gate(&freezer, keeper));
    let workers = (0..dice.random_range(1..=3)).map(|_| {
        let worker = Worker::new(tenure.clone(), Arc::clone(referee), Arc::clone(&freezer), dice.random());
        tokio::spawn(freeze::gate(&freezer, worker.work(STORM)))
    });
    Process { workers: workers.collect(), tenure: Some(tenure), freezer, weather, clock, keeper }
}

/// Lets disasters happen until the storm is over; returns how many.
#[allow(clippy::disallowed_methods, reason = "simulated time is tokio's")]
async fn storm(
    dice: &mut StdRng,
    engine: &Memory,
    processes: &mut Vec<Process>,
    referee: &Arc<Referee>,
    failover: bool,
) -> u64 {
    let end = Instant::now() + STORM;
    let mut disasters = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(dice.random_range(100..6_000))).await;
        referee.inspect(engine).await;
        if Instant::now() >= end || referee.verdict().is_some() {
            return disasters;
        }
        disasters += 1;
        let victim = dice.random_range(0..processes.len());
        match dice.random_range(0..10) {
            0..=3 => processes[victim].freezer.freeze(Duration::from_millis(dice.random_range(200..15_000))),
            4..=6 => processes[victim].weather.cut(Duration::from_millis(dice.random_range(200..12_000))),
            7 => processes[victim].clock.suspend(Duration::from_millis(dice.random_range(1_000..20_000))),
            8 if failover => fail_over(dice, engine, processes).await,
            _ if processes.len() > 1 => kill(processes.swap_remove(victim)).await,
            _ => disasters -= 1,
        }
    }
}

/// A failover to a replica that lags: what was written last is forgotten, and until it is over nobody is served.
async fn fail_over(dice: &mut StdRng, engine: &Memory, processes: &[Process]) {
    let lagging = engine.snapshot();
    tokio::time::sleep(Duration::from_millis(dice.random_range(10..2_000))).await;
    let outage = Duration::from_millis(dice.random_range(150..3_000));
    for process in processes {
        process.weather.cut(outage);
    }
    tokio::time::sleep(outage / 2).await;
    engine.restore(lagging);
}

/// A killed process says nothing to anybody.
async fn kill(process: Process) {
    process.weather.cut(STORM * 2);
    for worker in process.workers {
        worker.abort();
    }
    process.keeper.abort();
    // The client is leaked on purpose: its destructor would order withdrawals, which a dead process cannot.
    std::mem::forget(process.tenure);
    tokio::task::yield_now().await;
}

/// After the storm all must be served, and nothing may be left.
async fn calm(processes: &mut Vec<Process>, engine: &Memory, referee: &Arc<Referee>) -> Result<(), String> {
    let workers = processes.iter_mut().flat_map(|process| std::mem::take(&mut process.workers));
    let served: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(futures_util::future::join_all(workers));
    match tokio::time::timeout(CALM, served).await {
        Err(_) => return Err("progress: somebody still waits long after the faults have ended".to_owned()),
        Ok(ended) => {
            if let Some(panic) = ended.into_iter().find_map(Result::err) {
                return Err(format!("a worker panicked: {panic}"));
            }
        }
    }
    // Late messages and claims of killed processes have had their time.
    tokio::time::sleep(DELAY_MAX + TTL * 2).await;
    referee.inspect(engine).await;
    for process in processes {
        if let Some(tenure) = process.tenure.take() {
            let left = tenure.shutdown(Duration::from_secs(30)).await;
            if left > 0 {
                return Err(format!("leaks: {left} withdrawals are never done"));
            }
        }
        let ended = tokio::time::timeout(Duration::from_secs(30), &mut process.keeper).await;
        if ended.is_err() {
            return Err("leaks: a keeper does not end after its client".to_owned());
        }
    }
    referee.lines_are_empty(engine).await
}
