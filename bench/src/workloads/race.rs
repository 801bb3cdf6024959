//! The workloads that are the same on every engine: what its workers do is said here, and who they are in
//! [`crate::engines`].

use std::cell::{Cell, RefCell};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::sleep;
use crate::crew::{Crew, Holds, Scenario};
use crate::engines::{
    ADVISORY, ALONE, ALONE_ON_TWO, Engine, Entrant, HELD, NOT_AWAITED, ON_TWO, SLOW, STRICT, Site, TENURE,
    Work,
};
use crate::harness::{Contest, Contestant, Figures, Plan, Turn};
use crate::report::{Report, Target};

const MS: Duration = Duration::from_millis(1);
/// Longer than any slice: workers hold until the end.
pub(super) const TO_THE_END: Duration = Duration::from_secs(3600);
pub(super) const TTL: Duration = Duration::from_secs(10);
/// Where peers in other languages take part when a run is recorded: starting them takes longer than what they do.
const RECORDED_WITH_PEERS: [&str; 2] = ["w1", "w3, hold 0"];

/// Workers that disturb nobody, or each other in no way that is measured.
pub(super) const QUIET: Scenario = Scenario {
    workers: 1,
    processes: 1,
    own_keys: false,
    hold: Duration::ZERO,
    away: Duration::ZERO,
    spread: Duration::ZERO,
    ttl: TTL,
    may_lose: false,
};

/// What we want of the engines whose own writes are the limit: to be ahead of the locks that others have on them.
fn ahead(figure: &'static str, who: &'static str) -> Vec<Target> {
    let least = |times, other| Target::at_least(who, figure, times).times(other);
    // Who takes no part in a run is no measure of it.
    vec![least(1.5, "Curator"), least(1.5, "kazoo"), least(1.3, "lock service"), least(0.9, "rows")]
}

/// What we want where holds last as long as a session: what a session can do by hand.
fn by_session(figure: &'static str) -> Target {
    Target::at_least(ADVISORY, figure, 0.9).times("advisory")
}

/// What we want of a line, however long a machine stands still: a turn for each of the others, and no more than some of
/// those who joined while a worker's request was on its way.
pub(super) fn passed_over_by_nobody(workers: u64) -> Target {
    Target::at_most(STRICT, "turns waited", workers as f64 * 1.5)
}

/// One task on one key.
pub(crate) fn w1(stage: &mut Stage<'_>) -> Result<()> {
    let mut targets = vec![
        Target::at_least(TENURE, "cycles/s", 0.9).times("raw_sync"),
        // The median of a cycle says the same, and hardly depends on what else the machine does.
        Target::at_most(TENURE, "cycle p50 us", 1.11).times("raw_sync"),
        Target::at_least(TENURE, "cycles/s", 1.0).times("rslock"),
        Target::at_least(TENURE, "cycles/s", 1.9).times("redislock"),
        Target::at_least(TENURE, "cycles/s", 3.0).times("redis-semaphore"),
        Target::at_least(TENURE, "cycles/s", 3.0).times("node-redlock"),
        Target::at_least(TENURE, "cycles/s", 4.0).times("redis-py"),
        Target::at_most(TENURE, "commands/cycle", 2.0),
        Target::at_least(NOT_AWAITED, "cycles/s", 1.6).times("raw_sync"),
        // What the client and its keeper add to the verbs.
        Target::at_least(TENURE, "cycles/s", 0.95).times(ALONE),
        Target::at_least(ON_TWO, "cycles/s", 0.95).times(ALONE_ON_TWO),
    ];
    targets.extend(ahead("cycles/s", TENURE));
    targets.push(by_session("cycles/s"));
    stage.race("w1", QUIET, "cycles/s", 500 * MS, targets, Holds::alone)
}

