//! The parent's side: starts the workers' processes, and merges what they have noted.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Run;
use super::worker::{Holder, Orders};
use crate::clock::{now, sleep_until, span};
use crate::harness::Figures;
use crate::referee::{Held, judge};
use crate::stats::{jain, percentile};

const PROCESSES: u64 = 4;
/// How long the processes have to come up before the slice begins.
const HEAD_START: Duration = Duration::from_millis(60);

/// What workers do.
#[derive(Clone, Copy)]
pub(super) struct Scenario {
    pub(super) workers: u64,
    pub(super) hold: Duration,
    pub(super) away: Duration,
}

/// Lets workers contend for a slice of time.
pub(super) fn contend(run: &Run<'_>, scenario: Scenario, slice: Duration) -> Result<Figures> {
    let start = now() + span(HEAD_START);
    let (mut holds, cpu) = gather(run, scenario, start, start + span(slice))?;
    judge(&mut holds)?;
    let mut gaps = Vec::new();
    for pair in holds.windows(2) {
        let [before, after] = pair else { continue };
        // To another who was already waiting: a hand-off. Anything else is a lock taken anew.
        if before.worker != after.worker && after.asked < before.released {
            gaps.push((after.had - before.released) as f64 / 1e3);
        }
    }
    let shares: Vec<_> = (0..scenario.workers)
        .map(|worker| holds.iter().filter(|held| held.worker == worker).count() as f64)
        .collect();
    let longest = holds.iter().map(|held| held.had - held.asked).max().unwrap_or(0);
    let per_second = |count: usize| count as f64 / slice.as_secs_f64();
    Ok(vec![
        ("cycles/s", per_second(holds.len())),
        ("handoffs/s", per_second(gaps.len())),
        ("gap p50 us", percentile(&mut gaps, 0.5)),
        ("gap p99 us", percentile(&mut gaps, 0.99)),
        ("longest wait ms", longest as f64 / 1e6),
        ("Jain", jain(&shares)),
        ("cpu us/cycle", cpu as f64 / holds.len().max(1) as f64),
    ])
}

/// Lets workers wait for a slice of time, in which this process has the lock.
pub(super) fn wait(run: &Run<'_>, workers: u64, slice: Duration) -> Result<Figures> {
    let holder = Holder::take(run.kind, run.directory)?;
    let start = now() + span(HEAD_START);
    let end = start + span(slice);
    let scenario = Scenario { workers, hold: Duration::ZERO, away: Duration::ZERO };
    let processes = start_all(run, scenario, start, end)?;
    sleep_until(end + span(HEAD_START) / 2);
    holder.give()?;
    let (mut holds, cpu) = finish_all(run, processes)?;
    judge(&mut holds)?;
    ensure!(holds.iter().all(|held| held.had > end), "a worker had what another process held");
    Ok(vec![("cpu us/s/process", cpu as f64 / slice.as_secs_f64() / PROCESSES as f64)])
}

/// All holds of all workers, and how many microseconds of processor time their processes used.
fn gather(run: &Run<'_>, scenario: Scenario, start: u64, end: u64) -> Result<(Vec<Held>, u64)> {
    let processes = start_all(run, scenario, start, end)?;
    finish_all(run, processes)
}

fn start_all(run: &Run<'_>, scenario: Scenario, start: u64, end: u64) -> Result<Vec<Child>> {
    let program = std::env::current_exe()?;
    let each = scenario.workers / PROCESSES;
    let start_one = |process: u64| {
        let orders = Orders {
            kind: run.kind,
            directory: run.directory.to_owned(),
            notes: notes(run, process),
            first: process * each,
            workers: each,
            hold: scenario.hold,
            away: scenario.away,
            start,
            end,
        };
        let child = Command::new(&program).args(orders.as_args()).stdout(Stdio::piped()).spawn();
        child.context("cannot start this program again as a worker")
    };
    (0..PROCESSES).map(start_one).collect()
}

fn finish_all(run: &Run<'_>, processes: Vec<Child>) -> Result<(Vec<Held>, u64)> {
    let (mut holds, mut cpu) = (Vec::new(), 0);
    for (process, child) in (0..).zip(processes) {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "worker process {process} failed: {}", output.status);
        let used = String::from_utf8_lossy(&output.stdout);
        cpu += used.trim().parse::<u64>().with_context(|| format!("a worker said {used:?}"))?;
        holds.extend(Held::read_all(&fs::read(notes(run, process))?));
    }
    Ok((holds, cpu))
}

fn notes(run: &Run<'_>, process: u64) -> std::path::PathBuf {
    run.directory.join(format!("notes-{process}"))
}
