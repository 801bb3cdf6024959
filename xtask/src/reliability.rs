//! The runs behind `docs/reliability.md`, one after the other, so that none is disturbed by another.

use std::process::{Command, ExitCode};

use crate::{cargo, root};

/// A run: the name of its record, and what `tenure verify` is told.
type Run = (&'static str, &'static [&'static str]);

/// Every engine with what it is put through. Servers are always our own: nobody else's are harmed.
const RUNS: &[Run] = &[
    ("memory", &["memory:", "--nemesis", "kill,pause,cut"]),
    ("memory-failover", &["memory:", "--nemesis", "kill,pause,cut,failover"]),
    ("local", &[]),
    ("redis", &["redis:", "--own-servers", "1"]),
    (
        "redis-restart-clock",
        &["redis:", "--own-servers", "1", "--nemesis", "kill,pause,restart,clock,memory"],
    ),
    (
        "redis-sentinel",
        &["redis+sentinel:", "--own-servers", "3", "--nemesis", "kill,pause,freeze,flush,restart,failover"],
    ),
    (
        "redis-cluster",
        &["redis+cluster:", "--own-servers", "6", "--nemesis", "kill,pause,freeze,flush,restart,failover"],
    ),
    ("redlock", &["redlock:", "--own-servers", "3"]),
    (
        "redlock-clock",
        &["redlock:", "--own-servers", "5", "--nemesis", "kill,pause,cut,freeze,restart,clock"],
    ),
    ("etcd", &["etcd:", "--own-servers", "3", "--nemesis", "kill,pause,cut,freeze,restart"]),
    ("zookeeper", &["zookeeper:", "--own-servers", "3", "--nemesis", "kill,pause,cut,freeze"]),
    (
        "zookeeper-restart",
        &["zookeeper:", "--own-servers", "3", "--nemesis", "kill,pause,cut,freeze,restart"],
    ),
    ("postgres", &["postgres:", "--own-servers", "1", "--nemesis", "kill,pause,cut,restart"]),
    ("mysql", &["mysql:", "--own-servers", "1", "--nemesis", "kill,pause,cut,restart"]),
];

/// The run that is drawn, by the name `picture`.
const PICTURE: [&str; 12] = [
    "redis:",
    "--own-servers",
    "1",
    "--for",
    "10s",
    "--workers",
    "5",
    "--keys",
    "3",
    "--seed",
    "5",
    "--report",
];

/// Makes the records that are asked for, all of them if none is, and the page from all that are there.
pub(crate) fn measure(args: &[&str]) -> ExitCode {
    let (time, names) = match args {
        ["--for", time, names @ ..] => (*time, names),
        names => ("20m", names),
    };
    let known: Vec<_> = RUNS.iter().map(|(known, _)| *known).chain(["picture"]).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        eprintln!("{unknown} is no run: use some of {}", known.join(", "));
        return ExitCode::from(2);
    }
    let mut failed = false;
    for (name, words) in RUNS.iter().filter(|(name, _)| names.is_empty() || names.contains(name)) {
        println!("\n{name}");
        let record = root().join(format!("docs/reliability/{name}.json"));
        let run = verify().args(*words).args(["--for", time, "--seed", "1", "--record"]).arg(record).status();
        // A run that found something is recorded, too; the page says so.
        failed |= !run.is_ok_and(|status| status.success());
    }
    if names.is_empty() || names.contains(&"picture") {
        failed |= !draw();
    }
    let published = verify().args(["--publish", "docs"]).status();
    let published = published.is_ok_and(|status| status.success());
    if published && !failed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Draws a short run, for the page.
fn draw() -> bool {
    println!("\nthe picture of a run");
    let report = root().join("target/reliability");
    let run = verify().args(PICTURE).arg(&report).status();
    run.is_ok_and(|status| status.success())
        && std::fs::copy(report.join("timeline.svg"), root().join("docs/reliability/timeline.svg")).is_ok()
}

/// The program as users have it.
fn verify() -> Command {
    let mut command = cargo();
    command.args(["run", "--release", "-q", "-p", "tenure-cli", "--", "verify"]);
    command
}