/// Many tasks of one process, each on a key of its own.
pub(crate) fn w2(stage: &mut Stage<'_>) -> Result<()> {
    let scenario = Scenario { workers: 64, own_keys: true, ..QUIET };
    let mut targets = vec![
        Target::at_least(TENURE, "cycles/s", 0.6).times("raw_sync"),
        Target::at_least(TENURE, "cycles/s", 1.0).times("rslock"),
    ];
    targets.extend(ahead("cycles/s", TENURE));
    targets.push(by_session("cycles/s"));
    // Where a cycle waits for a disk, one of 64 takes a tenth of a second: a slice has several.
    let slice = if stage.engine.name == "redis" { 500 * MS } else { 1600 * MS };
    stage.race("w2", scenario, "cycles/s", slice, targets, Holds::alone)
}

/// Waiters of four processes on one key.
pub(crate) fn w3(stage: &mut Stage<'_>) -> Result<()> {
    let crowd = |workers, hold| Scenario { workers, processes: 4, hold, ..QUIET };
    let (compared, slice) =
        if stage.engine.name == "local" { ("gap p50 us", 1000 * MS) } else { ("handoffs/s", 600 * MS) };
    let mut targets = vec![
        Target::at_least(STRICT, "handoffs/s", 0.9).times("push"),
        Target::at_least(STRICT, "handoffs/s", 50.0).times("rslock"),
        Target::at_most(STRICT, "gap p50 us", 2.0).times("PING"),
        Target::at_most(STRICT, "gap p99 us", 5.0).times("PING"),
        Target::at_most(STRICT, "commands/cycle", 2.1),
        Target::at_least(STRICT, "Jain of best", 0.99),
        Target::at_most(STRICT, "longest wait ms", 3.0).times_own("median wait ms"),
        passed_over_by_nobody(16),
    ];
    targets.extend(ahead("handoffs/s", STRICT));
    targets.push(by_session("handoffs/s"));
    let idle = Scenario { workers: 8, processes: 4, hold: 10 * MS, away: 100 * MS, ..QUIET };
    let mut idle_targets = vec![Target::at_most(TENURE, "gap p50 us", 5.0).times("flock(2)")];
    if stage.engine.name == "redis" {
        idle_targets.push(Target::at_most(TENURE, "gap p99 us", 1000.0));
    }
    stage.race("w3, hold 0", crowd(16, Duration::ZERO), compared, slice, targets, Holds::contended)?;
    // The timers of the runtime bound everybody here: left out where time is short.
    if !stage.plan.record {
        stage.race("w3, hold 1 ms", crowd(16, MS), compared, slice, Vec::new(), Holds::contended)?;
    }
    // That a gap is a round trip is seen above.
    if stage.plan.record && stage.engine.name == SLOW.name {
        return Ok(());
    }
    stage.race("w3, idle gap", idle, "gap p50 us", 1500 * MS, idle_targets, Holds::contended)
}

/// Many tasks of one process on one key.
pub(crate) fn w4(stage: &mut Stage<'_>) -> Result<()> {
    let scenario = Scenario { workers: 64, ..QUIET };
    let mut targets = vec![
        Target::at_least(TENURE, "handoffs/s", 0.5).times("cohort"),
        Target::at_least(TENURE, "handoffs/s", 20.0).times("push"),
        Target::at_least(TENURE, "handoffs/s", 30.0).times("rslock"),
        Target::at_most(TENURE, "commands/cycle", 0.04),
    ];
    // Where a token is the engine's own, a pass is a write.
    if stage.engine.name.starts_with("redis") {
        targets.push(Target::at_most(TENURE, "gap p50 us", 2.0));
    }
    stage.race("w4", scenario, "handoffs/s", 400 * MS, targets, Holds::contended)
}

