//! What came out: a table for people, JSON for machines.

use std::fmt::Write;

use serde_json::{Value, json};

/// The figures of one workload.
pub(crate) struct Report {
    pub(crate) workload: &'static str,
    /// The figure of which the ratios are.
    pub(crate) compared: &'static str,
    pub(crate) rows: Vec<Row>,
    pub(crate) targets: Vec<Target>,
}

/// The medians of one contestant.
pub(crate) struct Row {
    pub(crate) name: &'static str,
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
}

/// On which side of a number a figure should lie.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    pub(crate) fn at_least(contestant: &'static str, of: &'static str, bound: f64) -> Self {
        Self { contestant, of, bound: Bound::AtLeast(bound) }
    }

    pub(crate) fn at_most(contestant: &'static str, of: &'static str, bound: f64) -> Self {
        Self { contestant, of, bound: Bound::AtMost(bound) }
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
    /// Each target with what was measured and whether it is met; those of absent contestants are left out.
    fn verdicts(&self) -> impl Iterator<Item = (Target, f64, bool)> {
        self.targets.iter().filter_map(|target| {
            let figure = self.rows.iter().find(|row| row.name == target.contestant)?.figure(target.of)?;
            Some((*target, figure, target.bound.is_met(figure)))
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
            let mut head = vec![self.workload.to_owned()];
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
        for (target, figure, met) in self.verdicts() {
            let verdict = if met { "met   " } else { "missed" };
            let Target { contestant, of, bound } = target;
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{verdict}  {contestant}: {of} {}, is {}", bound.words(), short(figure));
        }
        out
    }

    /// The same for machines.
    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let figures: serde_json::Map<_, _> =
                row.figures.iter().map(|(name, figure)| ((*name).to_owned(), json!(figure))).collect();
            json!({ "name": row.name, "figures": figures, "anchor": row.anchor, "ratio": row.ratio })
        });
        let targets = self.verdicts().map(|(target, figure, met)| {
            json!({
                "contestant": target.contestant, "of": target.of, "bound": target.bound.words(),
                "measured": figure, "met": met,
            })
        });
        json!({
            "workload": self.workload, "compared": self.compared,
            "rows": rows.collect::<Vec<_>>(), "targets": targets.collect::<Vec<_>>(),
        })
    }
}

/// A number with about three digits that count.
fn short(number: f64) -> String {
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
            anchor: ratio.map(|_| "anchor"),
            figures: vec![("rate", rate)],
            ratio,
        };
        let targets = vec![Target::at_least("ours", "ratio", 0.5), Target::at_most("ours", "rate", 10.0)];
        let rows = vec![row("anchor", 20.0, None), row("ours", 15.0, Some(0.75))];
        let report = Report { workload: "w", compared: "rate", rows, targets };
        let table = report.table();
        assert!(table.contains("0.75 x anchor"), "{table}");
        assert!(table.contains("met     ours: ratio at least 0.5, is 0.75"), "{table}");
        assert!(table.contains("missed  ours: rate at most 10, is 15.0"), "{table}");
        assert_eq!(report.json()["targets"][1]["met"], false);
    }
}
