//! The parent's side: starts the workers' processes, tells them when, and makes figures of what they have noted.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Orders;
use crate::clock::{cpu_of, now, sleep, sleep_until, span};
use crate::engines::{Engine, Entrant, Work};
use crate::harness::Figures;
use crate::referee::{Held, judge};
use crate::scratch::Scratch;
use crate::stats::{jain, jain_of_best, percentile};

/// How long a process may take to connect, and to end after its time.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long after the last process is ready the work begins.
const HEAD_START: Duration = Duration::from_millis(10);

/// What workers do.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) workers: u64,
    pub(crate) processes: u64,
    pub(crate) own_keys: bool,
    pub(crate) hold: Duration,
    pub(crate) away: Duration,
    pub(crate) spread: Duration,
    pub(crate) ttl: Duration,
    /// Whether a hold may be lost: then it is counted, and otherwise an error.
    pub(crate) may_lose: bool,
}

/// Some processes of workers, ended when dropped.
pub(crate) struct Crew {
    members: Vec<Member>,
    scenario: Scenario,
    notes: Scratch,
    /// A lone round trip: what is noted is no hold, and excludes nobody.
    excludes: bool,
    start: u64,
    end: u64,
}

struct Member {
    child: Child,
    orders: ChildStdin,
    said: Receiver<String>,
}

impl Crew {
    /// Starts the processes and waits until all are ready.
    pub(crate) fn start(
        engine: &Engine,
        entrant: &Entrant,
        at: &str,
        key: &str,
        scenario: Scenario,
    ) -> Result<Self> {
        let excludes = !matches!(entrant.work, Work::RoundTrip(_));
        let scenario = if excludes { scenario } else { Scenario { workers: 1, processes: 1, ..scenario } };
        let mut crew =
            Self { members: Vec::new(), scenario, notes: Scratch::new()?, excludes, start: 0, end: 0 };
        let each = scenario.workers / scenario.processes;
        for process in 0..scenario.processes {
            let orders = Orders {
                at: at.to_owned(),
                key: key.to_owned(),
                first: process * each,
                workers: each,
                own_keys: scenario.own_keys,
                hold: scenario.hold,
                away: scenario.away,
                spread: scenario.spread,
                ttl: scenario.ttl,
                notes: crew.notes_of(process),
            };
            crew.members.push(Member::start(engine, entrant, &orders)?);
        }
        for member in &crew.members {
            let word = member.said.recv_timeout(PATIENCE).context("a worker's process did not get ready")?;
            ensure!(word == "ready", "a worker's process said {word:?} instead of being ready");
        }
        Ok(crew)
    }

    /// Lets the workers begin now, and end after a time.
    pub(crate) fn go(&mut self, time: Duration) -> Result<()> {
        self.start = now() + span(HEAD_START);
        self.end = self.start + span(time);
        for member in &mut self.members {
            writeln!(member.orders, "{} {}", self.start, self.end)?;
            member.orders.flush()?;
        }
        sleep_until(self.start);
        Ok(())
    }

    /// Waits until some time before the workers end.
    pub(crate) fn sleep_until_end(&self, before: Duration) {
        sleep_until(self.end.saturating_sub(span(before)));
    }

    /// How many microseconds of processor time the processes have used.
    pub(crate) fn cpu(&self) -> Option<f64> {
        self.members.iter().map(|member| cpu_of(member.child.id())).sum()
    }

    /// How many bytes of memory of their own the processes have.
    pub(crate) fn memory(&self) -> Option<f64> {
        self.members.iter().map(|member| memory_of(member.child.id())).sum()
    }

    /// Waits until the processes have ended by themselves, and returns what they noted, in order of time.
    pub(crate) fn finish(mut self) -> Result<Holds> {
        let limit = self.end + span(PATIENCE);
        for (process, member) in self.members.iter_mut().enumerate() {
            let status = loop {
                if let Some(status) = member.child.try_wait()? {
                    break status;
                }
                ensure!(now() < limit, "worker process {process} does not end");
                sleep(Duration::from_millis(1));
            };
            ensure!(status.success(), "worker process {process} failed: {status}");
        }
        let mut holds = Vec::new();
        for process in 0..self.scenario.processes {
            holds.extend(Held::read_all(&fs::read(self.notes_of(process))?));
        }
        let noted = holds.len();
        holds.retain(|held: &Held| !held.is_lost());
        let lost = noted - holds.len();
        ensure!(lost == 0 || self.scenario.may_lose, "{lost} holds were lost");
        if self.excludes && !self.scenario.own_keys {
            // Of a worker with a key of its own there is nobody to exclude.
            judge(&mut holds)?;
        }
        let time = Duration::from_nanos(self.end - self.start);
        Ok(Holds { holds, lost, scenario: self.scenario, end: self.end, time, excludes: self.excludes })
    }

