//! Rounds, medians and ratios: the same for every workload.
//!
//! A machine that does other work as well drifts by more than what is measured. So the contestants take turns in
//! short slices, and only figures of the same round are divided by each other: the ratio of a contestant is the median
//! of its ratios to the anchor, round by round.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::report::{Report, Row, Target};
use crate::stats::median;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
}

impl Plan {
    /// The first of a workload's two choices in a quick run, the second in a full one.
    pub(crate) fn choose<T>(self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// What one contestant did in one slice: named figures, in the order of the table's columns.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// One who takes part in every round.
pub(crate) struct Contestant<'a> {
    name: &'static str,
    anchor: Option<&'static str>,
    run: Box<dyn FnMut(Duration) -> Result<Figures> + 'a>,
}

impl<'a> Contestant<'a> {
    /// A contestant that works for a slice of time and says what came of it.
    pub(crate) fn new(
        name: &'static str,
        anchor: impl Into<Option<&'static str>>,
        run: impl FnMut(Duration) -> Result<Figures> + 'a,
    ) -> Self {
        Self { name, anchor: anchor.into(), run: Box::new(run) }
    }
}

/// A workload: who takes part, for how long, and which figure is compared.
pub(crate) struct Contest<'a> {
    pub(crate) workload: &'static str,
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
    pub(crate) compared: &'static str,
    pub(crate) contestants: Vec<Contestant<'a>>,
    pub(crate) targets: Vec<Target>,
}

impl Contest<'_> {
    /// Lets all take turns, and takes the medians.
    pub(crate) fn run(mut self) -> Result<Report> {
        let mut runs: Vec<Vec<Figures>> = self.contestants.iter().map(|_| Vec::new()).collect();
        for round in 0..=self.rounds {
            // The first, short round warms up files, caches and branch predictors, and is not counted.
            let slice = if round == 0 { self.slice / 5 } else { self.slice };
            eprintln!("{}: round {round} of {}", self.workload, self.rounds);
            let count = self.contestants.len();
            for turn in 0..count {
                // Every other round backwards, so that nobody always follows the same one.
                let who = if round % 2 == 0 { turn } else { count - 1 - turn };
                let contestant = &mut self.contestants[who];
                let figures = (contestant.run)(slice)
                    .with_context(|| format!("{}: {}", self.workload, contestant.name))?;
                if round > 0 {
                    runs[who].push(figures);
                }
            }
        }
        let rows = (0..self.contestants.len()).map(|who| self.row(who, &runs)).collect();
        Ok(Report { workload: self.workload, compared: self.compared, rows, targets: self.targets })
    }

    fn row(&self, who: usize, runs: &[Vec<Figures>]) -> Row {
        let contestant = &self.contestants[who];
        let names = runs[who].first().map(Vec::as_slice).unwrap_or_default().iter().map(|(name, _)| *name);
        let figures = names.map(|name| (name, median(&each(&runs[who], name)))).collect();
        let anchor =
            contestant.anchor.and_then(|anchor| self.contestants.iter().position(|c| c.name == anchor));
        let ratio = anchor.map(|anchor| {
            let (ours, theirs) = (each(&runs[who], self.compared), each(&runs[anchor], self.compared));
            let ratios: Vec<_> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
            median(&ratios)
        });
        Row { name: contestant.name, anchor: contestant.anchor, figures, ratio }
    }
}

fn each(rounds: &[Figures], name: &str) -> Vec<f64> {
    rounds.iter().filter_map(|figures| figures.iter().find(|(n, _)| *n == name)).map(|(_, f)| *f).collect()
}
