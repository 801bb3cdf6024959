//! The part of the page about crowds: the same figures against a number of workers, as tables and as lines.

use std::fmt::Write;

use serde_json::Value;

use super::explained::Explained;
use super::{of_part, targets, word};
use crate::plot::{Line, lines};
use crate::report::short;
use crate::workloads::{CROWD, HOLDS, WAITERS};

/// Figures against a number.
pub(super) struct Sweep {
    /// The name of its plot; empty if there is none.
    pub(super) file: &'static str,
    title: &'static str,
    about: &'static str,
    /// What there is a number of, and the parts of the run with each.
    of: &'static str,
    parts: &'static [(u64, &'static str)],
    figure: &'static str,
    columns: &'static [&'static str],
}

pub(super) const SWEEPS: &[Sweep] = &[
    Sweep {
        file: "scale-waiters.svg",
        title: "From 2 to 1,000 waiters on one key",
        about: "Waiters of up to four processes that hold for nothing. A crowd should cost no more for each hand-off.",
        of: "waiters",
        parts: &WAITERS,
        figure: "handoffs/s",
        columns: &[
            "handoffs/s",
            "commands/cycle",
            "wakes/cycle",
            "gap p50 us",
            "longest gap ms",
            "longest wait ms",
            "turns waited",
            "Jain",
            "Jain of best",
        ],
    },
    Sweep {
        file: "scale-held.svg",
        title: "From 1 to 10,000 holds of one process",
        about: "Each key is held and renewed, with a TTL of 10 s; had one been lost, the run would say so. Memory is \
                what the\nprocess has beyond what it had when it had connected, for each hold.",
        of: "holds",
        parts: &HOLDS,
        figure: "client us/s",
        columns: &["commands/s", "script calls/s", "client us/s", "server us/s", "KiB/hold"],
    },
    Sweep {
        file: "",
        title: "10,000 waiters in one process",
        about: "They wait for what another process holds. Memory is what each adds to its process, its task included.",
        of: "waiters",
        parts: &[CROWD],
        figure: "commands/s",
        columns: &["commands/s", "script calls/s", "client us/s", "KiB/waiter"],
    },
];

impl Sweep {
    pub(super) fn is_plotted_of(&self, run: &Value) -> bool {
        !self.file.is_empty() && parts(run, self).next().is_some()
    }
}

/// The line of each who took part.
pub(super) fn plotted(run: &Value, sweep: &Sweep) -> String {
    let mut all: Vec<Line> = Vec::new();
    for (number, report) in parts(run, sweep) {
        for row in report["rows"].as_array().into_iter().flatten() {
            let Some(value) = row["figures"][sweep.figure].as_f64().filter(|value| *value > 0.0) else {
                continue;
            };
            let name = format!("{}: {}", word(&report["engine"]), word(&row["name"]));
            let point = (number as f64, value);
            match all.iter_mut().find(|line| line.name == name) {
                Some(line) => line.points.push(point),
                None => all.push(Line { name, points: vec![point] }),
            }
        }
    }
    lines(&format!("{}: {}", sweep.title, sweep.figure), &all)
}

fn parts<'a>(run: &'a Value, sweep: &'a Sweep) -> impl Iterator<Item = (u64, &'a Value)> {
    sweep
        .parts
        .iter()
        .flat_map(|(number, part)| of_part(run, part).into_iter().map(|report| (*number, report)))
}

/// Its text; empty if it was not run.
pub(super) fn text(run: &Value, sweep: &Sweep, explained: &Explained<'_>) -> String {
    let Sweep { file, title, about, of, columns, .. } = sweep;
    if parts(run, sweep).next().is_none() {
        return String::new();
    }
    let mut text = format!("\n## {title}\n\n{about}\n");
    // Writing to a string cannot fail.
    if !file.is_empty() {
        let _ = write!(text, "\n![{title}](performance/{file})\n");
    }
    let _ = write!(text, "\n| engine | name | {of} | {} |\n|---|---", columns.join(" | "));
    text.push_str(&"|---:".repeat(columns.len() + 1));
    text.push_str("|\n");
    for (number, report) in parts(run, sweep) {
        for row in report["rows"].as_array().into_iter().flatten() {
            let figures =
                columns.iter().map(|column| row["figures"][column].as_f64().map_or("-".to_owned(), short));
            let figures: Vec<_> = figures.collect();
            let (engine, name) = (word(&report["engine"]), word(&row["name"]));
            let _ = writeln!(text, "| {engine} | {name} | {number} | {} |", figures.join(" | "));
        }
    }
    for (number, report) in parts(run, sweep) {
        targets(&mut text, report, &format!("with {number}, "), explained);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_has_a_row_for_each_number() {
        let report = |part: &str, rate: f64| {
            serde_json::json!({
                "engine": "redis", "part": part, "rows": [{ "name": "tenure", "figures": { "handoffs/s": rate } }],
            })
        };
        let run =
            serde_json::json!({ "workloads": [report(WAITERS[0].1, 500.0), report(WAITERS[1].1, 700.0)] });
        let docs = tempfile::tempdir().unwrap();
        let explained = Explained::in_docs(docs.path());
        let text = text(&run, &SWEEPS[0], &explained);
        assert!(
            text.contains("| redis | tenure | 2 | 500 |") && text.contains("| redis | tenure | 10 | 700 |")
        );
        assert!(plotted(&run, &SWEEPS[0]).contains("<polyline"));
        assert_eq!(super::text(&run, &SWEEPS[1], &explained), "");
    }
}
