//! What came of a run: the verdict, for people and for machines.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::check::{Check, Figures, Judgement, Rule, SelfCheck, judge};
use crate::expectations::tolerated;
use crate::history::{Header, History};
use crate::timeline;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(clippy::exhaustive_enums, reason = "each has an exit code")]
pub enum Verdict {
    /// No rule was broken that must not be, and enough happened to say so.
    Clean,
    /// A rule was broken.
    Violated,
    /// Too little happened to prove anything.
    Unproven,
}

/// A run, its history and what the judge says of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The history.
    pub history: History,
    /// What the judge found.
    pub judgement: Judgement,
    /// What the run lacks to be a proof.
    pub missing: Vec<String>,
    /// The kinds of fault after which two holders at once are tolerated here.
    pub tolerates: Vec<String>,
    /// Where the history is, if it is kept.
    pub journal: PathBuf,
}

/// The part of an outcome that is worth keeping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// How it ended.
    pub verdict: Verdict,
    /// Under which terms it ran.
    pub terms: Header,
    /// What is tolerated there.
    pub tolerates: Vec<String>,
    /// What it lacks to be a proof.
    pub missing: Vec<String>,
    /// What was counted and measured.
    pub figures: Figures,
    /// What each checker found.
    pub checks: Vec<Check>,
}

impl Outcome {
    /// Judges a history that is kept at a path.
    #[must_use]
    pub fn of(history: History, journal: PathBuf) -> Self {
        let judgement = judge(&history);
        let missing = SelfCheck::of(&history, &judgement.figures).missing;
        let tolerates = tolerated(&history.header.engine, &history.header.nemesis);
        Self { history, judgement, missing, tolerates, journal }
    }

    /// How it ended.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.is_violated() {
            Verdict::Violated
        } else if self.missing.is_empty() {
            Verdict::Clean
        } else {
            Verdict::Unproven
        }
    }

    /// Whether a rule was broken that must not be.
    #[must_use]
    pub fn is_violated(&self) -> bool {
        self.judgement.checks.iter().any(|check| check.broken > 0 && !self.is_tolerated(check))
    }

    fn is_tolerated(&self, check: &Check) -> bool {
        check.rule == Rule::Exclusion && !self.tolerates.is_empty()
    }

    /// The part that is worth keeping.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            verdict: self.verdict(),
            terms: self.history.header.clone(),
            tolerates: self.tolerates.clone(),
            missing: self.missing.clone(),
            figures: self.judgement.figures.clone(),
            checks: self.judgement.checks.clone(),
        }
    }

    /// Writes the part that is worth keeping.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record(&self, path: &Path) -> io::Result<()> {
        let mut json = serde_json::to_string_pretty(&self.summary())?;
        json.push('\n');
        std::fs::write(path, json)
    }

    /// Writes the verdict and a picture of the run beside its history.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        self.record(&directory.join("verdict.json"))?;
        std::fs::write(directory.join("verdict.txt"), self.to_string())?;
        let picture = timeline::picture(&self.history, &self.judgement);
        std::fs::write(directory.join("timeline.svg"), &picture)?;
        std::fs::write(directory.join("timeline.html"), timeline::page(&self.history, &picture))
    }
}

impl fmt::Display for Outcome {
    /// The verdict in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (header, figures) = (&self.history.header, &self.judgement.figures);
        let server = header.server.as_ref().map(|server| format!(" ({server})")).unwrap_or_default();
        let seconds = figures.micros as f64 / 1e6;
        writeln!(
            f,
            "{}{server}, {} workers, seed {}, {seconds:.1} s",
            header.engine, header.workers, header.seed
        )?;
        writeln!(f, "  faults        {}", list(&figures.faults))?;
        writeln!(
            f,
            "  grants        {} of {} wishes; {} % of the wishes met a fault; {} holds were lost",
            figures.grants,
            figures.wishes,
            figures.overlapped * 100 / figures.wishes.max(1),
            figures.losses
        )?;
        let (p50, p99) = (figures.hand_off_p50 as f64 / 1e3, figures.hand_off_p99 as f64 / 1e3);
        writeln!(
            f,
            "  hand-offs     {}, half within {p50:.1} ms, 99 % within {p99:.1} ms",
            figures.hand_offs
        )?;
        writeln!(f, "  unavailable   {:.1} s at most", figures.unavailable_max as f64 / 1e6)?;
        writeln!(
            f,
            "  fenced writes {} offered, {} accepted, {} refused; {} updates lost",
            figures.writes_offered, figures.writes_accepted, figures.writes_refused, figures.lost_fenced
        )?;
        writeln!(
            f,
            "  without fence {} updates would have been lost; {} times somebody acted after the end of its hold",
            figures.lost_unfenced, figures.exposures
        )?;
        for check in &self.judgement.checks {
            self.check(f, check)?;
        }
        match self.verdict() {
            Verdict::Clean => writeln!(f, "clean: nothing was broken"),
            Verdict::Violated => writeln!(f, "VIOLATED; the history is in {}", self.journal.display()),
            Verdict::Unproven => {
                writeln!(f, "nothing was broken, but this proves too little: {}", self.missing.join("; "))
            }
        }
    }
}

impl Outcome {
    fn check(&self, f: &mut fmt::Formatter<'_>, check: &Check) -> fmt::Result {
        let mut line = format!("  {:<14}", check.rule.as_str());
        match check.broken {
            0 => line.push_str("ok"),
            broken if self.is_tolerated(check) => {
                write!(line, "{broken} times, tolerated after {}", self.tolerates.join(", "))?;
            }
            broken => write!(line, "BROKEN {broken} times")?,
        }
        write!(line, ", judged {} times", check.judged)?;
        if check.excused > 0 {
            write!(line, ", {} explained by faults or a busy machine", check.excused)?;
        }
        writeln!(f, "{line}")?;
        for finding in check.found.iter().take(5) {
            writeln!(f, "    at {:.3} s: {}", finding.at as f64 / 1e6, finding.what)?;
        }
        Ok(())
    }
}

pub(crate) fn list(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
}
