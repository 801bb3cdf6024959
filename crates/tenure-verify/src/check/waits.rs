//! Whoever waits is served: when the key is given back, when its holder has vanished, and in order.

use std::collections::{BTreeMap, HashMap};

use super::timeline::{Hold, NEVER, Spans, Timeline, Wish};
use super::{Check, Rule, ms, who};
use crate::history::{History, KeyKind, Micros, Release};

/// What is granted on top of what the engine promises: timers, a busy machine.
const SLACK: Micros = 500_000;

/// How a key became free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freed {
    GivenBack,
    Vanished,
}

/// The times in which a key could have been granted, and how each began.
struct Free {
    spans: Spans,
    began: HashMap<Micros, Freed>,
}

/// Wake-up, availability, and the longest time that somebody waited for a key that nobody held.
pub(super) fn check(history: &History, timeline: &Timeline) -> (Check, Check, Micros) {
    let (mut wake_up, mut availability) = (Check::new(Rule::WakeUp), Check::new(Rule::Availability));
    let mut longest = 0;
    let free: Vec<_> = (0..history.header.keys.len()).map(|key| free(history, timeline, key)).collect();
    let restless = restless(history, timeline);
    for wish in timeline.wishes.iter().filter(|wish| wish.waits) {
        let Some(free) = free.get(wish.key) else { continue };
        let end = wish.hold.as_ref().map(|hold| hold.got).or(wish.gave_up).unwrap_or(timeline.last);
        for (from, to) in free.spans.within(wish.asked, end).filter(|(from, to)| from < to) {
            longest = longest.max(to - from);
            let check = match free.began.get(&from) {
                Some(Freed::Vanished) => &mut availability,
                _ => &mut wake_up,
            };
            check.judged += 1;
            let bound = bound(history);
            if to - from <= bound {
                continue;
            }
            if to - from <= bound + allowance(history, timeline, &restless, wish, from, to) {
                check.excused += 1;
                continue;
            }
            check.accuse(from, || {
                let who = who(history, wish);
                format!(
                    "{who} waited for {} although nobody held the key (the bound is {})",
                    ms(to - from),
                    ms(bound)
                )
            });
        }
    }
    (wake_up, availability, longest)
}

/// How long a waiter may wait for a free key when nothing is wrong: until it looks again, and an offer to somebody who
/// does not answer has lapsed.
fn bound(history: &History) -> Micros {
    let promises = &history.header.promises;
    promises.refresh_every.max(history.header.ttl / 3) + promises.claim_window + SLACK
}

/// Times in which some worker was killed, stopped or cut off: its place in the line may be in the way for a while.
fn restless(history: &History, timeline: &Timeline) -> Spans {
    let promises = &history.header.promises;
    let after = 2 * promises.claim_window + history.header.ttl;
    Spans::new(timeline.spells.iter().map(|spell| (spell.from, spell.to.saturating_add(after))).collect())
}

/// How much longer it may take because something was wrong.
fn allowance(
    history: &History,
    timeline: &Timeline,
    restless: &Spans,
    wish: &Wish,
    from: Micros,
    to: Micros,
) -> Micros {
    let promises = &history.header.promises;
    let ahead =
        if restless.touches(from, to) { 2 * promises.claim_window + 2 * history.header.ttl } else { 0 };
    ahead + timeline.trouble(wish.life, from, to) + 4 * timeline.starved.overlap(from, to)
}

