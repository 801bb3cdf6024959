//! The workers of a run, as processes or inside this one, and what can be done to them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tenure::{Options, Tenure};
use tenure_core::engine::distant::Distant;
use tenure_core::engine::memory::Memory;
use tenure_core::flaw::Flaw;
use tenure_servers::{Child, Program};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Notify, oneshot};

use crate::court::{Court, Voice};
use crate::history::{Event, Life};
use crate::referee::{Referee, now};
use crate::weather::Weather;
use crate::worker::{self, Plan};

/// What a worker lives in.
#[derive(Debug)]
enum Body {
    /// A process of its own.
    Process(Child),
    /// A thread of ours.
    Inside(Inside),
}

/// How workers are started.
#[derive(Clone, Debug)]
pub(crate) enum Start {
    /// As a program with these arguments, to which the socket and the life are added.
    Process { command: Vec<std::ffi::OsString>, log: PathBuf },
    /// As a thread, at an engine in memory.
    Inside { engine: Memory, flaw: Option<Flaw>, rough: Option<Duration> },
}

/// One worker.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) life: Life,
    body: Option<Body>,
    pub(crate) paused: bool,
    pub(crate) weather: Arc<Weather>,
}

/// All workers.
#[derive(Debug)]
pub(crate) struct Crew {
    start: Start,
    referee: Arc<Referee>,
    court: Option<Court>,
    /// The plan of each worker, without its life.
    plans: Vec<Plan>,
    pub(crate) members: Vec<Member>,
    lives: Life,
}

impl Crew {
    pub(crate) fn new(
        start: Start,
        referee: Arc<Referee>,
        directory: &Path,
        plans: Vec<Plan>,
    ) -> io::Result<Self> {
        let court = match &start {
            Start::Process { .. } => Some(Court::open(directory, &referee)?),
            Start::Inside { .. } => None,
        };
        let mut crew = Self { start, referee, court, plans, members: Vec::new(), lives: 0 };
        for at in 0..crew.plans.len() {
            let rough = match &crew.start {
                Start::Inside { rough, .. } => *rough,
                Start::Process { .. } => None,
            };
            let weather = Arc::new(Weather::new(crew.plans[at].seed, rough));
            crew.members.push(Member { life: 0, body: None, paused: false, weather });
            crew.begin(at)?;
        }
        Ok(crew)
    }

