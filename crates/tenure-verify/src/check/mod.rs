//! The judge: pure functions from a history to what was wrong in it.
//!
//! Everything is judged by the order and the stamps of the referee, and in doubt for the accused: a hold begins when
//! the referee *hears* of it and ends no later than its holder last said, so that two holds that overlap here have
//! overlapped in truth. What a fault or a busy machine explains is excused, and counted as excused.
//!
//! Each checker sorts and scans; none compares every hold with every other, so a history of 100,000 wishes takes
//! seconds.

mod belief;
mod exclusion;
mod figures;
mod leaks;
mod losses;
mod register;
mod timeline;
mod tokens;
mod waits;

use serde::{Deserialize, Serialize};

pub use figures::{Figures, SelfCheck};

use crate::history::{History, Micros};
use timeline::Timeline;

/// How many findings of one checker are kept in words; all are counted.
const FOUND_MAX: usize = 20;

/// What is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums, reason = "expectations and reports must know all of them")]
pub enum Rule {
    /// Holds that exclude each other are not valid at the same time, and there are never more permits than the limit.
    Exclusion,
    /// Nobody counts on a hold for longer than the engine keeps it.
    Belief,
    /// Tokens of a key are unique, and what was granted before another was asked for has the lower one.
    Tokens,
    /// No stale write is accepted, and no update is lost, in a register that checks tokens.
    Fence,
    /// A loss is told no later than the end of the hold.
    LossSignal,
    /// Nothing is lost without a cause that lasts a third of a TTL.
    NoFalseLoss,
    /// A key that was given back is granted to whoever waits.
    WakeUp,
    /// A key whose holder has vanished is granted to whoever waits.
    Availability,
    /// Whoever is in the line is granted before whoever asks later.
    Order,
    /// What was withdrawn is never in the line again, and nothing is left at the end.
    Leaks,
}

impl Rule {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 10] = [
        Self::Exclusion,
        Self::Belief,
        Self::Tokens,
        Self::Fence,
        Self::LossSignal,
        Self::NoFalseLoss,
        Self::WakeUp,
        Self::Availability,
        Self::Order,
        Self::Leaks,
    ];

    /// Its name, for reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exclusion => "exclusion",
            Self::Belief => "belief",
            Self::Tokens => "tokens",
            Self::Fence => "fence",
            Self::LossSignal => "loss signal",
            Self::NoFalseLoss => "no false loss",
            Self::WakeUp => "wake-up",
            Self::Availability => "availability",
            Self::Order => "order",
            Self::Leaks => "leaks",
        }
    }
}

/// What one checker found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Check {
    /// What was judged.
    pub rule: Rule,
    /// How often there was something to judge.
    pub judged: u64,
    /// How often a fault or a busy machine explains what would be wrong otherwise.
    pub excused: u64,
    /// How often the rule was broken.
    pub broken: u64,
    /// The first of those, in words.
    pub found: Vec<Finding>,
}

/// How a rule was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// When, from the beginning of the history.
    pub at: Micros,
    /// What happened.
    pub what: String,
}

/// What the judge has to say of a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Judgement {
    /// All checks, in the order of [`Rule::ALL`].
    pub checks: Vec<Check>,
    /// What was counted and measured.
    pub figures: Figures,
}

impl Judgement {
    /// What was found of a rule.
    #[must_use]
    pub fn of(&self, rule: Rule) -> Option<&Check> {
        self.checks.iter().find(|check| check.rule == rule)
    }
}

impl Check {
    fn new(rule: Rule) -> Self {
        Self { rule, judged: 0, excused: 0, broken: 0, found: Vec::new() }
    }

    fn accuse(&mut self, at: Micros, what: impl FnOnce() -> String) {
        self.broken += 1;
        if self.found.len() < FOUND_MAX {
            self.found.push(Finding { at, what: what() });
        }
    }
}

/// Judges a history.
#[must_use]
pub fn judge(history: &History) -> Judgement {
    let timeline = Timeline::of(history);
    let (wake_up, availability, longest) = waits::check(history, &timeline);
    let (fence, register) = register::check(history, &timeline);
    let mut checks = vec![
        exclusion::check(history, &timeline),
        belief::check(history, &timeline),
        tokens::check(history, &timeline),
        fence,
        losses::signal(history, &timeline),
        losses::causes(history, &timeline),
        wake_up,
        availability,
        waits::order(history, &timeline),
        leaks::check(history, &timeline),
    ];
    for finding in checks.iter_mut().flat_map(|check| &mut check.found) {
        finding.at = finding.at.saturating_sub(timeline.first);
    }
    Judgement { checks, figures: figures::of(history, &timeline, register, longest) }
}

/// A moment or a span in words.
fn ms(micros: Micros) -> String {
    format!("{}.{:03} ms", micros / 1_000, micros % 1_000)
}

/// A wish in words, with the moment when it began to hold.
fn who(history: &History, wish: &timeline::Wish) -> String {
    let name = history.header.keys.get(wish.key).map_or("?", |key| key.name.as_str());
    let token = wish.hold.as_ref().map_or(0, |hold| hold.token);
    format!("op {} of life {}, {} of {name} with token {token}", wish.op, wish.life, wish.mode)
}
