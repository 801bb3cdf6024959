//! A worker: locks, works and unlocks through the public interface, and tells the referee of each step.

use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, join_all, select};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use tenure::event::{self, Observer, What};
use tenure::{Error, Fairness, Guard, Lock, Loss, Mode, Options, Outcome, Released, Tenure};

use crate::court::{Line, Voice};
use crate::history::{Act, Ask, Event, Got, KeyKind, KeyPlan, Life, Micros, Op, Release};
use crate::referee::now;

/// How long the withdrawals at the end of a life may take.
const FAREWELL: Duration = Duration::from_secs(15);

/// How often a worker looks whether it is run when it wants to.
const PROBE_EVERY: Duration = Duration::from_millis(10);

/// From what delay on it was not.
const STARVED_FROM: Micros = 10_000;

/// What one life of a worker is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) life: Life,
    pub(crate) worker: u32,
    /// The engine, as this worker reaches it.
    pub(crate) url: String,
    pub(crate) seed: u64,
    pub(crate) ttl: Micros,
    pub(crate) keys: Vec<KeyPlan>,
    /// Every wish has a place of its own; otherwise several tasks share places, and pass holds on.
    pub(crate) alone: bool,
    /// Holders enter the resource before they read, as they should.
    pub(crate) fence_in: bool,
}

/// Why a worker ends before it is told to: the referee is gone.
type Gone = io::Error;

/// Several tasks of one life, each with a voice of its own.
pub(crate) async fn live(plan: &Plan, tenure: Tenure, voices: Vec<Arc<dyn Voice>>) -> Result<(), Gone> {
    let tasks = voices.iter().enumerate().map(|(task, voice)| {
        let dice = StdRng::seed_from_u64(plan.seed.wrapping_add(task as u64));
        Task { plan: plan.clone(), tenure: tenure.clone(), voice: Arc::clone(voice), dice }.go_on()
    });
    let ended = join_all(tasks).await;
    let left = tenure.shutdown(FAREWELL).await;
    ended.into_iter().collect::<Result<(), _>>()?;
    if left > 0
        && let Some(voice) = voices.first()
    {
        voice.say(Event::Undone { life: plan.life, withdrawals: left })?;
    }
    Ok(())
}

/// How many tasks a plan has.
pub(crate) fn tasks(plan: &Plan) -> usize {
    if plan.alone { 1 } else { 2 }
}

/// Tells the referee what a client observes.
pub(crate) fn observer(life: Life, tell: impl Fn(Event) + Send + Sync + 'static) -> impl Observer {
    move |event: &event::Event| {
        let Some(claim) = event.claim else { return };
        match event.what {
            What::Waiting { .. } => tell(Event::Joined { life, claim }),
            What::Withdrawn => tell(Event::Withdrawn { life, claim }),
            _ => {}
        }
    }
}

struct Task {
    plan: Plan,
    tenure: Tenure,
    voice: Arc<dyn Voice>,
    dice: StdRng,
}

impl Task {
    async fn go_on(mut self) -> Result<(), Gone> {
        while self.cycle().await? {
            let think = self.dice.random_range(0..6);
            self.rest(think).await;
        }
        Ok(())
    }

