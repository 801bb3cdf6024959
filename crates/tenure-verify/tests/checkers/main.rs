//! The judge finds nothing in the histories of a sound lock, and each violation that is planted in them.
#![allow(clippy::unwrap_used, reason = "a test")]

mod good;

use std::collections::{BTreeMap, BTreeSet};

use good::{TTL, fault, history};
use proptest::prelude::*;
use tenure_core::ClaimId;
use tenure_verify::check::{Rule, SelfCheck, judge};
use tenure_verify::history::{Event, History, HistoryError, KeyKind, Micros, Record, Release};

/// How often each rule is broken; those that are not are left out.
fn broken(history: &History) -> Vec<Rule> {
    judge(history).checks.into_iter().filter(|check| check.broken > 0).map(|check| check.rule).collect()
}

fn find(history: &History, nth: usize, is_it: impl Fn(&Event) -> bool) -> usize {
    let all: Vec<_> = (0..history.records.len()).filter(|at| is_it(&history.records[*at].1)).collect();
    all[nth % all.len()]
}

/// Moves everything from a record on to later.
fn delay(history: &mut History, from: usize, by: Micros) {
    for Record(at, event) in &mut history.records[from..] {
        *at += by;
        let until = match event {
            Event::Got(got) => &mut got.until,
            Event::Enter(act) | Event::Write(act) => &mut act.until,
            Event::Lost { until, .. } | Event::Leave { until, .. } => until,
            _ => continue,
        };
        *until = until.map(|until| until + by);
    }
}

/// The wish of a key of some kind, as an index into the grants.
fn key_of(history: &History, kind: KeyKind) -> usize {
    history.header.keys.iter().position(|key| key.kind == kind).unwrap()
}

