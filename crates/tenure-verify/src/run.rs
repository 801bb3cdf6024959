//! One run: workers and a nemesis for a while, then calm, then the judge.

use std::ffi::OsString;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use tenure::engine::{Facts, Liveness, Order, Permits, Standing};
use tenure::{ErrorKind, Tenure};
use tenure_core::flaw::Flaw;

use crate::VerifyError;
use crate::crew::{Crew, Start};
use crate::history::{Event, Header, History, KeyKind, KeyPlan, Micros, Promises, VERSION};
use crate::nemesis::{Kind, Nemesis, Schedule};
use crate::own::Own;
use crate::referee::{Live, Referee, now};
use crate::site::Site;
use crate::summary::Outcome;
use crate::worker::{self, Plan};

/// How long everything may take to end after the last fault, beside what leases take.
const END_LIMIT: Duration = Duration::from_secs(60);

/// How often the lines of keys are looked at, in parts of a TTL, and at most.
const LOOKS: u32 = 40;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the first answer of the engine may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The engine; the local one in a directory of its own, if there is none.
    pub url: Option<String>,
    /// For how long there are faults.
    pub time: Duration,
    /// How many workers.
    pub workers: u32,
    /// How many keys.
    pub keys: u32,
    /// What is done to them; what is possible without harm to others, if nothing is said.
    pub nemesis: Option<Vec<Kind>>,
    /// What the dice are thrown with.
    pub seed: u64,
    /// The TTL of all claims.
    pub ttl: Duration,
    /// How many servers to start for the run.
    pub own_servers: Option<u32>,
    /// Where the history and the verdict go.
    pub report: Option<PathBuf>,
    /// How a worker process is started; the socket of the referee and the number of the life are added.
    pub worker: Vec<OsString>,
    /// A flaw to plant in workers inside this process, for tests of the judge.
    pub flaw: Option<Flaw>,
    /// Whether messages of workers inside this process are late now and then all the time, for tests of the judge.
    pub rough: bool,
    /// Whether holders enter the resource before they read, as they should.
    pub fence_in: bool,
}

impl Options {
    /// A run of so long, with worker processes that are started by a command.
    #[must_use]
    pub fn new(time: Duration, worker: Vec<OsString>) -> Self {
        Self {
            url: None,
            time,
            workers: 8,
            keys: 4,
            nemesis: None,
            seed: 1,
            ttl: Duration::from_secs(2),
            own_servers: None,
            report: None,
            worker,
            flaw: None,
            rough: false,
            fence_in: true,
        }
    }
}

/// Runs it: progress is told now and then, and `stop` ends the faults early.
///
/// # Errors
/// When the options make no sense, the engine cannot be reached, or the run itself fails. What the judge found is no
/// error.
pub fn run(
    options: &Options,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Micros, &Live),
) -> Result<Outcome, VerifyError> {
    let ttl = micros(options.ttl);
    let mut site = open(options, ttl)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| VerifyError::trouble(format!("cannot start: {error}")))?;
    let watcher = runtime.block_on(reach(&site))?;
    let nemesis = choose(options, &site)?;
    if nemesis.contains(&Kind::Cut) {
        site.interpose(options.workers as usize)?;
    }
    let header = header(options, &nemesis, &mut site, watcher.facts());
    let scratch = Scratch::new(options.report.as_deref())?;
    let journal = scratch.journal();
    let file = File::create(&journal).map_err(|error| scratch.trouble(&error))?;
    let referee = Referee::new(&header, BufWriter::new(file)).map_err(|error| scratch.trouble(&error))?;
    let referee = Arc::new(referee);
    let crew = crew(options, &header, &site, &scratch, &referee)?;
    let mut stage = Stage { options, stop, site, crew, referee, header };
    stage.play(nemesis, progress)?;
    runtime.block_on(stage.clear(&watcher));
    stage.referee.finish().map_err(|error| scratch.trouble(&error))?;
    let history = History::load(&journal).map_err(|error| VerifyError::trouble(error.to_string()))?;
    let outcome = Outcome::of(history, scratch.kept());
    if let Some(report) = &options.report {
        outcome.write(report).map_err(|error| scratch.trouble(&error))?;
    } else if outcome.is_violated() {
        scratch.keep();
    }
    Ok(outcome)
}

