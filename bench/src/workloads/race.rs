//! The workloads that are the same on every engine: what its workers do is said here, and who they are in
//! [`crate::engines`].

use std::cell::{Cell, RefCell};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::sleep;
use crate::crew::{Crew, Holds, Scenario};
use crate::engines::{Engine, Entrant, HELD, STRICT, Site, TENURE, Work};
use crate::harness::{Contest, Contestant, Figures, Plan, Turn};
use crate::report::{Report, Target};

const MS: Duration = Duration::from_millis(1);
/// Longer than any slice: workers hold until the end.
const TO_THE_END: Duration = Duration::from_secs(3600);
const TTL: Duration = Duration::from_secs(10);

/// Workers that disturb nobody, or each other in no way that is measured.
const QUIET: Scenario = Scenario {
    workers: 1,
    processes: 1,
    own_keys: false,
    hold: Duration::ZERO,
    away: Duration::ZERO,
    spread: Duration::ZERO,
    ttl: TTL,
};

/// One task on one key.
pub(crate) fn w1(stage: &mut Stage<'_>) -> Result<()> {
    let targets = vec![
        Target::at_least(TENURE, "ratio", 0.9),
        // The median of a cycle says the same, and hardly depends on what else the machine does.
        Target::at_most(TENURE, "cycle p50 us", 1.11).times("raw_sync"),
        Target::at_least(TENURE, "cycles/s", 0.97).times("raw"),
        Target::at_least(TENURE, "cycles/s", 1.0).times("rslock"),
        Target::at_most(TENURE, "commands/cycle", 2.0),
    ];
    stage.race("w1", QUIET, "cycles/s", 500 * MS, targets, Holds::alone)
}

/// Many tasks of one process, each on a key of its own.
pub(crate) fn w2(stage: &mut Stage<'_>) -> Result<()> {
    let scenario = Scenario { workers: 64, own_keys: true, ..QUIET };
    let targets = vec![
        Target::at_least(TENURE, "ratio", 0.6),
        Target::at_least(TENURE, "cycles/s", 1.0).times("rslock"),
    ];
    stage.race("w2", scenario, "cycles/s", 500 * MS, targets, Holds::alone)
}

/// Waiters of four processes on one key.
pub(crate) fn w3(stage: &mut Stage<'_>) -> Result<()> {
    let crowd = |workers, hold| Scenario { workers, processes: 4, hold, ..QUIET };
    let (compared, slice) =
        if stage.engine.name == "local" { ("gap p50 us", 1000 * MS) } else { ("handoffs/s", 600 * MS) };
    let targets = vec![
        Target::at_least(STRICT, "handoffs/s", 0.9).times("push"),
        Target::at_least(STRICT, "handoffs/s", 50.0).times("rslock"),
        Target::at_most(STRICT, "gap p50 us", 2.0).times("PING"),
        Target::at_most(STRICT, "gap p99 us", 5.0).times("PING"),
        Target::at_most(STRICT, "commands/cycle", 2.1),
        Target::at_least(STRICT, "Jain", 0.99),
        Target::at_most(STRICT, "longest wait ms", 3.0).times_own("median wait ms"),
    ];
    let idle = Scenario { workers: 8, processes: 4, hold: 10 * MS, away: 100 * MS, ..QUIET };
    let idle_targets = vec![Target::at_most(TENURE, "gap p50 us", 5.0).times("flock(2)")];
    stage.race("w3, hold 0", crowd(16, Duration::ZERO), compared, slice, targets, Holds::contended)?;
    // The timers of the runtime bound everybody here: left out where time is short.
    if !stage.plan.record {
        stage.race("w3, hold 1 ms", crowd(16, MS), compared, slice, Vec::new(), Holds::contended)?;
    }
    stage.race("w3, idle gap", idle, "gap p50 us", 1500 * MS, idle_targets, Holds::contended)
}

/// Many tasks of one process on one key.
pub(crate) fn w4(stage: &mut Stage<'_>) -> Result<()> {
    let scenario = Scenario { workers: 64, ..QUIET };
    let targets = vec![
        Target::at_least(TENURE, "ratio", 0.5),
        Target::at_least(TENURE, "handoffs/s", 20.0).times("push"),
        Target::at_least(TENURE, "handoffs/s", 30.0).times("rslock"),
        Target::at_most(TENURE, "commands/cycle", 0.04),
    ];
    stage.race("w4", scenario, "handoffs/s", 400 * MS, targets, Holds::contended)
}

/// What it costs to wait, and to hold.
pub(crate) fn w5(stage: &mut Stage<'_>) -> Result<()> {
    let waiting = vec![Target::at_most(TENURE, "commands/s", 5.0)];
    let slice = if stage.plan.record { 2000 * MS } else { stage.plan.choose(2000 * MS, 4000 * MS) };
    stage.idle("w5", "w5, 1000 waiting", slice, waiting, wait)?;
    let holding = vec![Target::at_most(TENURE, "commands/s", 3.5)];
    // Some whole thirds of a TTL.
    let slice = if stage.plan.record { 1 } else { stage.plan.choose(1, 3) } * TTL / 3 * 2;
    stage.idle(HELD, "w5, 1000 held", slice, holding, hold)
}

/// An engine whose server runs.
pub(crate) struct Stage<'a> {
    plan: &'a Plan,
    workload: &'static str,
    engine: &'static Engine,
    site: RefCell<Box<dyn Site>>,
    /// How many keys were used: each turn has one of its own.
    keys: Cell<u64>,
    pub(crate) reports: Vec<Report>,
}