/// When a key could have been granted to somebody.
fn free(history: &History, timeline: &Timeline, key: usize) -> Free {
    let capacity = match history.header.keys[key].kind {
        KeyKind::Seats(limit) => i64::from(limit),
        KeyKind::Mutex | KeyKind::File => 1,
    };
    let mut steps: BTreeMap<Micros, (i64, Option<Freed>)> = BTreeMap::new();
    let held = timeline.wishes.iter().filter(|wish| wish.key == key).filter_map(|wish| wish.hold.as_ref());
    for hold in held {
        let (to, freed) = taken_until(history, timeline, hold);
        steps.entry(hold.got).or_default().0 += 1;
        let step = steps.entry(to.max(hold.got)).or_default();
        step.0 -= 1;
        step.1 = Some(freed);
    }
    let (mut taken, mut since) = (0, Some((timeline.first, Freed::GivenBack)));
    let (mut spans, mut began) = (Vec::new(), HashMap::new());
    for (at, (change, freed)) in steps {
        taken += change;
        match since {
            Some((from, how)) if taken >= capacity => {
                spans.push((from, at));
                began.insert(from, how);
                since = None;
            }
            None if taken < capacity => since = Some((at, freed.unwrap_or(Freed::GivenBack))),
            _ => {}
        }
    }
    if let Some((from, how)) = since {
        spans.push((from, timeline.last.max(from)));
        began.insert(from, how);
    }
    Free { spans: Spans::new(spans), began }
}

/// Until when the engine may rightly keep a key taken for a hold.
fn taken_until(history: &History, timeline: &Timeline, hold: &Hold) -> (Micros, Freed) {
    let ttl = history.header.ttl;
    // The engine's lease is a little longer than that which the holder counts on.
    let lapse = |until: Micros| until.saturating_add(ttl / 20).saturating_add(10_000);
    let withdrawn = timeline.withdrawn.get(&hold.claim).copied().unwrap_or(NEVER);
    if let Some((at, Release::Cleanly | Release::Lost)) = hold.released {
        return (at, Freed::GivenBack);
    }
    if let Some(left) = hold.left {
        let latest = if history.header.promises.lease { lapse(left.saturating_add(ttl)) } else { NEVER };
        return (withdrawn.max(left).min(latest), Freed::GivenBack);
    }
    if let Some(died) = hold.died {
        let latest = if history.header.promises.lease { lapse(died.saturating_add(ttl)) } else { died };
        return (latest, Freed::Vanished);
    }
    match &hold.lost {
        Some(lost) => (lapse(lost.until.unwrap_or(lost.told).max(lost.told)), Freed::Vanished),
        None => (NEVER, Freed::GivenBack),
    }
}

/// Whoever has a place is granted before whoever asks later, where the engine promises it. The order of grants is that
/// of tokens, which cannot be mistaken on the way to the referee.
pub(super) fn order(history: &History, timeline: &Timeline) -> Check {
    let mut check = Check::new(Rule::Order);
    if !history.header.promises.arrival {
        return check;
    }
    let restless = restless(history, timeline);
    for key in 0..history.header.keys.len() {
        let alone = timeline.wishes.iter().filter(|wish| wish.key == key && wish.alone);
        let held: Vec<_> = alone.filter_map(|wish| Some((wish, wish.hold.as_ref()?))).collect();
        // Those who waited and whose place cannot have lapsed meanwhile.
        let mut placed: Vec<_> = Vec::new();
        for (wish, hold) in &held {
            let Some(joined) = timeline.joined.get(&hold.claim).copied() else { continue };
            let busy = timeline.starved.longest(joined, hold.got) >= history.header.promises.claim_window / 3;
            if busy || restless.touches(joined, hold.got) || timeline.faulty(wish.life, joined, hold.got) {
                check.excused += 1;
            } else if joined >= wish.asked {
                placed.push((joined, *wish, *hold));
            }
        }
        placed.sort_by_key(|(joined, _, _)| *joined);
        let mut by_asking = held;
        by_asking.sort_by_key(|(wish, _)| wish.asked);
        let mut before = placed.into_iter().peekable();
        let mut last: Option<(&Wish, &Hold)> = None;
        for (wish, hold) in by_asking {
            while let Some((_, earlier, its)) = before.next_if(|(joined, _, _)| *joined < wish.asked) {
                if last.is_none_or(|(_, known)| known.token < its.token) {
                    last = Some((earlier, its));
                }
            }
            check.judged += 1;
            if let Some((earlier, _)) =
                last.filter(|(earlier, its)| its.token > hold.token && earlier.op != wish.op)
            {
                check.accuse(hold.got, || {
                    format!(
                        "{} was granted before {}, which was in the line when it asked",
                        who(history, wish),
                        who(history, earlier)
                    )
                });
            }
        }
    }
    check
}
