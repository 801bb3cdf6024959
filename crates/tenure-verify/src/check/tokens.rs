//! Tokens are unique, and rise in real time.

use std::collections::HashMap;

use super::timeline::{Hold, Timeline, Wish};
use super::{Check, Rule, who};
use crate::history::History;

pub(super) fn check(history: &History, timeline: &Timeline) -> Check {
    let mut check = Check::new(Rule::Tokens);
    let mut keys: HashMap<usize, Vec<(&Wish, &Hold)>> = HashMap::new();
    for wish in &timeline.wishes {
        if let Some(hold) = &wish.hold {
            keys.entry(wish.key).or_default().push((wish, hold));
        }
    }
    for granted in keys.into_values() {
        check.judged += granted.len() as u64;
        unique(history, &granted, &mut check);
        rising(history, granted, &mut check);
    }
    check
}

fn unique(history: &History, granted: &[(&Wish, &Hold)], check: &mut Check) {
    let mut seen: HashMap<u64, &Wish> = HashMap::new();
    for (wish, hold) in granted {
        if let Some(first) = seen.insert(hold.token, wish) {
            check.accuse(hold.got, || {
                format!("{} has the token of {}", who(history, wish), who(history, first))
            });
        }
    }
}

/// What was granted before another was asked for has the lower token.
fn rising(history: &History, granted: Vec<(&Wish, &Hold)>, check: &mut Check) {
    let mut by_grant = granted.clone();
    by_grant.sort_by_key(|(_, hold)| hold.got);
    let mut by_asking = granted;
    by_asking.sort_by_key(|(wish, _)| wish.asked);
    let mut before = by_grant.into_iter().peekable();
    let mut highest: Option<(&Wish, &Hold)> = None;
    for (wish, hold) in by_asking {
        while let Some(earlier) = before.next_if(|(_, other)| other.got < wish.asked) {
            if highest.is_none_or(|(_, known)| known.token < earlier.1.token) {
                highest = Some(earlier);
            }
        }
        if let Some((known, _)) = highest.filter(|(_, known)| known.token > hold.token) {
            check.accuse(hold.got, || {
                format!(
                    "{} is below {}, granted before it was asked for",
                    who(history, wish),
                    who(history, known)
                )
            });
        }
    }
}
