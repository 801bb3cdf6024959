//! `tenure run NAME -- true` beside `flock FILE true`: the whole process, from start to end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clock::now;
use crate::harness::{Contest, Contestant, Figures, Plan};
use crate::report::{Report, Target};
use crate::scratch::Scratch;
use crate::stats::median;

const ANCHOR: &str = "flock FILE true";
const TENURE: &str = "tenure run NAME -- true";
/// A command under the lock that looks at the most memory its parent has used: the one that locks.
const PEAK: &str = "grep VmHWM /proc/$PPID/status";

pub(crate) fn run(plan: &Plan) -> Result<Vec<Report>> {
    let Some(program) = program() else {
        eprintln!("cli: absent: no tenure program; name one in TENURE_PROGRAM");
        return Ok(Vec::new());
    };
    let scratch = Scratch::new()?;
    let flock = |command: &[&str]| {
        let mut all = Command::new("flock");
        all.arg(scratch.flock()).args(command);
        all
    };
    let url = format!("local://{}", scratch.path().join("locks").display());
    let tenure = |command: &[&str]| {
        let mut all = Command::new(&program);
        all.args(["run", "--at", &url, "nightly", "--"]).args(command);
        all
    };
    if let Err(error) = time(tenure(&["true"])) {
        eprintln!("cli: absent: {} does not run a command yet: {error:#}", program.display());
        return Ok(Vec::new());
    }
    ensure!(time(flock(&["true"])).is_ok(), "the anchor is flock of util-linux, and there is none");
    let runs = plan.choose(40, 100);
    let contestants = vec![
        Contestant::new(ANCHOR, None, |_| times(runs, &flock)),
        Contestant::new(TENURE, ANCHOR, |_| times(runs, &tenure)),
        Contestant::new("true", ANCHOR, |_| times(runs, &|command| Command::new(command[0]))),
    ];
    let targets = vec![Target::at_most(TENURE, "ratio", 2.0), Target::at_most(TENURE, "peak MiB", 12.0)];
    let contest = Contest {
        workload: "cli".to_owned(),
        rounds: 5,
        slice: Duration::ZERO,
        compared: "ms",
        contestants,
        targets,
    };
    Ok(vec![Report { engine: "local", ..contest.run()? }])
}

/// So many runs of `true`, and how much memory what runs it takes.
fn times(runs: usize, program: &dyn Fn(&[&str]) -> Command) -> Result<Figures> {
    let times: Vec<_> = (0..runs).map(|_| time(program(&["true"]))).collect::<Result<_>>()?;
    let mut figures = vec![("ms", median(&times))];
    let output = program(&["sh", "-c", PEAK]).output()?;
    let peak = String::from_utf8_lossy(&output.stdout);
    if let Some(kib) = peak.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()) {
        figures.push(("peak MiB", kib / 1024.0));
    }
    Ok(figures)
}

/// How many milliseconds a program takes from its start to its end.
fn time(mut command: Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = now();
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    let took = now() - start;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(took as f64 / 1e6)
}

/// The program to measure: the one that is named, or the one that cargo builds beside us.
fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("TENURE_PROGRAM") {
        return Some(named.into());
    }
    let cargo = std::env::var_os("CARGO")?;
    eprintln!("cli: building tenure-cli");
    let mut build = Command::new(cargo);
    // What cargo said of our package to us is not for what it builds next; see `xtask`.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            build.env_remove(name);
        }
    }
    let built = build.args(["build", "--quiet", "--release", "-p", "tenure-cli"]).status();
    let beside = std::env::current_exe().ok()?.parent().map(Path::to_owned)?.join("tenure");
    (built.is_ok_and(|status| status.success()) && beside.exists()).then_some(beside)
}
