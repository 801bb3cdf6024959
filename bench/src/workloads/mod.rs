//! The workloads, one file each.

pub(crate) mod across;
mod cli;
mod counts;
mod local_w1;
mod memory_w1;
mod memory_w4;
mod race;
mod scale;

pub(crate) use counts::cycles as counted_cycles;

pub(crate) use race::Stage;
pub(crate) use scale::{CROWD, HOLDS, WAITERS};

use anyhow::Result;

use crate::harness::Plan;
use crate::report::Report;

/// A workload: its name, what it is, and what runs it.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: Run,
}

/// How a workload is run.
pub(crate) enum Run {
    /// On each engine, whose server runs.
    OnEngines(fn(&mut Stage<'_>) -> Result<()>),
    /// By itself.
    Alone(fn(&Plan) -> Result<Vec<Report>>),
}

/// All of them, in the order in which they run.
pub(crate) const ALL: [Workload; 12] = [
    Workload { name: "w1", about: "one task on one key", run: Run::OnEngines(race::w1) },
    Workload {
        name: "w2",
        about: "64 tasks of one process, each on its own key",
        run: Run::OnEngines(race::w2),
    },
    Workload { name: "w3", about: "waiters of four processes on one key", run: Run::OnEngines(race::w3) },
    Workload { name: "w4", about: "64 tasks of one process on one key", run: Run::OnEngines(race::w4) },
    Workload {
        name: "w5",
        about: "1,000 that wait, and 1,000 that are held and renewed",
        run: Run::OnEngines(race::w5),
    },
    Workload {
        name: "scale",
        about: "2 to 1,000 waiters, 1 to 10,000 holds, 10,000 waiters in one process",
        run: Run::OnEngines(scale::run),
    },
    Workload {
        name: "ttl",
        about: "holds that outlast their TTL ten times, and a TTL that outlasts them, beside load",
        run: Run::OnEngines(scale::ttl),
    },
    Workload {
        name: "local-w1",
        about: "one task on one key, in a directory",
        run: Run::Alone(local_w1::run),
    },
    Workload { name: "memory-w1", about: "one task on one key, in memory", run: Run::Alone(memory_w1::run) },
    Workload {
        name: "memory-w4",
        about: "64 tasks on one key, in memory and a directory",
        run: Run::Alone(memory_w4::run),
    },
    Workload { name: "cli", about: "`tenure run NAME -- true`", run: Run::Alone(cli::run) },
    Workload {
        name: "counts",
        about: "what a cycle takes, whatever the machine",
        run: Run::Alone(counts::run),
    },
];