fn ops_of(history: &History, key: usize) -> Vec<u64> {
    let asks = history.records.iter().filter_map(|Record(_, event)| match event {
        Event::Ask(ask) if ask.key == key => Some(ask.op),
        _ => None,
    });
    asks.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_is_found_in_the_history_of_a_sound_lock(seed: u64, workers in 1usize..9) {
        let judgement = judge(&history(seed, workers, 300));
        for check in &judgement.checks {
            prop_assert_eq!(check.broken, 0, "{:?}", check);
            prop_assert_eq!(check.excused, 0, "{:?}", check);
        }
        prop_assert_eq!(judgement.figures.lost_unfenced, 0);
        prop_assert_eq!(judgement.figures.writes_refused, 0);
    }

    #[test]
    fn a_hold_that_begins_too_early_is_found(seed: u64, nth: usize) {
        let mut bad = history(seed, 6, 300);
        // The mutex is granted to a waiter before its holder leaves.
        let ops = ops_of(&bad, key_of(&bad, KeyKind::Mutex));
        let position = |is_it: &dyn Fn(&Event) -> bool| bad.records.iter().position(|record| is_it(&record.1));
        let grants = bad.records.iter().enumerate().filter_map(|(at, Record(_, event))| match event {
            Event::Got(got) if ops.contains(&got.op) => Some((at, got.op)),
            _ => None,
        });
        let grants: Vec<_> = grants.collect();
        let moves = grants.windows(2).filter_map(|pair| {
            let left = position(&|event| matches!(event, Event::Leave { op, .. } if *op == pair[0].1))?;
            let asked = position(&|event| matches!(event, Event::Ask(ask) if ask.op == pair[1].1))?;
            (asked < left).then_some((pair[1].0, left))
        });
        let moves: Vec<_> = moves.collect();
        prop_assume!(!moves.is_empty());
        let (from, to) = moves[nth % moves.len()];
        let Record(_, grant) = bad.records.remove(from);
        let at = bad.records[to - 1].0;
        bad.records.insert(to, Record(at, grant));
        prop_assert!(broken(&bad).contains(&Rule::Exclusion));
    }

    #[test]
    fn one_permit_too_many_is_found(seed: u64, nth: usize) {
        let mut bad = history(seed, 8, 300);
        // Both holders of a limit of two stay: one never leaves, and its slot is given out again.
        let ops = ops_of(&bad, key_of(&bad, KeyKind::Seats(2)));
        let held = |event: &Event| matches!(event, Event::Leave { op, .. } if ops[..ops.len() / 2].contains(op));
        let at = find(&bad, nth, held);
        let Record(_, Event::Leave { op, .. }) = bad.records[at].clone() else { unreachable!() };
        bad.records.retain(|Record(_, event)| {
            !matches!(event, Event::Leave { op: it, .. } | Event::Released { op: it, .. } if *it == op)
        });
        for Record(_, event) in &mut bad.records {
            if let Event::Got(got) = event && got.op == op {
                got.until = None;
            }
            if let Event::Enter(act) | Event::Write(act) = event && act.op == op {
                act.until = None;
            }
        }
        prop_assert!(broken(&bad).contains(&Rule::Exclusion));
    }

    #[test]
    fn a_token_that_comes_again_is_found(seed: u64, nth: usize) {
        let mut bad = history(seed, 4, 200);
        let ops = ops_of(&bad, 0);
        let is_it = |event: &Event| matches!(event, Event::Got(got) if ops.contains(&got.op));
        let (one, other) = (find(&bad, nth, is_it), find(&bad, nth + 1, is_it));
        let Record(_, Event::Got(got)) = &bad.records[one] else { unreachable!() };
        let token = got.token;
        let Record(_, Event::Got(got)) = &mut bad.records[other] else { unreachable!() };
        got.token = token;
        prop_assert!(broken(&bad).contains(&Rule::Tokens));
    }

    #[test]
    fn a_token_that_falls_is_found(seed: u64, nth: usize) {
        let mut bad = history(seed, 4, 200);
        // Of the grants that nobody had before they were asked for, nobody can tell.
        let (mut granted, mut key_of, mut later) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        for Record(_, event) in &bad.records {
            match event {
                Event::Ask(ask) => {
                    key_of.insert(ask.op, ask.key);
                    if granted.contains(&ask.key) {
                        later.insert(ask.op);
                    }
                }
                Event::Got(got) => drop(granted.insert(key_of[&got.op])),
                _ => {}
            }
        }
        let at = find(&bad, nth, |event| matches!(event, Event::Got(got) if later.contains(&got.op)));
        let Record(_, Event::Got(got)) = &mut bad.records[at] else { unreachable!() };
        got.token = 1;
        prop_assert!(broken(&bad).contains(&Rule::Tokens));
    }

    #[test]
    fn a_stale_write_that_is_accepted_is_found(seed: u64, nth: usize) {
        let mut bad = history(seed, 4, 200);
        let at = find(&bad, nth + 30, |event| matches!(event, Event::Write(_)));
        let Record(_, Event::Write(act)) = &mut bad.records[at] else { unreachable!() };
        act.token = 1;
        prop_assert_eq!(broken(&bad), vec![Rule::Fence]);
    }

    #[test]
    fn a_lost_update_is_found_and_counted(seed: u64, nth: usize) {
        let mut bad = history(seed, 4, 200);
        let is_it = |event: &Event| matches!(event, Event::Write(act) if act.value > 0);
        let at = find(&bad, nth, is_it);
        let Record(_, Event::Write(act)) = &mut bad.records[at] else { unreachable!() };
        act.value -= 1;
        act.plain -= 1;
        let judgement = judge(&bad);
        prop_assert!(judgement.of(Rule::Fence).unwrap().broken > 0);
        prop_assert!(judgement.figures.lost_fenced > 0 && judgement.figures.lost_unfenced > 0);
    }

    #[test]
    fn an_unfenced_loss_is_counted_and_not_judged(seed: u64, nth: usize) {
        let mut fine = history(seed, 4, 200);
        let is_it = |event: &Event| matches!(event, Event::Write(act) if act.plain > 0);
        let at = find(&fine, nth, is_it);
        let Record(_, Event::Write(act)) = &mut fine.records[at] else { unreachable!() };
        act.plain -= 1;
        prop_assert_eq!(broken(&fine), vec![]);
        prop_assert!(judge(&fine).figures.lost_unfenced > 0);
    }

    #[test]
    fn a_loss_that_is_told_late_or_not_at_all_is_found(seed: u64, nth: usize, told: bool) {
        let mut bad = history(seed, 4, 200);
        let at = find(&bad, nth, |event| matches!(event, Event::Leave { .. }));
        let Record(now, Event::Leave { op, .. }) = bad.records[at].clone() else { unreachable!() };
        for Record(_, event) in &mut bad.records {
            match event {
                Event::Got(got) if got.op == op => got.until = Some(now + 1_000),
                Event::Enter(act) | Event::Write(act) if act.op == op => act.until = Some(now + 1_000),
                Event::Leave { op: it, until } if *it == op => *until = Some(now + 1_000),
                _ => {}
            }
        }
        delay(&mut bad, at, 200_000);
        let until = Some(now + 1_000);
        let Record(_, Event::Leave { until: last, .. }) = &mut bad.records[at] else { unreachable!() };
        *last = until;
        if told {
            let late = now + 190_000;
            bad.records.insert(at, Record(late, Event::Lost { op, cause: "expired".into(), until, told: late }));
        }
        prop_assert!(broken(&bad).contains(&Rule::LossSignal), "{:?}", broken(&bad));
        // Whoever is stopped cannot be told.
        let asks = |record: &&Record| matches!(&record.1, Event::Ask(ask) if ask.op == op);
        let Some(Record(_, Event::Ask(ask))) = bad.records.iter().find(asks) else { unreachable!() };
        let life = ask.life;
        bad.records.insert(at, Record(now + 191_000, Event::Healed { fault: 1 }));
        bad.records.insert(at, Record(now, fault(1, "pause", Some(life))));
        prop_assert!(!broken(&bad).contains(&Rule::LossSignal));
    }

    #[test]
    fn a_loss_without_a_cause_is_found_and_one_with_a_cause_excused(seed: u64, nth: usize) {
        let mut bad = history(seed, 4, 200);
        let at = find(&bad, nth, |event| matches!(event, Event::Leave { .. }));
        let Record(now, Event::Leave { op, until }) = bad.records[at].clone() else { unreachable!() };
        let lost = Event::Lost { op, cause: "denied".into(), until, told: now };
        bad.records.insert(at, Record(now, lost));
        prop_assert_eq!(broken(&bad), vec![Rule::NoFalseLoss]);
        bad.records.insert(at, Record(now, Event::Healed { fault: 1 }));
        bad.records.insert(at, Record(now.saturating_sub(TTL / 2), fault(1, "cut", None)));
        prop_assert_eq!(broken(&bad), vec![]);
    }

    #[test]
    fn a_waiter_that_is_not_woken_is_found(seed: u64, nth: usize) {
        let mut bad = history(seed, 6, 300);
        let ops = ops_of(&bad, key_of(&bad, KeyKind::Mutex));
        // Somebody who waited, and whose grant came right after a release of the key.
        let waited = |at: usize, bad: &History| match &bad.records[at].1 {
            Event::Got(got) if ops.contains(&got.op) => {
                let joined = |event: &Event| matches!(event, Event::Joined { claim, .. } if *claim == got.claim);
                bad.records[..at].iter().any(|Record(_, event)| joined(event))
            }
            _ => false,
        };
        let all: Vec<_> = (0..bad.records.len()).filter(|at| waited(*at, &bad)).collect();
        let at = all[nth % all.len()];
        delay(&mut bad, at, 5_000_000);
        prop_assert!(broken(&bad).contains(&Rule::WakeUp), "{:?}", broken(&bad));
    }

    #[test]
    fn a_dead_holder_that_blocks_for_too_long_is_found(seed: u64, nth: usize) {
        let mut bad = history(seed, 6, 300);
        let ops = ops_of(&bad, key_of(&bad, KeyKind::Mutex));
        let is_it = |event: &Event| matches!(event, Event::Leave { op, .. } if ops.contains(op));
        // The holder does not leave but is killed; whoever waits must get the key after one TTL.
        let followed = |at: usize| {
            let next = bad.records[at..].iter().find_map(|Record(_, event)| match event {
                Event::Got(got) if ops.contains(&got.op) => Some(got.claim),
                _ => None,
            });
            let joined = |event: &Event| matches!(event, Event::Joined { claim, .. } if Some(*claim) == next);
            is_it(&bad.records[at].1) && bad.records[..at].iter().any(|Record(_, event)| joined(event))
        };
        let all: Vec<_> = (0..bad.records.len()).filter(|at| followed(*at)).collect();
        prop_assume!(!all.is_empty());
        let at = all[nth % all.len()];
        let Record(now, Event::Leave { op, .. }) = bad.records[at].clone() else { unreachable!() };
        let ask = bad.records.iter().find_map(|Record(_, event)| match event {
            Event::Ask(ask) if ask.op == op => Some(ask.life),
            _ => None,
        });
        let is_released = |event: &Event| matches!(event, Event::Released { op: it, .. } if *it == op);
        let released = bad.records.iter().position(|record| is_released(&record.1));
        bad.records.remove(released.unwrap());
        bad.records[at] = Record(now, fault(1, "kill", ask));
        bad.records.insert(at + 1, Record(now, Event::Healed { fault: 1 }));
        delay(&mut bad, at + 2, TTL * 20);
        prop_assert!(broken(&bad).contains(&Rule::Availability), "{:?}", broken(&bad));
    }

    #[test]
    fn somebody_who_overtakes_is_found(seed: u64) {
        let mut bad = history(seed, 6, 400);
        let ops = ops_of(&bad, key_of(&bad, KeyKind::Mutex));
        // Two waiters of one key, the second of whom asked after the first had joined, change their tokens.
        let joined: Vec<_> = bad.records.iter().filter_map(|Record(at, event)| match event {
            Event::Joined { claim, .. } if ops.contains(&(claim.bits() as u64)) => Some((*at, claim.bits() as u64)),
            _ => None,
        }).collect();
        let token = |bad: &History, op: u64| bad.records.iter().find_map(|Record(_, event)| match event {
            Event::Got(got) if got.op == op => Some(got.token),
            _ => None,
        });
        let pair = joined.windows(2).find(|pair| token(&bad, pair[0].1).is_some() && token(&bad, pair[1].1).is_some());
        prop_assume!(pair.is_some());
        let (one, two) = (pair.unwrap()[0].1, pair.unwrap()[1].1);
        let (first, second) = (token(&bad, one).unwrap(), token(&bad, two).unwrap());
        for Record(_, event) in &mut bad.records {
            if let Event::Got(got) = event {
                got.token = if got.op == one { second } else if got.op == two { first } else { got.token };
            }
        }
        prop_assert!(broken(&bad).contains(&Rule::Order));
    }

    #[test]
    fn a_claim_that_comes_back_is_found(seed: u64, nth: usize) {
        let mut bad = history(seed, 4, 200);
        let at = find(&bad, nth, |event| matches!(event, Event::Withdrawn { .. }));
        let Record(now, Event::Withdrawn { claim, .. }) = bad.records[at].clone() else { unreachable!() };
        let line = Event::Line { key: 0, asked: now + 1, places: vec![(claim, true, None)] };
        bad.records.insert(at + 1, Record(now + 1, line));
        prop_assert_eq!(broken(&bad), vec![Rule::Leaks]);
    }

    #[test]
    fn somebody_who_counts_on_more_than_the_engine_gives_is_found(seed: u64, nth: usize) {
        let mut bad = history(seed, 4, 200);
        let at = find(&bad, nth, |event| matches!(event, Event::Enter(_)));
        let Record(now, Event::Enter(act)) = bad.records[at].clone() else { unreachable!() };
        let claim = ClaimId::from_bits(u128::from(act.op));
        let line = |left| Event::Line { key: 0, asked: now, places: vec![(claim, true, Some(left))] };
        bad.records.insert(at + 1, Record(now, line(TTL)));
        prop_assert_eq!(broken(&bad), vec![]);
        bad.records.insert(at + 1, Record(now, line(TTL - 50_000)));
        prop_assert_eq!(broken(&bad), vec![Rule::Belief]);
    }

    #[test]
    fn a_history_reads_back_what_it_wrote(seed: u64) {
        let history = history(seed, 3, 50);
        let mut text = Vec::new();
        history.write(&mut text).unwrap();
        prop_assert_eq!(History::read(text.as_slice()).unwrap(), history);
    }
}