/// What it costs to wait, and to hold.
pub(crate) fn w5(stage: &mut Stage<'_>) -> Result<()> {
    let waiting = vec![Target::at_most(TENURE, "commands/s", 5.0)];
    let slice = if stage.plan.record { 2000 * MS } else { stage.plan.choose(2000 * MS, 4000 * MS) };
    stage.idle("w5", "w5, 1000 waiting", slice, waiting, |stage, entrant, slice| {
        wait(stage, entrant, slice, 1000, 4)
    })?;
    let holding = vec![Target::at_most(TENURE, "commands/s", 3.5), Target::at_most(TENURE, "stalls/s", 0.0)];
    // Some whole thirds of a TTL.
    let slice = if stage.plan.record { 1 } else { stage.plan.choose(1, 3) } * TTL / 3 * 2;
    stage.idle(HELD, "w5, 1000 held", slice, holding, |stage, entrant, slice| {
        hold(stage, entrant, slice, 1000)
    })
}

/// An engine whose server runs.
pub(crate) struct Stage<'a> {
    pub(super) plan: &'a Plan,
    workload: &'static str,
    engine: &'static Engine,
    site: RefCell<Box<dyn Site>>,
    /// How many keys were used: each turn has one of its own.
    keys: Cell<u64>,
    pub(crate) reports: Vec<Report>,
    /// Peers that are not to be had.
    pub(crate) absent: RefCell<Vec<&'static str>>,
}

impl<'a> Stage<'a> {
    /// Starts the server.
    pub(crate) fn open(plan: &'a Plan, engine: &'static Engine) -> Result<Self> {
        let site = RefCell::new((engine.start)()?);
        let (keys, absent) = (Cell::new(0), RefCell::default());
        Ok(Self { plan, workload: "", engine, site, keys, reports: Vec::new(), absent })
    }

    /// Runs a workload; what came of it is in the reports.
    pub(crate) fn run(&mut self, workload: &'static str, run: fn(&mut Self) -> Result<()>) -> Result<()> {
        self.workload = workload;
        if self.engine.entrants.iter().any(|entrant| entrant.takes_part_in.contains(&workload)) {
            run(self).with_context(|| format!("{workload} on {}", self.engine.name))?;
        }
        Ok(())
    }

    /// All entrants in turns; the figures are made of what their workers noted and what the server counted.
    pub(super) fn race(
        &mut self,
        what: &str,
        scenario: Scenario,
        compared: &'static str,
        slice: Duration,
        targets: Vec<Target>,
        figures: fn(&Holds) -> Figures,
    ) -> Result<()> {
        let contestants = self.contestants(self.workload, what, |entrant, turn| {
            let mut crew = self.crew(entrant, scenario)?;
            let mut site = self.site.borrow_mut();
            site.begin(turn.warm_up)?;
            crew.go(turn.slice)?;
            let before = crew.cpu();
            crew.sleep_until_end(MS);
            let cpu = crew.cpu().zip(before).map(|(after, before)| after - before);
            let holds = crew.finish()?;
            let counters = site.end()?;
            let cycles = holds.count().max(1) as f64;
            let mut all = figures(&holds);
            all.extend(cpu.map(|cpu| ("client us/cycle", cpu / cycles)));
            all.extend(counters.into_iter().map(|counter| (counter.per_cycle, counter.count / cycles)));
            Ok(all)
        });
        let short = self.plan.quick || self.plan.record;
        // The idle gap takes long, and its medians are of many gaps in each round.
        let rounds = match (short, scenario.away.is_zero()) {
            (false, _) => 5,
            (true, false) if self.plan.record => 2,
            (true, _) => 3,
        };
        let slice = if short { slice / 2 } else { slice };
        let workload = format!("{what}, on {}", self.engine.name);
        let contest = Contest { workload, rounds, slice, compared, contestants, targets };
        let report = among_any(contest)?;
        self.note(what, report);
        Ok(())
    }