impl<'a> Stage<'a> {
    /// Starts the server.
    pub(crate) fn open(plan: &'a Plan, engine: &'static Engine) -> Result<Self> {
        let site = RefCell::new((engine.start)()?);
        Ok(Self { plan, workload: "", engine, site, keys: Cell::new(0), reports: Vec::new() })
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
    fn race(
        &mut self,
        what: &str,
        scenario: Scenario,
        compared: &'static str,
        slice: Duration,
        targets: Vec<Target>,
        figures: fn(&Holds) -> Figures,
    ) -> Result<()> {
        let contestants = self.contestants(self.workload, |entrant, turn| {
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
        let rounds = self.plan.choose(3, 5);
        let short = self.plan.quick || self.plan.record;
        let slice = if short { slice / 2 } else { slice };
        let workload = format!("{what}, on {}", self.engine.name);
        let contest = Contest { workload, rounds, slice, compared, contestants, targets };
        let report = contest.run()?;
        self.note(what, report);
        Ok(())
    }

    fn note(&mut self, part: &str, report: Report) {
        let report = Report { engine: self.engine.name, part: part.to_owned(), ..report };
        println!("{}", report.table());
        self.reports.push(report);
    }

    /// What the server does per second while an entrant only waits or holds.
    fn idle(
        &mut self,
        part: &str,
        what: &str,
        slice: Duration,
        targets: Vec<Target>,
        run: fn(&Self, &Entrant, Duration) -> Result<Figures>,
    ) -> Result<()> {
        let contestants = self.contestants(part, |entrant, turn| {
            // There is nothing to warm up, and counting disturbs nobody.
            if turn.warm_up { Ok(Vec::new()) } else { run(self, entrant, turn.slice) }
        });
        let workload = format!("{what}, on {}", self.engine.name);
        let contest = Contest { workload, rounds: 1, slice, compared: "commands/s", contestants, targets };
        let report = contest.run()?;
        self.note(what, report);
        Ok(())
    }

    fn contestants<'b>(
        &'b self,
        part: &str,
        run: impl Fn(&'static Entrant, Turn) -> Result<Figures> + Clone + 'b,
    ) -> Vec<Contestant<'b>> {
        let anchor = self.engine.entrants.iter().find(|entrant| entrant.anchor_of.contains(&self.workload));
        let entrants = self.engine.entrants.iter().filter(|entrant| {
            let asked = self.plan.peers || !matches!(entrant.work, Work::Peer(_));
            asked && entrant.takes_part_in.contains(&part)
        });
        let each = entrants.map(|entrant| {
            let anchor = anchor.map(|anchor| anchor.name).filter(|name| *name != entrant.name);
            let run = run.clone();
            Contestant::in_turns(entrant.name, anchor, move |turn| run(entrant, turn)).about(entrant.about)
        });
        each.collect()
    }

    fn crew(&self, entrant: &Entrant, scenario: Scenario) -> Result<Crew> {
        let key = format!("bench/{}", self.keys.replace(self.keys.get() + 1));
        self.crew_on(entrant, &key, scenario)
    }

    fn crew_on(&self, entrant: &Entrant, key: &str, scenario: Scenario) -> Result<Crew> {
        let site = self.site.borrow();
        let at = if entrant.is_tenure() { site.url() } else { site.address() };
        Crew::start(self.engine, entrant, &at, key, scenario)
    }

    /// Counts for a while.
    fn count(&self, crew: &Crew, slice: Duration) -> Result<Figures> {
        let mut site = self.site.borrow_mut();
        let (mut figures, seconds) = (Vec::new(), slice.as_secs_f64());
        let before = crew.cpu();
        site.begin(true)?;
        sleep(slice);
        let counters = site.end()?;
        let cpu = crew.cpu().zip(before).map(|(after, before)| after - before);
        figures.extend(counters.into_iter().map(|counter| (counter.per_second, counter.count / seconds)));
        figures.extend(cpu.map(|cpu| ("client us/s", cpu / seconds)));
        Ok(figures)
    }
}

/// 1,000 workers of four processes wait for what one other holds.
fn wait(stage: &Stage<'_>, entrant: &Entrant, slice: Duration) -> Result<Figures> {
    let key = format!("bench/{}", stage.keys.replace(stage.keys.get() + 1));
    let mut holder = stage.crew_on(entrant, &key, Scenario { hold: TO_THE_END, ..QUIET })?;
    let mut waiters = stage.crew_on(entrant, &key, Scenario { workers: 1000, processes: 4, ..QUIET })?;
    let settling = 3000 * MS;
    holder.go(slice + 2 * settling)?;
    sleep(settling / 10);
    waiters.go(slice + 2 * settling)?;
    sleep(settling);
    let figures = stage.count(&waiters, slice)?;
    // They would get it one after the other: that is another workload.
    drop(waiters);
    holder.finish()?;
    Ok(figures)
}

/// 1,000 workers of one process hold keys of their own, taken over the time after which they are renewed.
fn hold(stage: &Stage<'_>, entrant: &Entrant, slice: Duration) -> Result<Figures> {
    let scenario = Scenario { workers: 1000, own_keys: true, hold: TO_THE_END, spread: TTL / 3, ..QUIET };
    let mut crew = stage.crew(entrant, scenario)?;
    let settling = TTL / 3 + 500 * MS;
    crew.go(settling + slice + 500 * MS)?;
    sleep(settling);
    let figures = stage.count(&crew, slice)?;
    crew.finish()?;
    Ok(figures)
}