fn open(options: &Options, ttl: Micros) -> Result<Site, VerifyError> {
    let usage = |message: &str| Err(VerifyError::Usage(message.to_owned()));
    if options.workers == 0 || options.keys == 0 {
        return usage("a run needs at least one worker and one key");
    }
    match (options.url.as_deref(), options.own_servers) {
        (None, Some(_)) => {
            usage("--own-servers needs the engine whose servers are to be started, such as redis:")
        }
        (None, None) => Site::local(ttl),
        (Some("memory:"), None) => Ok(Site::inside(ttl)),
        (Some(url), Some(count)) => {
            let scheme = url.trim_end_matches('/').trim_end_matches(':');
            Ok(Site::own(Own::start(scheme, count)?, ttl))
        }
        (Some(url), None) => Ok(Site::at(url, ttl)),
    }
}

/// Connects, and asks something.
async fn reach(site: &Site) -> Result<Tenure, VerifyError> {
    let asked = async {
        if let Some(url) = site.needs_tables() {
            tenure::migrate(url).await?;
        }
        let tenure = site.connect().await?;
        tenure.keys("tenure-verify/", None, 1).await?;
        Ok(tenure)
    };
    let late = || VerifyError::Unreachable(format!("the engine does not answer within {CONNECT_LIMIT:?}"));
    let asked = tokio::time::timeout(CONNECT_LIMIT, asked).await.map_err(|_| late())?;
    asked.map_err(|error: tenure::Error| match error.kind() {
        ErrorKind::InvalidUrl => VerifyError::Usage(error.to_string()),
        ErrorKind::Unreachable => VerifyError::Unreachable(error.to_string()),
        _ => VerifyError::trouble(error.to_string()),
    })
}

/// The faults that were asked for, or those that do no harm to others.
fn choose(options: &Options, site: &Site) -> Result<Vec<Kind>, VerifyError> {
    let possible = site.possible();
    let Some(asked) = &options.nemesis else {
        let harmless = |kind: &Kind| matches!(kind, Kind::Kill | Kind::Pause | Kind::Cut);
        let own = |kind: &Kind| matches!(kind, Kind::Freeze | Kind::Flush);
        return Ok(possible.into_iter().filter(|kind| harmless(kind) || own(kind)).collect());
    };
    let mut kinds = asked.clone();
    kinds.sort_unstable();
    kinds.dedup();
    if let Some(kind) = kinds.iter().find(|kind| !possible.contains(kind)) {
        let possible: Vec<_> = possible.iter().map(ToString::to_string).collect();
        let why = match kind {
            Kind::Cut => {
                "a proxy stands before one server without encryption, and sentinels and clusters send clients past it"
            }
            _ => "servers are only harmed that were started by --own-servers",
        };
        let message = format!("{kind} is not possible here: use some of {}; {why}", possible.join(", "));
        return Err(VerifyError::Usage(message));
    }
    Ok(kinds)
}

fn header(options: &Options, nemesis: &[Kind], site: &mut Site, facts: &Facts) -> Header {
    // Two runs must not meet on a key, even with the same seed.
    let run: u32 = rand::rng().random();
    let kinds = kinds(facts);
    let keys = (0..options.keys).map(|n| {
        let (name, kind) = kinds[n as usize % kinds.len()];
        KeyPlan { name: format!("tenure-verify/{run:08x}/{name}-{n}"), kind }
    });
    Header {
        tenure_history: VERSION,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        engine: site.expected_as().unwrap_or(facts.engine).to_owned(),
        server: site.server(),
        nemesis: nemesis.iter().map(ToString::to_string).collect(),
        seed: options.seed,
        workers: options.workers,
        ttl: micros(options.ttl),
        promises: Promises {
            arrival: facts.order == Order::Arrival,
            // A session runs out as a lease does.
            lease: facts.liveness != Liveness::Process,
            claim_window: micros(facts.claim_window),
            refresh_every: micros(facts.refresh_every),
        },
        keys: keys.collect(),
    }
}

