//! Searches every model and prints what it found: `cargo run --release -p tenure-models -- [--large]`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use stateright::report::{ReportData, ReportDiscovery, Reporter};
use tenure_models::ambiguity::Ambiguity;
use tenure_models::fence::Fence;
use tenure_models::lease::Lease;
use tenure_models::line::Line;
use tenure_models::line::Mode::{Exclusive, Permit, Shared};
use tenure_models::quorum::Quorum;
use tenure_models::{Story, search_and_report};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let large = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--large"] => true,
        _ => {
            eprintln!("usage: tenure-models [--large]");
            return ExitCode::from(2);
        }
    };
    if run(large) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether all models are clean.
fn run(large: bool) -> bool {
    let mut clean = true;
    if large {
        clean &= show("line, two that exclude, one dies", &Line::new([Exclusive; 2], 2, 1).lasting(3, 2, 2));
        clean &= show("line, three that exclude", &Line::new([Exclusive; 3], 1, 0));
        clean &= show("line, two readers and a writer", &Line::new([Shared, Exclusive, Shared], 1, 0));
        clean &= show("line, three for two permits", &Line::new([Permit(2); 3], 1, 0));
        clean &= show("ambiguity", &Ambiguity::new(2, 2, 1));
        clean &= show("fence, failovers", &Fence::new(10, 6, 2));
        clean &= show("fence, restores", &Fence::new(7, 4, 2).with_restores());
        clean &= show("lease", &Lease::new(9));
        clean &= show("quorum, two that exclude", &Quorum::new(5, 3, 1));
        clean &= show("quorum, two readers", &Quorum::new(3, 2, 1).shared());
        clean &= show("quorum, flushed nodes", &Quorum::new(4, 3, 0).with_flushes(1));
    } else {
        clean &= show("line, two that exclude, one dies", &Line::new([Exclusive; 2], 2, 1));
        clean &=
            show("line, two readers and a writer", &Line::new([Shared, Exclusive, Shared], 1, 0).until(2));
        clean &= show("line, three for two permits", &Line::new([Permit(2); 3], 1, 0).until(2));
        clean &= show("ambiguity", &Ambiguity::new(2, 1, 1));
        clean &= show("fence, failovers", &Fence::new(6, 4, 1));
        clean &= show("fence, restores", &Fence::new(6, 4, 1).with_restores());
        clean &= show("lease", &Lease::new(4));
        clean &= show("quorum, two that exclude", &Quorum::new(4, 2, 1));
        clean &= show("quorum, two readers", &Quorum::new(2, 2, 1).shared());
        clean &= show("quorum, flushed nodes", &Quorum::new(3, 2, 0).with_flushes(1));
    }
    clean
}

fn show<M: Story>(name: &'static str, model: &M) -> bool {
    let mut progress = Progress { name, took: Duration::ZERO };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcome = search_and_report(model, threads, &mut progress);
    let verdict = if outcome.is_clean() { "clean" } else { "BROKEN" };
    println!("{name}: {} states, {:.1} s, {verdict}", outcome.states, progress.took.as_secs_f64());
    for (invariant, run) in &outcome.broken {
        println!("  not true: {invariant}, after {}", run.join(", "));
    }
    for state in &outcome.unreached {
        println!("  never seen: {state}");
    }
    outcome.is_clean()
}

/// Says on stderr how far a search is.
struct Progress {
    name: &'static str,
    took: Duration,
}

impl<M: Story> Reporter<M> for Progress {
    fn report_checking(&mut self, data: ReportData) {
        self.took = data.duration;
        if !data.done && data.unique_states > 1 {
            let (states, depth) = (data.unique_states, data.max_depth);
            eprintln!("{}: {states} states so far, {depth} steps deep", self.name);
        }
    }

    fn report_discoveries(&mut self, _: &M, _: BTreeMap<&'static str, ReportDiscovery<M>>) {}

    fn delay(&self) -> Duration {
        Duration::from_millis(500)
    }
}
