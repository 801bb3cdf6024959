//! Holds that exclude each other are not valid at the same time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use tenure_core::Mode;

use super::timeline::{Hold, Timeline, Wish};
use super::{Check, Rule, ms, who};
use crate::history::{History, Micros};

/// The holds of one key that are valid as the sweep goes on.
#[derive(Default)]
struct Valid {
    ends: BinaryHeap<Reverse<(Micros, usize)>>,
    exclusive: Option<usize>,
    shared: Vec<usize>,
    permits: HashMap<u32, usize>,
}

pub(super) fn check(history: &History, timeline: &Timeline) -> Check {
    let mut check = Check::new(Rule::Exclusion);
    let wishes = &timeline.wishes;
    // Only what lasted can overlap.
    let held = |wish: &Wish| wish.hold.as_ref().map(|hold| (hold.got, hold.valid_until()));
    let lasted = (0..wishes.len()).filter(|at| held(&wishes[*at]).is_some_and(|(from, to)| from < to));
    let mut order: Vec<_> = lasted.collect();
    order.sort_by_key(|at| held(&wishes[*at]));
    let mut keys: HashMap<usize, Valid> = HashMap::new();
    for at in order {
        let wish = &wishes[at];
        let Some(hold) = &wish.hold else { continue };
        let valid = keys.entry(wish.key).or_default();
        valid.forget(hold.got, wishes);
        check.judged += 1;
        if let Some(other) = valid.conflict(wish, hold) {
            let until = wishes[other].hold.as_ref().map_or(0, Hold::valid_until).min(hold.valid_until());
            check.accuse(hold.got, || {
                let (one, two) = (who(history, wish), who(history, &wishes[other]));
                format!("{one} was granted while {two} was valid, for {}", ms(until - hold.got))
            });
        }
        valid.add(at, wish, hold);
    }
    check
}

impl Valid {
    /// Drops what ended by `now`.
    fn forget(&mut self, now: Micros, wishes: &[Wish]) {
        while let Some(Reverse((_, at))) = self.ends.peek().copied().filter(|Reverse((end, _))| *end <= now) {
            self.ends.pop();
            match wishes[at].mode {
                Mode::Exclusive => self.exclusive = self.exclusive.filter(|other| *other != at),
                Mode::Shared => self.shared.retain(|other| *other != at),
                Mode::Permit { .. } => self.permits.retain(|_, other| *other != at),
            }
        }
    }

    /// Somebody whom a newcomer must not meet.
    fn conflict(&self, wish: &Wish, hold: &Hold) -> Option<usize> {
        let shared = || self.shared.first().copied();
        let permit = || self.permits.values().next().copied();
        match wish.mode {
            Mode::Exclusive => self.exclusive.or_else(shared).or_else(permit),
            Mode::Shared => self.exclusive.or_else(permit),
            Mode::Permit { limit } => {
                let full = self.permits.len() >= limit.get() as usize;
                let taken = self.permits.get(&hold.slot).copied();
                self.exclusive.or_else(shared).or(taken).or_else(|| permit().filter(|_| full))
            }
        }
    }

    fn add(&mut self, at: usize, wish: &Wish, hold: &Hold) {
        self.ends.push(Reverse((hold.valid_until(), at)));
        match wish.mode {
            Mode::Exclusive => self.exclusive = Some(at),
            Mode::Shared => self.shared.push(at),
            Mode::Permit { .. } => drop(self.permits.insert(hold.slot, at)),
        }
    }
}
