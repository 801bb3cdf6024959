//! The benches of tenure: each figure beside the limit that it is measured against, taken in the same minute.
//!
//! `cargo xtask bench [WORKLOAD…] [--quick] [--json FILE]`. Only ratios count: what a machine does in a second
//! depends on what else it does. Progress is on stderr, the tables on stdout. Every run also checks that no two
//! workers held at once, and fails if they did.

#![forbid(unsafe_code)]

mod anchors;
mod args;
mod clock;
mod counting;
mod crew;
mod engines;
mod harness;
mod locks;
mod loops;
mod page;
mod peers;
mod places;
mod plot;
mod referee;
mod report;
mod scratch;
mod stats;
mod workloads;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use args::{Args, Asked};
use engines::Engine;
use report::Report;
use workloads::{Run, Stage};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        // How the bench starts itself again, for workers in processes of their own.
        Some((role, rest)) if role == "worker" => crew::hire(rest),
        Some((role, rest)) if role == "cycles" => workloads::counted_cycles(rest),
        _ => match Args::parse(&args) {
            Asked::Run(args) => bench(&args),
            Asked::Page => page::write_again(),
            Asked::Help(text) => {
                print!("{text}");
                Ok(())
            }
            Asked::Wrong(text) => {
                eprint!("{text}");
                return ExitCode::from(2);
            }
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenure-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<()> {
    let begun = page::load();
    let mut reports = Vec::new();
    let wanted = |engine: &&&Engine| args.plan.wants_engine(engine.name);
    let races = || {
        args.workloads.iter().filter_map(|workload| match workload.run {
            Run::OnEngines(run) => Some((workload.name, run)),
            Run::Alone(_) => None,
        })
    };
    let mut absent = Vec::new();
    for engine in engines::ALL.iter().filter(wanted).filter(|_| races().next().is_some()) {
        match Stage::open(&args.plan, engine) {
            Ok(mut stage) => {
                for (name, run) in races() {
                    stage.run(name, run)?;
                }
                reports.append(&mut stage.reports);
                let why = "its runtime or its packages are not to be had".to_owned();
                absent.extend(stage.absent.take().into_iter().map(|peer| (peer, why.clone())));
            }
            Err(error) => {
                eprintln!("{} is absent: {error:#}", engine.name);
                absent.push((engine.name, format!("{error:#}")));
            }
        }
    }
    if let Some(report) = workloads::across::run(&reports) {
        println!("{}", report.table());
        reports.push(report);
    }
    for workload in &args.workloads {
        if let Run::Alone(run) = workload.run {
            for report in run(&args.plan)? {
                println!("{}", report.table());
                reports.push(report);
            }
        }
    }
    let run = page::run(args.plan.quick, &begun, &reports, &absent);
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&run)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.plan.record {
        page::record(&run)?;
    }
    let ours = |report: &&Report| report.out.iter().any(|(name, _)| name.starts_with(engines::TENURE));
    match reports.iter().find(ours) {
        Some(report) => bail!("{}: tenure itself has failed", report.workload),
        None => Ok(()),
    }
}