/// What keys are used for: all that the engine has. Wishes that are refused would prove nothing.
fn kinds(facts: &Facts) -> Vec<(&'static str, KeyKind)> {
    let seats = (facts.permits == Permits::Kept).then_some(("seats", KeyKind::Seats(2)));
    [("mutex", KeyKind::Mutex), ("file", KeyKind::File)].into_iter().chain(seats).collect()
}

fn crew(
    options: &Options,
    header: &Header,
    site: &Site,
    scratch: &Scratch,
    referee: &Arc<Referee>,
) -> Result<Crew, VerifyError> {
    let mut dice = StdRng::seed_from_u64(options.seed ^ 0x7e4e);
    let plans = (0..options.workers).map(|worker| Plan {
        life: 0,
        worker,
        url: site.url_of(worker as usize),
        seed: dice.random(),
        ttl: header.ttl,
        keys: header.keys.clone(),
        alone: worker % 2 == 0,
        fence_in: options.fence_in,
    });
    let start = match site.memory() {
        Some(engine) => Start::Inside {
            engine: engine.clone(),
            flaw: options.flaw,
            rough: options.rough.then_some(options.ttl * 9 / 10),
        },
        None => Start::Process { command: options.worker.clone(), log: scratch.path().join("workers.log") },
    };
    let crew = Crew::new(start, Arc::clone(referee), scratch.socket_home(), plans.collect());
    crew.map_err(|error| VerifyError::trouble(format!("cannot start the workers: {error}")))
}

/// A run as it goes on.
struct Stage<'a> {
    options: &'a Options,
    stop: &'a AtomicBool,
    site: Site,
    crew: Crew,
    referee: Arc<Referee>,
    header: Header,
}