    async fn rest(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// One wish; false when there are to be no more.
    async fn cycle(&mut self) -> Result<bool, Gone> {
        let key = self.dice.random_range(0..self.plan.keys.len());
        let mode = match self.plan.keys[key].kind {
            KeyKind::Mutex => Mode::Exclusive,
            KeyKind::File if self.dice.random_bool(0.5) => Mode::Shared,
            KeyKind::File => Mode::Exclusive,
            KeyKind::Seats(limit) => {
                Mode::Permit { limit: NonZeroU32::new(limit).unwrap_or(NonZeroU32::MIN) }
            }
        };
        let max_hold = self.dice.random_bool(0.05).then(|| self.dice.random_range(1..=self.plan.ttl));
        let lock = self.lock(key, mode, max_hold);
        let way = self.dice.random_range(0..10);
        let (life, alone) = (self.plan.life, self.plan.alone);
        let ask = Ask { op: 0, life, key, mode, waits: way > 0, alone, max_hold };
        let answer = self.voice.say(Event::Ask(ask))?;
        let op = answer.op;
        if answer.stop {
            self.voice.say(Event::Quit { op })?;
            return Ok(false);
        }
        match self.acquire(&lock, way).await {
            Ok(Some(guard)) => {
                self.got(op, &guard)?;
                self.hold(op, mode, &guard).await?;
                self.leave(op, guard).await?;
            }
            Ok(None) if (4..6).contains(&way) => drop(self.voice.say(Event::Quit { op })?),
            Ok(None) => drop(self.voice.say(Event::Missed { op })?),
            Err(error) => {
                self.voice.say(Event::Failed { op, why: error.to_string() })?;
                self.rest(50).await;
            }
        }
        Ok(true)
    }

    fn lock(&self, key: usize, mode: Mode, max_hold: Option<Micros>) -> Lock {
        let name = &self.plan.keys[key].name;
        let lock = match mode {
            Mode::Exclusive => self.tenure.lock(name),
            Mode::Shared => self.tenure.rw_lock(name).read(),
            Mode::Permit { limit } => self.tenure.semaphore(name, limit.get()).permit(),
        };
        let lock = lock.ttl(Duration::from_micros(self.plan.ttl));
        let lock = if self.plan.alone { lock.fairness(Fairness::StrictFifo) } else { lock };
        match max_hold {
            Some(max) => lock.max_hold(Duration::from_micros(max)),
            None => lock,
        }
    }

    /// Acquires in one of the ways there are.
    async fn acquire(&mut self, lock: &Lock, way: u32) -> Result<Option<Guard>, Error> {
        let patience = Duration::from_micros(self.dice.random_range(1_000..self.plan.ttl * 3));
        match way {
            0 => lock.try_acquire().await.map(Outcome::guard),
            1..=3 => lock.wait_for(patience).await.map(Outcome::guard),
            4..6 => {
                // Somebody who is cancelled.
                let wait = std::pin::pin!(lock.acquire());
                let stop = std::pin::pin!(tokio::time::sleep(patience));
                match select(wait, stop).await {
                    Either::Left((got, _)) => got.map(Some),
                    Either::Right(_) => Ok(None),
                }
            }
            _ => lock.acquire().await.map(Some),
        }
    }

    fn got(&self, op: Op, guard: &Guard) -> Result<(), Gone> {
        let (claim, token, slot) = (guard.claim(), guard.token().get(), guard.slot());
        self.voice.say(Event::Got(Got { op, claim, token, slot, until: until(guard) }))?;
        Ok(())
    }

    /// Enters, reads, works, looks whether the hold stands, and writes what came of it.
    async fn hold(&mut self, op: Op, mode: Mode, guard: &Guard) -> Result<(), Gone> {
        let mut told = false;
        let read = match mode {
            Mode::Shared => None,
            _ if self.plan.fence_in => Some(self.voice.say(Event::Enter(act(op, guard, 0, 0)))?),
            _ => Some(self.voice.say(Event::Read { op })?),
        };
        let ttl_ms = (self.plan.ttl / 1_000).max(2);
        let work = match self.dice.random_range(0..20) {
            0 if self.dice.random_bool(0.4) => self.dice.random_range(ttl_ms / 2..ttl_ms * 3 / 2),
            1 | 2 => self.dice.random_range(20..80),
            _ => self.dice.random_range(0..8),
        };
        let gap = self.dice.random_range(1..10);
        self.work(op, guard, work, &mut told).await?;
        if let Some(read) = read.filter(|read| read.accepted)
            && guard.is_held()
        {
            // A check is never late enough: what is written is on its way for a while, and so is who writes it.
            self.voice.say(Event::Checked { op })?;
            self.work(op, guard, gap, &mut told).await?;
            self.voice.say(Event::Write(act(op, guard, read.value, read.plain)))?;
        }
        if !told && let Some(loss) = guard.lost().now_or_never() {
            self.lost(op, guard, &loss)?;
        }
        Ok(())
    }

    /// Lets time pass, and tells of a loss at the moment when it is told of it.
    async fn work(&self, op: Op, guard: &Guard, ms: u64, told: &mut bool) -> Result<(), Gone> {
        let rest = std::pin::pin!(self.rest(ms));
        if *told {
            rest.await;
            return Ok(());
        }
        if let Either::Left((loss, rest)) = select(std::pin::pin!(guard.lost()), rest).await {
            *told = true;
            self.lost(op, guard, &loss)?;
            // Work that is nearly done is finished, as users do.
            if ms < 10 {
                rest.await;
            }
        }
        Ok(())
    }

    fn lost(&self, op: Op, guard: &Guard, loss: &Loss) -> Result<(), Gone> {
        let cause = loss.cause.as_str().to_owned();
        self.voice.say(Event::Lost { op, cause, until: until(guard), told: now() })?;
        Ok(())
    }

    async fn leave(&mut self, op: Op, guard: Guard) -> Result<(), Gone> {
        self.voice.say(Event::Leave { op, until: until(&guard) })?;
        let how = if self.dice.random_bool(0.2) {
            drop(guard);
            Release::Dropped
        } else {
            match guard.release().await {
                Ok(Released::Cleanly) => Release::Cleanly,
                Ok(Released::AlreadyLost(_)) => Release::Lost,
                Err(_) => Release::Unanswered,
            }
        };
        self.voice.say(Event::Released { op, how })?;
        Ok(())
    }
}

/// Until when a guard believes to hold, on the clock that all share.
fn until(guard: &Guard) -> Option<Micros> {
    guard.until_moment().map(tenure_core::lease::Moment::boot_micros)
}

fn act(op: Op, guard: &Guard, value: u64, plain: u64) -> Act {
    Act { op, token: guard.token().get(), until: until(guard), accepted: false, value, plain }
}

/// The life of a worker process: asks the referee at a socket for its plan, and follows it.
///
/// # Errors
/// When the referee is gone or the engine cannot be used at all.
pub fn work_for(socket: &Path, life: Life) -> Result<(), String> {
    let said = |error: io::Error| format!("the referee does not answer: {error}");
    let plan = Line::open(socket).and_then(|line| line.hello(life)).map_err(said)?;
    let aside = Line::open(socket).map_err(said)?;
    let voices = (0..tasks(&plan)).map(|_| Line::open(socket).map(|line| Arc::new(line) as Arc<dyn Voice>));
    let voices = voices.collect::<io::Result<Vec<_>>>().map_err(said)?;
    // What is observed on the keeper's thread must not wait for the referee.
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for event in told {
            if aside.say(event).is_err() {
                std::process::exit(0);
            }
        }
    });
    probe(Some(life), tell.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        let options = Options::default().observer(observer(life, move |event| drop(tell.send(event))));
        let tenure = connect(&plan, options, &*voices[0]).await?;
        live(&plan, tenure, voices).await.map_err(said)
    })
}

/// Connects; tries again while the engine is away, until the run is over.
async fn connect(plan: &Plan, options: Options, voice: &dyn Voice) -> Result<Tenure, String> {
    loop {
        match tenure::connect_with(&plan.url, options.clone()).await {
            Ok(tenure) => return Ok(tenure),
            Err(error) => {
                let (life, from) = (Some(plan.life), now());
                tokio::time::sleep(Duration::from_millis(100)).await;
                let answer = voice.say(Event::Starved { life, from }).map_err(|error| error.to_string())?;
                if answer.stop {
                    return Err(error.to_string());
                }
            }
        }
    }
}

/// Starts a thread that tells when it was not run although it wanted to.
pub(crate) fn probe(life: Option<Life>, tell: Sender<Event>) {
    std::thread::spawn(move || {
        loop {
            let due = now() + PROBE_EVERY.as_micros() as Micros;
            std::thread::park_timeout(PROBE_EVERY);
            if now() > due + STARVED_FROM && tell.send(Event::Starved { life, from: due }).is_err() {
                return;
            }
        }
    });
}