    /// What is kept of the holds of an entrant while a crew of `tenure` keeps server and processors busy.
    pub(super) fn beside_load(
        &mut self,
        what: &str,
        scenario: Scenario,
        slice: Duration,
        targets: Vec<Target>,
    ) -> Result<()> {
        let contestants = self.contestants(self.workload, what, |entrant, turn| {
            if turn.warm_up {
                return Ok(Vec::new());
            }
            let mut crew = self.crew(entrant, scenario)?;
            let busy = Scenario { workers: 64, own_keys: true, ..QUIET };
            let ours = self.engine.entrants.iter().find(|entrant| entrant.is_tenure()).unwrap_or(entrant);
            let mut load = self.crew(ours, busy)?;
            load.go(turn.slice)?;
            crew.go(turn.slice)?;
            let mut figures = crew.finish()?.kept();
            let Some((_, rate)) = load.finish()?.alone().into_iter().find(|(name, _)| *name == "cycles/s")
            else {
                return Ok(figures);
            };
            figures.push(("other cycles/s", rate));
            Ok(figures)
        });
        let workload = format!("{what}, on {}", self.engine.name);
        let contest = Contest { workload, rounds: 3, slice, compared: "holds/s", contestants, targets };
        let report = among_any(contest)?;
        self.note(what, report);
        Ok(())
    }

    fn note(&mut self, part: &str, report: Option<Report>) {
        let Some(report) = report else { return };
        let report = Report { engine: self.engine.name, part: part.to_owned(), ..report };
        println!("{}", report.table());
        self.reports.push(report);
    }

    /// What the server does per second while an entrant only waits or holds.
    pub(super) fn idle(
        &mut self,
        part: &str,
        what: &str,
        slice: Duration,
        targets: Vec<Target>,
        run: impl Fn(&Self, &Entrant, Duration) -> Result<Figures> + Copy,
    ) -> Result<()> {
        let contestants = self.contestants(part, what, |entrant, turn| {
            // There is nothing to warm up, and counting disturbs nobody.
            if turn.warm_up { Ok(Vec::new()) } else { run(self, entrant, turn.slice) }
        });
        let workload = format!("{what}, on {}", self.engine.name);
        let contest = Contest { workload, rounds: 1, slice, compared: "commands/s", contestants, targets };
        let report = among_any(contest)?;
        self.note(what, report);
        Ok(())
    }

    /// Those who take part in a workload, as far as they are to be had.
    fn contestants<'b>(
        &'b self,
        part: &str,
        what: &str,
        run: impl Fn(&'static Entrant, Turn) -> Result<Figures> + Clone + 'b,
    ) -> Vec<Contestant<'b>> {
        let anchor = self.engine.entrants.iter().find(|entrant| entrant.anchor_of.contains(&self.workload));
        let takes_part = |entrant: &&Entrant| match entrant.work {
            _ if !entrant.takes_part_in.contains(&part) => false,
            Work::Peer(_) if self.plan.record && !RECORDED_WITH_PEERS.contains(&what) => false,
            Work::Peer(program) => self.plan.peers && self.has(entrant.name, program),
            Work::Here(_) | Work::RoundTrip(_) => true,
        };
        let each = self.engine.entrants.iter().filter(takes_part).map(|entrant| {
            let anchor = anchor.map(|anchor| anchor.name).filter(|name| *name != entrant.name);
            let run = run.clone();
            Contestant::in_turns(entrant.name, anchor, move |turn| run(entrant, turn)).about(entrant.about)
        });
        each.collect()
    }

    fn has(&self, peer: &'static str, program: fn() -> Option<Command>) -> bool {
        let has = program().is_some();
        let mut absent = self.absent.borrow_mut();
        if !has && !absent.contains(&peer) {
            eprintln!("{peer} is absent: its runtime or its packages are not to be had");
            absent.push(peer);
        }
        has
    }

    pub(super) fn crew(&self, entrant: &Entrant, scenario: Scenario) -> Result<Crew> {
        let key = format!("bench/{}", self.keys.replace(self.keys.get() + 1));
        self.crew_on(entrant, &key, scenario)
    }

    fn crew_on(&self, entrant: &Entrant, key: &str, scenario: Scenario) -> Result<Crew> {
        let at = entrant.at(&**self.site.borrow());
        Crew::start(self.engine, entrant, &at, key, scenario)
    }

    /// Counts for a while.
    pub(super) fn count(&self, crew: &Crew, slice: Duration) -> Result<Figures> {
        let before = crew.cpu();
        let mut figures = self.counted(true, slice)?;
        let cpu = crew.cpu().zip(before).map(|(after, before)| after - before);
        figures.extend(cpu.map(|cpu| ("client us/s", cpu / slice.as_secs_f64())));
        Ok(figures)
    }

    /// What the server counts in a while, command by command or as it does for everybody.
    fn counted(&self, closely: bool, slice: Duration) -> Result<Figures> {
        let mut site = self.site.borrow_mut();
        site.begin(closely)?;
        sleep(slice);
        let counters = site.end()?.into_iter();
        Ok(counters.map(|counter| (counter.per_second, counter.count / slice.as_secs_f64())).collect())
    }
}