#[test]
fn what_is_left_at_the_end_is_found() {
    let mut bad = history(1, 3, 50);
    bad.records.pop();
    let at = bad.records.last().unwrap().0;
    bad.records.push(Record(at, Event::Undone { life: 0, withdrawals: 1 }));
    bad.records.push(Record(at, Event::Left { keys: vec!["k0".into()] }));
    assert_eq!(judge(&bad).of(Rule::Leaks).unwrap().broken, 2);
}

#[test]
fn a_dropped_guard_is_free_when_its_withdrawal_is_answered() {
    let mut fine = history(5, 6, 200);
    for Record(_, event) in &mut fine.records {
        if let Event::Released { how, .. } = event {
            *how = Release::Dropped;
        }
    }
    assert_eq!(broken(&fine), vec![]);
}

#[test]
fn a_run_without_faults_proves_nothing_and_says_so() {
    let mut kind = history(1, 4, 200);
    kind.header.nemesis = vec!["kill".into(), "pause".into()];
    let figures = judge(&kind).figures;
    let missing = SelfCheck::of(&kind, &figures).missing;
    assert_eq!(missing.len(), 4, "{missing:?}");
    kind.header.nemesis.clear();
    assert_eq!(SelfCheck::of(&kind, &figures).missing, Vec::<String>::new());
}

#[test]
fn a_history_that_was_cut_off_is_read_up_to_there() {
    let history = history(1, 3, 50);
    let mut text = Vec::new();
    history.write(&mut text).unwrap();
    text.truncate(text.len() - 5);
    let read = History::read(text.as_slice()).unwrap();
    assert_eq!(read.records.len(), history.records.len() - 1);
    text.extend(b"\n{}\n");
    assert!(matches!(History::read(text.as_slice()), Err(HistoryError::Line { .. })));
    assert!(matches!(History::read(&b""[..]), Err(HistoryError::Empty)));
    assert!(matches!(
        History::read(&b"{\"tenure_history\":2}\n"[..]),
        Err(HistoryError::Version { found: 2 })
    ));
}
