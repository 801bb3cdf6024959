//! What was withdrawn never comes back, and nothing is left at the end.

use super::timeline::Timeline;
use super::{Check, Rule};
use crate::history::{Event, History, Record};

pub(super) fn check(history: &History, timeline: &Timeline) -> Check {
    let mut check = Check::new(Rule::Leaks);
    let memory = history.header.ttl + history.header.promises.claim_window;
    for Record(at, event) in &history.records {
        match event {
            Event::Line { key, asked, places } => {
                for (claim, holds, _) in places {
                    check.judged += 1;
                    let Some(withdrawn) = timeline.withdrawn.get(claim).filter(|out| *out < asked) else {
                        continue;
                    };
                    // A server that forgot the withdrawal remembers the place, until it ends by itself.
                    if timeline.forgot.touches(withdrawn.saturating_sub(memory), *at) {
                        check.excused += 1;
                        continue;
                    }
                    let name = history.header.keys.get(*key).map_or("?", |key| key.name.as_str());
                    let does = if *holds { "holds" } else { "waits for" };
                    check.accuse(*at, || {
                        format!("claim {claim} {does} {name} again after its withdrawal was answered")
                    });
                }
            }
            Event::Left { keys } => {
                check.judged += 1;
                if !keys.is_empty() {
                    check.accuse(*at, || {
                        format!("after the end there are still places in {}", keys.join(", "))
                    });
                }
            }
            Event::Undone { life, withdrawals } => {
                check.accuse(*at, || format!("{withdrawals} withdrawals of life {life} were never answered"));
            }
            _ => {}
        }
    }
    check
}