impl Stage<'_> {
    /// Faults for as long as was asked for, then calm, until all workers have ended.
    fn play(&mut self, kinds: Vec<Kind>, progress: &mut dyn FnMut(Micros, &Live)) -> Result<(), VerifyError> {
        let (tell, told) = channel();
        worker::probe(None, tell);
        let ears = Arc::clone(&self.referee);
        std::thread::spawn(move || {
            told.into_iter().for_each(|event| {
                // Nobody waits for the answer.
                let _ = ears.hear(event);
            })
        });
        let done = Arc::new(AtomicBool::new(false));
        let looks = self.look_around(Arc::clone(&done));
        let stormed = self.storm(kinds, progress);
        self.referee.stop();
        let limit = END_LIMIT + self.options.ttl * 2;
        let late = self.crew.finish(limit);
        done.store(true, Ordering::Relaxed);
        // It ends after its next look, which has a limit.
        drop(looks.join());
        stormed?;
        if let Some(life) = late.first() {
            return Err(VerifyError::trouble(format!(
                "life {life} of a worker did not end within {limit:?}"
            )));
        }
        Ok(())
    }

    fn storm(
        &mut self,
        kinds: Vec<Kind>,
        progress: &mut dyn FnMut(Micros, &Live),
    ) -> Result<(), VerifyError> {
        let (start, ttl) = (now(), self.header.ttl);
        let schedule = Schedule::new(self.options.seed, &kinds, self.options.workers as usize, ttl);
        let mut nemesis = Nemesis::new(schedule);
        let end = start + micros(self.options.time);
        let mut tick = start;
        while now() < end && !self.stop.load(Ordering::Relaxed) {
            let idle =
                nemesis.act(&mut self.crew, &mut self.site, &self.referee).map_err(VerifyError::trouble)?;
            for at in 0..self.crew.members.len() {
                if !self.crew.is_alive(at) && !nemesis.has_killed(at) {
                    return Err(VerifyError::trouble(format!("worker {at} has ended by itself")));
                }
            }
            if now() >= tick {
                progress(now() - start, &self.referee.live());
                tick += 1_000_000;
            }
            std::thread::park_timeout(idle.clamp(Duration::from_millis(1), Duration::from_millis(50)));
        }
        nemesis.calm(&mut self.crew, &mut self.site, &self.referee).map_err(VerifyError::trouble)?;
        self.referee.hear(Event::Calm {});
        // What was hit last shows whether it recovers.
        let recovered = now() + ttl;
        while now() < recovered {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        progress(now() - start, &self.referee.live());
        Ok(())
    }

    /// Looks at the lines now and then, with a client of its own that no nemesis touches.
    fn look_around(&self, done: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
        let (referee, keys) = (Arc::clone(&self.referee), self.header.keys.clone());
        let site = self.site.watch();
        let pause = (self.options.ttl / LOOKS).min(LOOK_EVERY);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            // Without a look there is nothing to judge, which the judge says.
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let Ok(tenure) = site.connect().await else { return };
                for key in (0..keys.len()).cycle() {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                    let asked = now();
                    let line =
                        tokio::time::timeout(Duration::from_secs(1), tenure.inspect(&keys[key].name)).await;
                    if let Ok(Ok(line)) = line {
                        let place = |place: &tenure::engine::PlaceView| match place.standing {
                            Standing::Waits => (place.claim, false, None),
                            Standing::Holds { expires_in, .. } => (place.claim, true, expires_in.map(micros)),
                        };
                        let places = line.places.iter().map(place);
                        referee.hear(Event::Line { key, asked, places: places.collect() });
                    }
                }
            });
        })
    }

    /// Waits until the lines are empty, and takes out what does not go by itself.
    async fn clear(&self, watcher: &Tenure) {
        let promises = &self.header.promises;
        let deadline = now() + 2 * self.header.ttl + 2 * promises.claim_window + 5_000_000;
        let Some(prefix) = self.header.keys[0].name.rsplit_once('/').map(|(prefix, _)| format!("{prefix}/"))
        else {
            return;
        };
        let left = loop {
            match watcher.keys(&prefix, None, 100).await {
                Ok(keys) if keys.is_empty() => break keys,
                Ok(keys) if now() > deadline => break keys,
                Err(_) if now() > deadline => return,
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        };
        self.referee.hear(Event::Left { keys: left.iter().map(ToString::to_string).collect() });
        for key in left {
            let Ok(line) = watcher.inspect(key.as_str()).await else { continue };
            for place in line.places {
                // It was reported; that it is gone now is all we can do.
                drop(watcher.evict(key.as_str(), place.claim).await);
            }
        }
    }
}

/// Where a run keeps its files: those of the report, and those that go with it.
struct Scratch {
    directory: TempDir,
    report: Option<PathBuf>,
}

impl Scratch {
    fn new(report: Option<&Path>) -> Result<Self, VerifyError> {
        let trouble = |error| VerifyError::trouble(format!("cannot make a directory: {error}"));
        if let Some(report) = report {
            std::fs::create_dir_all(report).map_err(trouble)?;
        }
        let directory = tempfile::Builder::new().prefix("tenure-verify-").tempdir().map_err(trouble)?;
        Ok(Self { directory, report: report.map(Path::to_owned) })
    }

    fn path(&self) -> &Path {
        self.report.as_deref().unwrap_or(self.directory.path())
    }

    /// Short enough for the name of a socket, and only ours to enter.
    fn socket_home(&self) -> &Path {
        self.directory.path()
    }

    fn journal(&self) -> PathBuf {
        self.path().join("history.jsonl")
    }

    fn kept(&self) -> PathBuf {
        self.journal()
    }

    fn keep(self) {
        drop(self.directory.keep());
    }

    fn trouble(&self, error: &dyn std::fmt::Display) -> VerifyError {
        VerifyError::trouble(format!("cannot write the history to {}: {error}", self.path().display()))
    }
}

fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_for_that_the_engine_does_not_have() {
        let mut facts = Facts::of_leases("some");
        assert!(kinds(&facts).iter().any(|(_, kind)| matches!(kind, KeyKind::Seats(_))));
        facts.permits = Permits::Refused;
        assert_eq!(kinds(&facts), [("mutex", KeyKind::Mutex), ("file", KeyKind::File)]);
    }
}
