//! What was counted and measured in a history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::register::Counted;
use super::timeline::{Spans, Timeline};
use crate::history::{Event, History, KeyKind, Micros, Record};

/// What was counted and measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Figures {
    /// How long the run took.
    pub micros: Micros,
    /// Wishes.
    pub wishes: u64,
    /// Wishes that were granted.
    pub grants: u64,
    /// Grants of a key that somebody else had just given back, to somebody who waited.
    pub hand_offs: u64,
    /// How long half of them took.
    pub hand_off_p50: Micros,
    /// How long all but a hundredth of them took.
    pub hand_off_p99: Micros,
    /// Holds that were lost.
    pub losses: u64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Wishes that were under way during a fault.
    pub overlapped: u64,
    /// Writes offered to resources that check tokens.
    pub writes_offered: u64,
    /// Of those, accepted.
    pub writes_accepted: u64,
    /// Of those, refused.
    pub writes_refused: u64,
    /// How often somebody acted after the end of its own hold.
    pub exposures: u64,
    /// Updates lost by a resource that checks tokens.
    pub lost_fenced: u64,
    /// Updates lost by a resource that does not.
    pub lost_unfenced: u64,
    /// The longest time that somebody waited for a key that nobody held.
    pub unavailable_max: Micros,
    /// For how much of the run the machine was too busy to run who wanted to.
    pub starved: Micros,
}

/// What a run must have gone through to prove anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelfCheck {
    /// What is missing, in words.
    pub missing: Vec<String>,
}

impl SelfCheck {
    /// What a history lacks to be a proof.
    #[must_use]
    pub fn of(history: &History, figures: &Figures) -> Self {
        let mut missing = Vec::new();
        for kind in &history.header.nemesis {
            if figures.faults.get(kind).copied().unwrap_or(0) == 0 {
                missing.push(format!("no fault of the kind {kind} happened: run it for longer"));
            }
        }
        if figures.grants == 0 {
            missing.push("nothing was ever granted".to_owned());
        }
        if !history.header.nemesis.is_empty() && figures.overlapped * 20 < figures.wishes {
            let share = figures.overlapped * 100 / figures.wishes.max(1);
            missing.push(format!("only {share} % of all wishes met a fault, not 5 %: run it for longer"));
        }
        let pauses = history.header.nemesis.iter().any(|kind| kind == "pause");
        if pauses && history.header.promises.lease && figures.exposures == 0 {
            missing.push("nobody acted after the end of its hold, although workers were paused".to_owned());
        }
        if !history.records.iter().any(|Record(_, event)| matches!(event, Event::Left { .. })) {
            missing.push("the history has no end: the run was broken off".to_owned());
        }
        Self { missing }
    }
}

pub(super) fn of(history: &History, timeline: &Timeline, counted: Counted, longest: Micros) -> Figures {
    let mut figures = Figures {
        micros: timeline.last - timeline.first,
        wishes: timeline.wishes.len() as u64,
        writes_offered: counted.offered,
        writes_accepted: counted.accepted,
        writes_refused: counted.refused,
        exposures: counted.exposures,
        lost_fenced: counted.lost_fenced,
        lost_unfenced: counted.lost_plain,
        unavailable_max: longest,
        starved: timeline.starved.overlap(timeline.first, timeline.last),
        ..Figures::default()
    };
    for spell in &timeline.spells {
        *figures.faults.entry(spell.fault.kind.clone()).or_default() += 1;
    }
    let faults = Spans::new(timeline.spells.iter().map(|spell| (spell.from, spell.to)).collect());
    for wish in &timeline.wishes {
        let end = match &wish.hold {
            Some(hold) => hold.ended(),
            None => wish.gave_up.unwrap_or(timeline.last),
        };
        figures.overlapped += u64::from(faults.touches(wish.asked, end));
        figures.grants += u64::from(wish.hold.is_some());
        figures.losses += u64::from(wish.hold.as_ref().is_some_and(|hold| hold.lost.is_some()));
    }
    let mut gaps = hand_offs(history, timeline);
    gaps.sort_unstable();
    figures.hand_offs = gaps.len() as u64;
    figures.hand_off_p50 = gaps.get(gaps.len() / 2).copied().unwrap_or(0);
    figures.hand_off_p99 = gaps.get(gaps.len() * 99 / 100).copied().unwrap_or(0);
    figures
}

/// From the end of each hold of a mutex to the next one, where that one was being waited for.
fn hand_offs(history: &History, timeline: &Timeline) -> Vec<Micros> {
    let mut gaps = Vec::new();
    for key in 0..history.header.keys.len() {
        if history.header.keys[key].kind != KeyKind::Mutex {
            continue;
        }
        let wishes = timeline.wishes.iter().filter(|wish| wish.key == key);
        let mut held: Vec<_> = wishes.filter_map(|wish| Some((wish, wish.hold.as_ref()?))).collect();
        held.sort_by_key(|(_, hold)| hold.got);
        for pair in held.windows(2) {
            let ([(_, before), (next, hold)], Some(left)) = (pair, pair[0].1.left) else { continue };
            if before.lost.is_none() && next.asked < left && left <= hold.got {
                gaps.push(hold.got - left);
            }
        }
    }
    gaps
}
