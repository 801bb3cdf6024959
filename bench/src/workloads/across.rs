//! Redis beside what locks on other servers did in the same workload: no turns of its own, but the figures of those
//! that have ended.

use crate::engines::STRICT;
use crate::report::{Report, Row, Target};

/// What this is called in the reports.
pub(crate) const PART: &str = "w3, across engines";
/// Where its figures are from.
const OF: &str = "w3, hold 0";
const OURS: &str = "redis: tenure, strict";

/// Who is compared: an engine, who takes part there, the name of both, and how many times as many hand-offs we want.
const OTHERS: [(&str, &str, &str, f64); 5] = [
    ("zookeeper", "kazoo", "zookeeper: kazoo", 20.0),
    ("zookeeper", "Curator", "zookeeper: Curator", 20.0),
    ("etcd", "lock service", "etcd: lock service", 20.0),
    ("etcd", "recipe", "etcd: recipe", 20.0),
    ("postgres", "advisory", "postgres: advisory", 0.8),
];

/// The comparison; none where Redis or all others did not take part.
pub(crate) fn run(reports: &[Report]) -> Option<Report> {
    let row = |engine, who, name| {
        let report = reports.iter().find(|report| report.engine == engine && report.part == OF)?;
        let row = report.rows.iter().find(|row| row.name == who)?;
        Some(Row { name, about: "", anchor: None, figures: row.figures.clone(), ratio: None })
    };
    let ours = row("redis", STRICT, OURS)?;
    let others: Vec<_> = OTHERS.iter().filter_map(|(engine, who, name, _)| row(engine, who, name)).collect();
    if others.is_empty() {
        return None;
    }
    let least = |(_, _, name, times)| Target::at_least(OURS, "handoffs/s", times).times(name);
    Some(Report {
        engine: "redis",
        part: PART.to_owned(),
        workload: PART.to_owned(),
        compared: "handoffs/s",
        rows: std::iter::once(ours).chain(others).collect(),
        out: Vec::new(),
        targets: OTHERS.map(least).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(engine: &'static str, name: &'static str, rate: f64) -> Report {
        let figures = vec![("handoffs/s", rate)];
        Report {
            engine,
            part: OF.to_owned(),
            workload: String::new(),
            compared: "handoffs/s",
            rows: vec![Row { name, about: "", anchor: None, figures, ratio: None }],
            out: Vec::new(),
            targets: Vec::new(),
        }
    }

    #[test]
    fn redis_is_compared_with_whoever_took_part() {
        let redis = report("redis", STRICT, 9000.0);
        assert!(run(&[report("zookeeper", "kazoo", 600.0)]).is_none());
        let both = run(&[report("zookeeper", "kazoo", 600.0), redis]).unwrap();
        let table = both.table();
        assert!(
            table.contains(
                "missed  redis: tenure, strict: handoffs/s at least 20 x zookeeper: kazoo, is 15.0"
            ),
            "{table}"
        );
        assert!(!table.contains("Curator"), "{table}");
    }
}
