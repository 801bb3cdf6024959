//! The workloads, one file each.

mod cli;
mod counts;
mod handoff;
mod local_w1;
mod memory_w1;
mod w4;

pub(crate) use counts::cycles as counted_cycles;
pub(crate) use handoff::worker::{Orders, work};

use anyhow::Result;

use crate::harness::Plan;
use crate::report::Report;

/// A workload: its name, what it is, and what runs it.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn(Plan) -> Result<Vec<Report>>,
}

/// All of them, in the order in which they run.
pub(crate) const ALL: [Workload; 6] = [
    Workload { name: "local-w1", about: "one task on one key, in a directory", run: local_w1::run },
    Workload { name: "memory-w1", about: "one task on one key, in memory", run: memory_w1::run },
    Workload { name: "w4", about: "64 tasks of one process on one key", run: w4::run },
    Workload { name: "handoff", about: "waiters of four processes on one key", run: handoff::run },
    Workload { name: "cli", about: "`tenure run NAME -- true`", run: cli::run },
    Workload { name: "counts", about: "what a cycle takes, whatever the machine", run: counts::run },
];
