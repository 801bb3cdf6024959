//! What a cycle takes in things that can be counted: the same on every machine, busy or not.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tenure_core::engine::memory::Memory;

use crate::anchors::Flock;
use crate::harness::{Contest, Contestant, Figures, Plan};
use crate::locks::{Lock, Verbs};
use crate::loops::{cycle, one_thread};
use crate::referee::Referee;
use crate::report::Report;
use crate::scratch::{Scratch, counted, flock_in, local_in};

const KEY: &str = "orders/42";
const CYCLES: u64 = 1_000;

pub(crate) fn run(_: &Plan) -> Result<Vec<Report>> {
    let scratch = Scratch::new()?;
    let (memory, memory_verbs) = counted(Memory::new());
    let (local, local_verbs) = counted(scratch.local()?);
    let (memory, local) = (memory.lock(KEY), local.lock(KEY));
    let (bare_memory, bare_local) = (Verbs::new(Memory::new(), KEY)?, Verbs::new(scratch.local()?, KEY)?);
    let contestants = vec![
        Contestant::new("verbs on memory:", None, |_| count(&bare_memory, || 0)),
        Contestant::new("tenure on memory:", None, |_| count(&memory, || memory_verbs.get())),
        Contestant::new("verbs on local:", None, |_| count(&bare_local, || 0)),
        Contestant::new("tenure on local:", None, |_| {
            let mut figures = count(&local, || local_verbs.get())?;
            figures.extend(syscalls("tenure", scratch.path())?);
            Ok(figures)
        }),
        Contestant::new("flock(2)", None, |_| syscalls("flock", scratch.path())),
    ];
    let slice = Duration::ZERO;
    let contest = Contest {
        workload: "counts".to_owned(),
        rounds: 1,
        slice,
        compared: "-",
        contestants,
        targets: Vec::new(),
    };
    Ok(vec![contest.run()?])
}

/// Allocations and verbs a cycle.
fn count(lock: &impl Lock, verbs: impl Fn() -> u64) -> Result<Figures> {
    let (runtime, referee) = (one_thread()?, Referee::default());
    let before = verbs();
    let mut done = Ok(0);
    let allocated = allocation_counter::measure(|| done = runtime.block_on(cycle(lock, &referee, CYCLES)));
    done?;
    let each = |count: u64| count as f64 / CYCLES as f64;
    Ok(vec![
        ("allocations/cycle", each(allocated.count_total)),
        ("bytes/cycle", each(allocated.bytes_total)),
        ("verbs/cycle", each(verbs() - before)),
    ])
}

/// System calls a cycle, if `strace` is there to count them: the difference that more cycles make.
fn syscalls(kind: &str, directory: &Path) -> Result<Figures> {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return Ok(Vec::new());
    }
    let few = syscalls_of(kind, directory, CYCLES)?;
    let many = syscalls_of(kind, directory, 3 * CYCLES)?;
    Ok(vec![("syscalls/cycle", (many - few) / (2 * CYCLES) as f64)])
}

fn syscalls_of(kind: &str, directory: &Path, cycles: u64) -> Result<f64> {
    let summary = directory.join("strace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&summary).arg(std::env::current_exe()?);
    let status = strace.args(["cycles", kind]).arg(directory).arg(cycles.to_string()).status()?;
    if !status.success() {
        bail!("{strace:?} ended with {status}");
    }
    let summary = std::fs::read_to_string(summary)?;
    let total = summary.lines().find_map(|line| line.trim().strip_suffix(" total"));
    total.and_then(|calls| calls.trim().parse().ok()).context("strace has counted nothing")
}

/// What runs under `strace`: so many cycles and nothing else.
pub(crate) fn cycles(args: &[String]) -> Result<()> {
    let [kind, directory, cycles] = args else { bail!("cycles of what?") };
    let (directory, cycles) = (Path::new(directory), cycles.parse()?);
    let (runtime, referee) = (one_thread()?, Referee::default());
    match kind.as_str() {
        "flock" => {
            let flock = std::sync::Arc::new(Flock::open(&flock_in(directory))?);
            runtime.block_on(cycle(&flock, &referee, cycles))?;
        }
        "verbs" => {
            runtime.block_on(cycle(&Verbs::new(local_in(directory)?, KEY)?, &referee, cycles))?;
        }
        "memory" => {
            let lock = tenure::Tenure::new(Memory::new()).lock(KEY);
            runtime.block_on(cycle(&lock, &referee, cycles))?;
        }
        _ => {
            let lock = tenure::Tenure::new(local_in(directory)?).lock(KEY);
            runtime.block_on(cycle(&lock, &referee, cycles))?;
        }
    }
    Ok(())
}
