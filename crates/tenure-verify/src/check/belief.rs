//! Nobody counts on a hold for longer than the engine keeps it.
//!
//! This is what exclusion rests on, and it shows long before two holders meet: the referee looks at the lines, and
//! compares what the engine says with what the holder said last before that.

use std::collections::HashMap;

use tenure_core::ClaimId;

use super::timeline::Timeline;
use super::{Check, Rule, ms};
use crate::history::{Event, History, Micros, Op, Record};

/// How many of a holder's words are remembered: a look takes some time, in which it may say more.
const WORDS: usize = 8;

const SECOND: Micros = 1_000_000;

/// What a holder said of its deadline, with when it said so.
#[derive(Default)]
struct Words(Vec<(Micros, Micros)>);

impl Words {
    fn say(&mut self, at: Micros, until: Micros) {
        if self.0.len() == WORDS {
            self.0.remove(0);
        }
        self.0.push((at, until));
    }

    /// The last that was said by `at`.
    fn last_by(&self, at: Micros) -> Option<Micros> {
        self.0.iter().rev().find(|(said, _)| *said <= at).map(|(_, until)| *until)
    }
}

#[derive(Default)]
struct Holders {
    claims: HashMap<Op, ClaimId>,
    words: HashMap<ClaimId, Words>,
}

impl Holders {
    fn hear(&mut self, at: Micros, event: &Event) {
        match event {
            Event::Got(got) => {
                self.claims.insert(got.op, got.claim);
                self.words.insert(got.claim, Words::default());
                self.say(at, got.op, got.until);
            }
            Event::Enter(act) | Event::Write(act) => self.say(at, act.op, act.until),
            Event::Leave { op, .. } | Event::Lost { op, .. } => {
                // Whoever comes after it on the same claim says something of its own.
                if let Some(claim) = self.claims.remove(op) {
                    self.words.remove(&claim);
                }
            }
            _ => {}
        }
    }

    fn say(&mut self, at: Micros, op: Op, until: Option<Micros>) {
        let words = self.claims.get(&op).and_then(|claim| self.words.get_mut(claim));
        if let (Some(words), Some(until)) = (words, until) {
            words.say(at, until);
        }
    }
}

pub(super) fn check(history: &History, timeline: &Timeline) -> Check {
    let mut check = Check::new(Rule::Belief);
    let mut holders = Holders::default();
    for Record(at, event) in &history.records {
        let Event::Line { key, asked, places } = event else {
            holders.hear(*at, event);
            continue;
        };
        for (claim, _, left) in places {
            let said = holders.words.get(claim).and_then(|words| words.last_by(*asked));
            let (Some(until), Some(left)) = (said, left) else { continue };
            check.judged += 1;
            // The engine's deadline only moves forward, so what was believed when the look began is below it.
            // One that counts in whole seconds, as etcd does, may keep it for nearly one more.
            let grain = if left.is_multiple_of(SECOND) { SECOND } else { 0 };
            let ends = at.saturating_add(*left).saturating_add(grain);
            if until <= ends {
                continue;
            }
            if timeline.forgot.touches(asked.saturating_sub(2 * history.header.ttl), *at) {
                check.excused += 1;
                continue;
            }
            let name = history.header.keys.get(*key).map_or("?", |key| key.name.as_str());
            check.accuse(*at, || {
                format!(
                    "claim {claim} on {name} counts on {} more than the engine gives it",
                    ms(until - ends)
                )
            });
        }
    }
    check
}
