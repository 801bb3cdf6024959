//! Rounds, medians and ratios: the same for every workload.
//!
//! A machine that does other work as well drifts by more than what is measured. So the contestants take turns in
//! short slices, and only figures of the same round are divided by each other: the ratio of a contestant is the median
//! of its ratios to the anchor, round by round.

use std::time::Duration;

use anyhow::Result;

use crate::engines::TENURE;
use crate::referee::TwoHeld;
use crate::report::{Report, Row, Target};
use crate::stats::median;

/// What to measure, and for how long.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    /// Whether the run is written down: fewer rounds of what takes long, so that all engines have their turn.
    pub(crate) record: bool,
    /// Whether peers in other languages take part.
    pub(crate) peers: bool,
    /// The engines that are asked for; all if none is named.
    pub(crate) engines: Vec<String>,
}

impl Plan {
    /// The first of a workload's two choices in a quick run, the second in a full one.
    pub(crate) fn choose<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    pub(crate) fn wants_engine(&self, name: &str) -> bool {
        self.engines.is_empty() || self.engines.iter().any(|engine| engine == name)
    }
}

/// What one contestant did in one slice: named figures, in the order of the table's columns.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// The least for which a contestant warms up.
const WARM_UP_MIN: Duration = Duration::from_millis(100);

/// One turn of a contestant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) slice: Duration,
    /// The short turn before the first round: its times do not count, so that it may count what slows it down.
    pub(crate) warm_up: bool,
}

/// One who takes part in every round.
pub(crate) struct Contestant<'a> {
    name: &'static str,
    about: &'static str,
    anchor: Option<&'static str>,
    run: Box<dyn FnMut(Turn) -> Result<Figures> + 'a>,
}

impl<'a> Contestant<'a> {
    /// A contestant that works for a slice of time and says what came of it.
    pub(crate) fn new(
        name: &'static str,
        anchor: impl Into<Option<&'static str>>,
        mut run: impl FnMut(Duration) -> Result<Figures> + 'a,
    ) -> Self {
        Self::in_turns(name, anchor, move |turn| run(turn.slice))
    }

    /// The same, told which turn is the one to warm up.
    pub(crate) fn in_turns(
        name: &'static str,
        anchor: impl Into<Option<&'static str>>,
        run: impl FnMut(Turn) -> Result<Figures> + 'a,
    ) -> Self {
        Self { name, about: "", anchor: anchor.into(), run: Box::new(run) }
    }

    /// Says what it is.
    pub(crate) fn about(mut self, about: &'static str) -> Self {
        self.about = about;
        self
    }
}

/// A workload: who takes part, for how long, and which figure is compared.
pub(crate) struct Contest<'a> {
    pub(crate) workload: String,
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
    pub(crate) compared: &'static str,
    pub(crate) contestants: Vec<Contestant<'a>>,
    pub(crate) targets: Vec<Target>,
}

impl Contest<'_> {
    /// Lets all take turns, and takes the medians. Who fails is out, and said to be; that two held `tenure` at
    /// once ends it all.
    pub(crate) fn run(mut self) -> Result<Report> {
        let mut runs: Vec<Vec<Figures>> = self.contestants.iter().map(|_| Vec::new()).collect();
        let mut counts: Vec<Figures> = runs.iter().map(|_| Vec::new()).collect();
        let mut failed: Vec<Option<String>> = runs.iter().map(|_| None).collect();
        for round in 0..=self.rounds {
            // The first, short round warms up files, caches and branch predictors; only what it alone counts is kept.
            let warm_up = round == 0;
            let slice = if warm_up { (self.slice / 5).max(WARM_UP_MIN) } else { self.slice };
            eprintln!("{}: round {round} of {}", self.workload, self.rounds);
            let count = self.contestants.len();
            for at in 0..count {
                // Every other round backwards, so that nobody always follows the same one.
                let who = if round % 2 == 0 { at } else { count - 1 - at };
                let contestant = &mut self.contestants[who];
                if failed[who].is_some() {
                    continue;
                }
                match (contestant.run)(Turn { slice, warm_up }) {
                    Ok(figures) if warm_up => counts[who] = figures,
                    Ok(figures) => runs[who].push(figures),
                    // Of a lock of somebody else it is a finding, and it is out; of ours it is the end.
                    Err(error) if error.is::<TwoHeld>() && contestant.name.starts_with(TENURE) => {
                        return Err(error.context(format!("{}: {}", self.workload, contestant.name)));
                    }
                    Err(error) => {
                        eprintln!("{}: {} is out: {error:#}", self.workload, contestant.name);
                        failed[who] = Some(format!("{error:#}"));
                    }
                }
            }
        }
        let stayed = (0..self.contestants.len()).filter(|who| failed[*who].is_none());
        let rows = stayed.map(|who| self.row(who, &runs, &counts[who])).collect();
        let names = self.contestants.iter().map(|contestant| contestant.name);
        let out = names.zip(failed).filter_map(|(name, why)| Some((name, why?))).collect();
        Ok(Report {
            engine: "",
            part: self.workload.clone(),
            workload: self.workload,
            compared: self.compared,
            rows,
            out,
            targets: self.targets,
        })
    }

    fn row(&self, who: usize, runs: &[Vec<Figures>], counts: &Figures) -> Row {
        let contestant = &self.contestants[who];
        let names = runs[who].first().map(Vec::as_slice).unwrap_or_default().iter().map(|(name, _)| *name);
        let mut figures: Figures = names.map(|name| (name, median(&each(&runs[who], name)))).collect();
        let known: Vec<_> = figures.iter().map(|(name, _)| *name).collect();
        figures.extend(counts.iter().filter(|(name, _)| !known.contains(name)));
        let anchor =
            contestant.anchor.and_then(|anchor| self.contestants.iter().position(|c| c.name == anchor));
        let ratio = anchor.map(|anchor| {
            let (ours, theirs) = (each(&runs[who], self.compared), each(&runs[anchor], self.compared));
            let ratios: Vec<_> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
            median(&ratios)
        });
        Row { name: contestant.name, about: contestant.about, anchor: contestant.anchor, figures, ratio }
    }
}

fn each(rounds: &[Figures], name: &str) -> Vec<f64> {
    rounds.iter().filter_map(|figures| figures.iter().find(|(n, _)| *n == name)).map(|(_, f)| *f).collect()
}
