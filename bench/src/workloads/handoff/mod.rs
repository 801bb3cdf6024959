//! Waiters of four processes on one key of a directory: how long a freed lock lies idle.

mod processes;
pub(crate) mod worker;

use std::time::Duration;

use anyhow::Result;

use crate::harness::{Contest, Contestant, Figures, Plan};
use crate::report::{Report, Target};
use crate::scratch::Scratch;
use processes::{Scenario, contend, wait};
use worker::Kind;

const ANCHOR: &str = "flock(2)";
const PEERS: [(&str, Kind); 3] =
    [(ANCHOR, Kind::Flock), ("tenure", Kind::Tenure), ("tenure::blocking", Kind::Blocking)];
const MS: Duration = Duration::from_millis(1);

pub(crate) fn run(plan: Plan) -> Result<Vec<Report>> {
    let crowded = |hold| Scenario { workers: 16, hold, away: Duration::ZERO };
    let idle = Scenario { workers: 8, hold: 10 * MS, away: 100 * MS };
    let slice = plan.choose(400 * MS, 1000 * MS);
    let gap = "gap p50 us";
    let targets =
        vec![Target::at_most("tenure", "ratio", 5.0), Target::at_most("tenure::blocking", "ratio", 5.0)];
    Ok(vec![
        of(plan, "handoff, hold 0", slice, gap, Vec::new(), |kind, slice| {
            contend(kind, crowded(Duration::ZERO), slice)
        })?,
        of(plan, "handoff, hold 1 ms", slice, gap, Vec::new(), |kind, slice| {
            contend(kind, crowded(MS), slice)
        })?,
        of(plan, "handoff, idle gap", plan.choose(1500 * MS, 4000 * MS), gap, targets, |kind, slice| {
            contend(kind, idle, slice)
        })?,
        waiting(plan)?,
    ])
}

/// What 16 waiters of four processes cost while one other holds.
fn waiting(plan: Plan) -> Result<Report> {
    let figure = "cpu us/s/process";
    let targets = vec![
        Target::at_most("tenure", figure, 2_000.0),
        Target::at_most("tenure::blocking", figure, 2_000.0),
    ];
    of(plan, "handoff, waiting", plan.choose(1000 * MS, 3000 * MS), figure, targets, |kind, slice| {
        wait(kind, 16, slice)
    })
}

fn of(
    plan: Plan,
    workload: &'static str,
    slice: Duration,
    compared: &'static str,
    targets: Vec<Target>,
    mut run: impl FnMut(&Run<'_>, Duration) -> Result<Figures>,
) -> Result<Report> {
    let scratch = Scratch::new()?;
    let run = std::cell::RefCell::new(&mut run);
    let contestants = PEERS.iter().map(|&(name, kind)| {
        let anchor = (name != ANCHOR).then_some(ANCHOR);
        let (run, scratch) = (&run, &scratch);
        Contestant::new(name, anchor, move |slice| {
            (run.borrow_mut())(&Run { kind, directory: scratch.path() }, slice)
        })
    });
    let contestants = contestants.collect();
    Contest { workload, rounds: plan.choose(2, 5), slice, compared, contestants, targets }.run()
}

/// Who is measured, and where.
#[derive(Clone, Copy)]
struct Run<'a> {
    kind: Kind,
    directory: &'a std::path::Path,
}
