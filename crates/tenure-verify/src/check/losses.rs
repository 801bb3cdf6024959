//! Losses are told in time, and nothing is lost without a cause.

use super::timeline::{Hold, Timeline, Wish};
use super::{Check, Rule, ms, who};
use crate::history::{History, Micros};

/// How late a loss may be told on an idle machine.
const SLACK: Micros = 50_000;

/// Each hold that reached its deadline was told of its loss by then.
pub(super) fn signal(history: &History, timeline: &Timeline) -> Check {
    let mut check = Check::new(Rule::LossSignal);
    let lasting = timeline.wishes.iter().filter_map(|wish| Some((wish, wish.hold.as_ref()?)));
    for (wish, hold) in lasting {
        let Some((until, told)) = overdue(hold, timeline.last) else { continue };
        check.judged += 1;
        let late = told.saturating_sub(until);
        if late <= SLACK {
            continue;
        }
        // Who is stopped cannot be told; who is starved is told late, by no more than a few turns.
        let stopped = timeline.lives.get(&wish.life).map_or(0, |spans| spans.overlap(until, told));
        let starved = timeline.starved.longest(until.saturating_sub(1_000_000), told);
        if late <= SLACK + stopped + starved * 5 {
            check.excused += 1;
            continue;
        }
        check.accuse(until, || {
            format!("the loss of {} was told {} after its deadline", who(history, wish), ms(late))
        });
    }
    check
}

/// Until when a hold lasted, and when its loss was told or it was over otherwise; none when it ended before.
fn overdue(hold: &Hold, end: Micros) -> Option<(Micros, Micros)> {
    if let Some(lost) = &hold.lost {
        // A loss that the engine told of comes before the deadline.
        return lost.until.map(|until| (until, lost.told));
    }
    let until = hold.until?;
    // Nothing is known of a deadline that the dead would have moved.
    let over = hold.left.or(if hold.died.is_some() { None } else { Some(end) })?;
    (over > until).then_some((until, over))
}

/// Whatever was lost had a cause: a fault or a starved machine for at least a third of a TTL, a server that forgot, or
/// a longest hold that was asked for.
pub(super) fn causes(history: &History, timeline: &Timeline) -> Check {
    let mut check = Check::new(Rule::NoFalseLoss);
    let ttl = history.header.ttl;
    for wish in &timeline.wishes {
        let Some(hold) = &wish.hold else { continue };
        let Some(lost) = &hold.lost else {
            check.judged += 1;
            continue;
        };
        check.judged += 1;
        if lost.cause == "max_hold" {
            continue;
        }
        let from = lost.told.min(lost.until.unwrap_or(lost.told)).saturating_sub(2 * ttl);
        if explained(timeline, wish, from, lost.told, ttl) {
            check.excused += 1;
        } else {
            check.accuse(lost.told, || {
                format!(
                    "{} was lost ({}) although nothing was wrong for a third of a TTL",
                    who(history, wish),
                    lost.cause
                )
            });
        }
    }
    check
}

fn explained(timeline: &Timeline, wish: &Wish, from: Micros, to: Micros, ttl: Micros) -> bool {
    timeline.forgot.touches(from, to) || timeline.trouble(wish.life, from, to) >= ttl / 3
}
