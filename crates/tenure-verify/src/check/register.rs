//! A resource that checks tokens takes no stale write and loses no update; one that does not shows what it prevents.

use std::collections::HashMap;

use super::timeline::Timeline;
use super::{Check, Rule, who};
use crate::history::History;

/// What was counted at the resources.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) offered: u64,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) exposures: u64,
    pub(super) lost_fenced: u64,
    pub(super) lost_plain: u64,
}

#[derive(Default)]
struct Register {
    mark: u64,
    value: u64,
    plain: u64,
}

pub(super) fn check(history: &History, timeline: &Timeline) -> (Check, Counted) {
    let mut check = Check::new(Rule::Fence);
    let mut counted = Counted::default();
    // Each permit has a resource of its own, as each file of a set has.
    let mut registers: HashMap<(usize, u32), Register> = HashMap::new();
    for acted in &timeline.acts {
        let (wish, act) = (&timeline.wishes[acted.wish], &acted.act);
        let slot = wish.hold.as_ref().map_or(0, |hold| hold.slot);
        let register = registers.entry((wish.key, slot)).or_default();
        check.judged += 1;
        if act.until.is_some_and(|until| until <= acted.at) {
            counted.exposures += 1;
        }
        let stale = act.token < register.mark;
        if stale == act.accepted {
            check.accuse(acted.at, || {
                let what =
                    if stale { "was let in below the mark" } else { "was refused, not below the mark" };
                format!("{} {what} {}", who(history, wish), register.mark)
            });
        }
        if act.accepted {
            register.mark = register.mark.max(act.token);
        }
        if !acted.writes {
            continue;
        }
        counted.offered += 1;
        // What checks nothing is overwritten by everybody.
        counted.lost_plain += u64::from(act.plain != register.plain);
        register.plain = act.plain + 1;
        if !act.accepted {
            counted.refused += 1;
            continue;
        }
        counted.accepted += 1;
        if act.value != register.value {
            counted.lost_fenced += 1;
            let value = register.value;
            check.accuse(acted.at, || {
                format!(
                    "{} wrote from a value of {} over one of {value}: an update is lost",
                    who(history, wish),
                    act.value
                )
            });
        }
        register.value = act.value + 1;
    }
    (check, counted)
}