    fn notes_of(&self, process: u64) -> PathBuf {
        self.notes.path().join(format!("notes-{process}"))
    }
}

impl Member {
    fn start(engine: &Engine, entrant: &Entrant, orders: &Orders) -> Result<Self> {
        let mut command = match entrant.work {
            Work::Here(_) | Work::RoundTrip(_) => {
                let mut this = Command::new(std::env::current_exe()?);
                this.args(["worker", engine.name, entrant.name]);
                this
            }
            Work::Peer(program) => program().context("it cannot be made ready")?,
        };
        command.args(orders.as_args()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let (Some(orders), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a process without pipes")
        };
        let (sender, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                // Nobody listens after the work has begun.
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, orders, said })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It has ended by itself, or is not needed any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The memory of a process that is no file's; none when the kernel does not say.
fn memory_of(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0)
}

/// What a crew noted.
pub(crate) struct Holds {
    holds: Vec<Held>,
    lost: usize,
    scenario: Scenario,
    end: u64,
    time: Duration,
    excludes: bool,
}

impl Holds {
    pub(crate) fn count(&self) -> usize {
        self.holds.len()
    }

    /// Cycles and how long one takes, for workers that do not wait for each other.
    pub(crate) fn alone(&self) -> Figures {
        let mut holds = self.holds.clone();
        holds.sort_unstable_by_key(|held| (held.worker, held.asked));
        let same = holds.windows(2).filter(|pair| pair[0].worker == pair[1].worker);
        let mut cycles: Vec<_> = same.map(|pair| (pair[1].asked - pair[0].asked) as f64 / 1e3).collect();
        vec![
            ("cycles/s", self.per_second(self.in_time())),
            ("cycle p50 us", percentile(&mut cycles, 0.5)),
            ("cycle p99 us", percentile(&mut cycles, 0.99)),
        ]
    }

    /// Hand-offs between workers that wait for each other.
    pub(crate) fn contended(&self) -> Figures {
        if !self.excludes {
            let mut trips: Vec<_> = self.holds.iter().map(|h| (h.had - h.asked) as f64 / 1e3).collect();
            let [p50, p99, longest] = [0.5, 0.99, 1.0].map(|share| percentile(&mut trips, share));
            return vec![("gap p50 us", p50), ("gap p99 us", p99), ("longest gap ms", longest / 1e3)];
        }
        let mut gaps = Vec::new();
        for pair in self.holds.windows(2) {
            let [before, after] = pair else { continue };
            // To another who was already waiting: a hand-off. Anything else is a lock taken anew.
            if after.had < self.end && before.worker != after.worker && after.asked < before.released {
                gaps.push((after.had - before.released) as f64 / 1e3);
            }
        }
        let mut shares = vec![0.0; self.scenario.workers as usize];
        for held in &self.holds {
            if let Some(share) = shares.get_mut(held.worker as usize) {
                *share += 1.0;
            }
        }
        let mut waits: Vec<_> = self.holds.iter().map(|held| (held.had - held.asked) as f64 / 1e6).collect();
        // Whoever is passed over sees more turns of others than there are others.
        let turns = self
            .holds
            .iter()
            .enumerate()
            .map(|(at, held)| at - self.holds.partition_point(|before| before.had < held.asked));
        vec![
            ("handoffs/s", self.per_second(gaps.len())),
            ("cycles/s", self.per_second(self.in_time())),
            ("gap p50 us", percentile(&mut gaps, 0.5)),
            ("gap p99 us", percentile(&mut gaps, 0.99)),
            ("longest gap ms", percentile(&mut gaps, 1.0) / 1e3),
            ("turns waited", turns.max().unwrap_or(0) as f64),
            ("median wait ms", percentile(&mut waits, 0.5)),
            ("longest wait ms", percentile(&mut waits, 1.0)),
            ("Jain", jain(&shares)),
            ("Jain of best", jain_of_best(&shares)),
        ]
    }

    /// How many began before the end: those who still waited then get their turn, but not within the time.
    fn in_time(&self) -> usize {
        self.holds.iter().filter(|held| held.had < self.end).count()
    }

    /// How many holds there were, and how many of a thousand were lost.
    pub(crate) fn kept(&self) -> Figures {
        let all = self.holds.len() + self.lost;
        let lost = self.lost as f64 * 1e3 / all.max(1) as f64;
        vec![("holds/s", self.per_second(all)), ("lost of 1000", lost)]
    }

    fn per_second(&self, count: usize) -> f64 {
        count as f64 / self.time.as_secs_f64()
    }
}