/// Runs a contest, unless nobody takes part in it on this engine.
fn among_any(contest: Contest<'_>) -> Result<Option<Report>> {
    if contest.contestants.is_empty() { Ok(None) } else { contest.run().map(Some) }
}

/// How many workers are ready in a millisecond, on a machine that has something else to do as well.
const SETTLED_PER_MS: u32 = 3;

/// Many workers wait for what one other holds.
pub(super) fn wait(
    stage: &Stage<'_>,
    entrant: &Entrant,
    slice: Duration,
    workers: u64,
    processes: u64,
) -> Result<Figures> {
    let key = format!("bench/{}", stage.keys.replace(stage.keys.get() + 1));
    let mut holder = stage.crew_on(entrant, &key, Scenario { hold: TO_THE_END, ..QUIET })?;
    let mut waiters = stage.crew_on(entrant, &key, Scenario { workers, processes, ..QUIET })?;
    let before = waiters.memory();
    let settling = 3000 * MS + MS * u32::try_from(workers)? / SETTLED_PER_MS;
    holder.go(slice + 2 * settling)?;
    sleep(settling / 10);
    waiters.go(slice + 2 * settling)?;
    sleep(settling);
    let mut figures = stage.count(&waiters, slice)?;
    figures.extend(each_takes(workers, before, waiters.memory()).map(|kib| ("KiB/waiter", kib)));
    // They would get it one after the other: that is another workload.
    drop(waiters);
    holder.finish()?;
    Ok(figures)
}

/// Many workers of one process hold keys of their own, taken over the time after which they are renewed.
pub(super) fn hold(stage: &Stage<'_>, entrant: &Entrant, slice: Duration, workers: u64) -> Result<Figures> {
    let scenario = Scenario { workers, own_keys: true, hold: TO_THE_END, spread: TTL / 3, ..QUIET };
    let mut crew = stage.crew(entrant, scenario)?;
    let before = crew.memory();
    let settling = TTL / 3 + 500 * MS;
    crew.go(settling + slice + TTL / 3 + 500 * MS)?;
    sleep(settling);
    let mut figures = stage.count(&crew, slice)?;
    // Without a watch, which makes the commands of the server slower.
    figures.extend(stage.counted(false, TTL / 3)?);
    figures.extend(each_takes(workers, before, crew.memory()).map(|kib| ("KiB/hold", kib)));
    // A hold that was lost would be an error here.
    crew.finish()?;
    Ok(figures)
}

/// The memory that each of many workers has added to their processes; of few it says nothing.
fn each_takes(workers: u64, before: Option<f64>, after: Option<f64>) -> Option<f64> {
    let many = workers >= 1000;
    many.then_some(before.zip(after).map(|(before, after)| (after - before) / workers as f64 / 1024.0))?
}
