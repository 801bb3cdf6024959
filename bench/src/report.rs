//! What came out: a table for people, JSON for machines.

use std::fmt::Write;

use serde_json::{Value, json};

/// The figures of one workload.
pub(crate) struct Report {
    /// The engine, if it is one of several, and what part of its workload this is.
    pub(crate) engine: &'static str,
    pub(crate) part: String,
    pub(crate) workload: String,
    /// The figure of which the ratios are.
    pub(crate) compared: &'static str,
    pub(crate) rows: Vec<Row>,
    /// Who failed, and why.
    pub(crate) out: Vec<(&'static str, String)>,
    pub(crate) targets: Vec<Target>,
}

/// The medians of one contestant.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What it is; empty where the name says it.
    pub(crate) about: &'static str,
    pub(crate) anchor: Option<&'static str>,
    pub(crate) figures: Vec<(&'static str, f64)>,
    pub(crate) ratio: Option<f64>,
}

/// What we want of a contestant.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) contestant: &'static str,
    /// A figure's name, or `ratio`.
    pub(crate) of: &'static str,
    pub(crate) bound: Bound,
    /// What the bound is a multiple of; a plain number if nothing.
    pub(crate) against: Against,
}

/// What a bound is a multiple of.
#[derive(Clone, Copy)]
pub(crate) enum Against {
    Nothing,
    /// The same figure of another contestant.
    Other(&'static str),
    /// Another figure of the same contestant.
    Own(&'static str),
}

/// On which side of a number a figure should lie.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// What came of a target.
struct Verdict {
    target: Target,
    measured: f64,
    met: bool,
}

impl Target {
    pub(crate) fn at_least(contestant: &'static str, of: &'static str, bound: f64) -> Self {
        Self { contestant, of, bound: Bound::AtLeast(bound), against: Against::Nothing }
    }

    pub(crate) fn at_most(contestant: &'static str, of: &'static str, bound: f64) -> Self {
        Self { contestant, of, bound: Bound::AtMost(bound), against: Against::Nothing }
    }

    /// The bound is so many times the same figure of another contestant.
    pub(crate) fn times(mut self, other: &'static str) -> Self {
        self.against = Against::Other(other);
        self
    }

    /// The bound is so many times another figure of the same contestant.
    pub(crate) fn times_own(mut self, figure: &'static str) -> Self {
        self.against = Against::Own(figure);
        self
    }

    fn words(&self) -> String {
        let bound = self.bound.words();
        match self.against {
            Against::Nothing => bound,
            Against::Other(other) => format!("{bound} x {other}"),
            Against::Own(figure) => format!("{bound} x its {figure}"),
        }
    }
}

impl Bound {
    fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= bound,
            Self::AtMost(bound) => figure <= bound,
        }
    }

    fn words(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("at least {bound}"),
            Self::AtMost(bound) => format!("at most {bound}"),
        }
    }
}

impl Row {
    fn figure(&self, of: &str) -> Option<f64> {
        if of == "ratio" {
            return self.ratio;
        }
        self.figures.iter().find(|(name, _)| *name == of).map(|(_, figure)| *figure)
    }
}

impl Report {
    /// What came of the targets; those of absent contestants are left out.
    fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        let figure = |name: &str, of| self.rows.iter().find(|row| row.name == name)?.figure(of);
        self.targets.iter().filter_map(move |target| {
            let figure_of_target = figure(target.contestant, target.of)?;
            let unit = match target.against {
                Against::Nothing => 1.0,
                Against::Other(other) => figure(other, target.of)?,
                Against::Own(own) => figure(target.contestant, own)?,
            };
            let measured = figure_of_target / unit;
            Some(Verdict { target: *target, measured, met: target.bound.is_met(measured) })
        })
    }

    /// The table, and what it says of the targets.
    pub(crate) fn table(&self) -> String {
        let mut columns: Vec<&str> = Vec::new();
        for (name, _) in self.rows.iter().flat_map(|row| &row.figures) {
            if !columns.contains(name) {
                columns.push(name);
            }
        }
        let mut lines = vec![{
            let mut head = vec![self.workload.clone()];
            head.extend(columns.iter().map(|column| (*column).to_owned()));
            head.push(format!("ratio of {}", self.compared));
            head
        }];
        for row in &self.rows {
            let mut line = vec![row.name.to_owned()];
            line.extend(columns.iter().map(|column| row.figure(column).map_or("-".to_owned(), short)));
            line.push(match (row.ratio, row.anchor) {
                (Some(ratio), Some(anchor)) => format!("{} x {anchor}", short(ratio)),
                _ => String::new(),
            });
            lines.push(line);
        }
        let mut out = aligned(&lines);
        for (name, why) in &self.out {
            let _ = writeln!(out, "out     {name}: {why}");
        }
        for Verdict { target, measured, met } in self.verdicts() {
            let verdict = if met { "met   " } else { "missed" };
            let Target { contestant, of, .. } = target;
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{verdict}  {contestant}: {of} {}, is {}", target.words(), short(measured));
        }
        out
    }

    /// The same for machines.
    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let figures: serde_json::Map<_, _> =
                row.figures.iter().map(|(name, figure)| ((*name).to_owned(), json!(figure))).collect();
            json!({
                "name": row.name, "about": row.about,
                "figures": figures, "anchor": row.anchor, "ratio": row.ratio,
            })
        });
        let targets = self.verdicts().map(|Verdict { target, measured, met }| {
            json!({
                "contestant": target.contestant, "of": target.of, "bound": target.words(),
                "measured": measured, "met": met,
            })
        });
        json!({
            "workload": self.workload, "engine": self.engine, "part": self.part, "compared": self.compared,
            "rows": rows.collect::<Vec<_>>(), "targets": targets.collect::<Vec<_>>(),
            "out": self.out.iter().map(|(name, why)| json!({ "name": name, "why": why })).collect::<Vec<_>>(),
        })
    }
}

/// A number with about three digits that count.
pub(crate) fn short(number: f64) -> String {
    match number.abs() {
        n if n >= 100.0 || n == 0.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        n if n >= 0.1 => format!("{number:.2}"),
        _ => format!("{number:.4}"),
    }
}

/// Lines of cells as a table: the first column to the left, the others to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(String::len).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_tells_which_targets_are_met() {
        let row = |name, rate, ratio: Option<f64>| Row {
            name,
            about: "",
            anchor: ratio.map(|_| "anchor"),
            figures: vec![("rate", rate)],
            ratio,
        };
        let targets = vec![Target::at_least("ours", "ratio", 0.5), Target::at_most("ours", "rate", 10.0)];
        let rows = vec![row("anchor", 20.0, None), row("ours", 15.0, Some(0.75))];
        let report = Report {
            engine: "",
            part: String::new(),
            out: Vec::new(),
            workload: "w".to_owned(),
            compared: "rate",
            rows,
            targets,
        };
        let table = report.table();
        assert!(table.contains("0.75 x anchor"), "{table}");
        assert!(table.contains("met     ours: ratio at least 0.5, is 0.75"), "{table}");
        assert!(table.contains("missed  ours: rate at most 10, is 15.0"), "{table}");
        assert_eq!(report.json()["targets"][1]["met"], false);
    }
}
