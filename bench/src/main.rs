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
mod referee;
mod report;
mod scratch;
mod stats;
mod workloads;

use std::process::ExitCode;

use anyhow::{Context, Result};

use args::{Args, Asked};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        // How the bench starts itself again, for workers in processes of their own.
        Some((role, rest)) if role == "worker" => crew::hire(rest),
        Some((role, rest)) if role == "cycles" => workloads::counted_cycles(rest),
        _ => match Args::parse(&args) {
            Asked::Run(args) => bench(&args),
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
    let mut json = Vec::new();
    for workload in &args.workloads {
        for report in (workload.run)(&args.plan)? {
            println!("{}", report.table());
            json.push(report.json());
        }
    }
    if let Some(file) = &args.json {
        let text =
            serde_json::to_vec_pretty(&serde_json::json!({ "quick": args.plan.quick, "workloads": json }))?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