    /// Begins a new life of a worker.
    pub(crate) fn begin(&mut self, at: usize) -> io::Result<()> {
        let life = self.lives;
        self.lives += 1;
        let mut plan = self.plans[at].clone();
        plan.life = life;
        plan.seed = plan.seed.wrapping_add(u64::from(life) << 32);
        self.referee.hear(Event::Born { life, worker: plan.worker });
        let body = match (&self.start, &self.court) {
            (Start::Process { command, log }, Some(court)) => {
                court.expect(plan);
                let [program, args @ ..] = command.as_slice() else {
                    return Err(io::ErrorKind::NotFound.into());
                };
                let program =
                    Program::new(program, "tenure").args(args).arg(court.socket()).arg(life.to_string());
                Body::Process(program.start(log).map_err(io::Error::other)?)
            }
            (Start::Inside { engine, flaw, .. }, _) => {
                let weather = Arc::clone(&self.members[at].weather);
                Body::Inside(Inside::start(plan, engine.clone(), weather, Arc::clone(&self.referee), *flaw))
            }
            (Start::Process { .. }, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        let member = &mut self.members[at];
        (member.life, member.body, member.paused) = (life, Some(body), false);
        Ok(())
    }

    pub(crate) fn is_alive(&mut self, at: usize) -> bool {
        match &mut self.members[at].body {
            None => false,
            Some(Body::Process(child)) => child.ended().is_none(),
            Some(Body::Inside(inside)) => !inside.thread.as_ref().is_none_or(JoinHandle::is_finished),
        }
    }

    /// Kills a worker; it is begun again later.
    pub(crate) fn kill(&mut self, at: usize) {
        let member = &mut self.members[at];
        match member.body.take() {
            None => return,
            Some(Body::Process(mut child)) => child.kill(),
            Some(Body::Inside(inside)) => inside.kill(),
        }
        self.referee.hear(Event::Dead { life: member.life });
    }

    pub(crate) fn pause(&mut self, at: usize, paused: bool) {
        let member = &mut self.members[at];
        member.paused = paused;
        match &member.body {
            Some(Body::Process(child)) if paused => child.freeze(),
            Some(Body::Process(child)) => child.thaw(),
            Some(Body::Inside(inside)) => inside.pause(paused),
            None => {}
        }
    }

    /// Waits until all workers have ended by themselves; says which have not, and ends them.
    pub(crate) fn finish(&mut self, limit: Duration) -> Vec<Life> {
        let deadline = now() + limit.as_micros() as u64;
        let mut late = Vec::new();
        for at in 0..self.members.len() {
            while self.is_alive(at) && now() < deadline {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            if self.is_alive(at) {
                late.push(self.members[at].life);
            }
            self.kill(at);
        }
        late
    }
}

/// A worker inside this process: a thread with a runtime on which both its tasks and its keeper run, so that one that
/// is stopped is stopped as a whole.
#[derive(Debug)]
struct Inside {
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Control {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
    told: Notify,
}

impl Inside {
    fn start(
        plan: Plan,
        engine: Memory,
        weather: Arc<Weather>,
        referee: Arc<Referee>,
        flaw: Option<Flaw>,
    ) -> Self {
        let control = Arc::new(Control::default());
        let obeyed = Arc::clone(&control);
        let thread = std::thread::spawn(move || {
            let live = || {
                // Without I/O there is nothing that could fail to start; a worker that is not there is noticed.
                let (Ok(runtime), Ok(network)) = (runtime(), Network::start(flaw)) else { return };
                let engine = network.reach(engine, weather);
                runtime.block_on(inside(&plan, engine, referee, &obeyed));
                runtime.shutdown_background();
                network.end();
            };
            with_flaw(flaw, live);
        });
        Self { control, thread: Some(thread) }
    }

    fn pause(&self, paused: bool) {
        self.control.state.lock().unwrap_or_else(PoisonError::into_inner).0 = paused;
        self.control.changed.notify_all();
        self.control.told.notify_one();
    }

    fn kill(mut self) {
        *self.control.state.lock().unwrap_or_else(PoisonError::into_inner) = (false, true);
        self.control.changed.notify_all();
        self.control.told.notify_one();
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended, too; its panic was printed.
            drop(thread.join());
        }
    }
}

impl Control {
    /// Holds the whole thread while it is stopped; returns when it is killed.
    async fn obey(&self) {
        loop {
            self.told.notified().await;
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let state = self.changed.wait_while(state, |state| state.0 && !state.1);
            if state.unwrap_or_else(PoisonError::into_inner).1 {
                return;
            }
        }
    }
}

/// The network of a worker inside this process: what is under way goes on while the worker is stopped, and is lost with
/// it. It would be later than any network is if it were stopped, too.
struct Network {
    carrier: Handle,
    thread: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl Network {
    fn start(flaw: Option<Flaw>) -> io::Result<Self> {
        let runtime = runtime()?;
        let carrier = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        // Requests are served where they arrive, so that the flaw is planted there as well.
        let carry = move || {
            with_flaw(flaw, || {
                // It ends when nobody is left to say so, too.
                drop(runtime.block_on(ended));
                runtime.shutdown_background();
            });
        };
        Ok(Self { carrier, thread: std::thread::spawn(carry), end })
    }

    /// The engine, as it is reached over this network.
    fn reach(&self, engine: Memory, weather: Arc<Weather>) -> Distant<Memory, Weather> {
        Distant::new(engine, weather).carried_by(self.carrier.clone())
    }

    /// Ends it, with all that is under way.
    fn end(self) {
        drop(self.end);
        // One that panicked has ended, too; its panic was printed.
        drop(self.thread.join());
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_time().build()
}

async fn inside(plan: &Plan, engine: Distant<Memory, Weather>, referee: Arc<Referee>, control: &Control) {
    let heard = Arc::clone(&referee);
    let options = Options::default().observer(worker::observer(plan.life, move |event| {
        // Nobody waits for the answer.
        let _ = heard.hear(event);
    }));
    let (tenure, keeper) = Tenure::with_own_keeper(engine, options);
    let voices = (0..worker::tasks(plan)).map(|_| Arc::new(Arc::clone(&referee)) as Arc<dyn Voice>);
    let life = worker::live(plan, tenure, voices.collect());
    tokio::select! {
        biased;
        () = control.obey() => {}
        // It ends with its client.
        () = keeper => {}
        // The referee of this process cannot be gone.
        ended = life => drop(ended),
    }
}

#[cfg(feature = "planted-flaws")]
fn with_flaw(flaw: Option<Flaw>, live: impl FnOnce()) {
    tenure_core::flaw::with_flaw(flaw, live);
}

#[cfg(not(feature = "planted-flaws"))]
fn with_flaw(_: Option<Flaw>, live: impl FnOnce()) {
    live();
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use futures_util::FutureExt;
    use tenure_core::engine::{Contender, Engine};
    use tenure_core::{Claim, ClaimId, Key};

    use super::*;
    use crate::weather::Bad;

    /// Found by a run of 28 minutes in memory: an attempt stood still with its worker, and came after its tombstone.
    #[test]
    fn what_is_under_way_arrives_while_its_worker_is_stopped() {
        let engine = Memory::new();
        let weather = Arc::new(Weather::new(1, None));
        weather.turn(Bad::Late(Duration::from_millis(50)));
        let network = Network::start(None).unwrap();
        let key = Key::new("late").unwrap();
        let mut contender =
            network.reach(engine.clone(), weather).contend(Claim::new(key.clone(), ClaimId::from_bits(7)));
        let worker = runtime().unwrap();
        // Sent; and from here on nobody runs the worker.
        worker.block_on(async { assert!(contender.attempt().now_or_never().is_none()) });
        let others = runtime().unwrap();
        let deadline = now() + 20_000_000;
        while others.block_on(engine.inspect(&key)).unwrap().places.is_empty() {
            assert!(now() < deadline, "the request stands still with its worker");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        network.end();
    }
}
