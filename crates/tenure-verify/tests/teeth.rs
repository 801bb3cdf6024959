//! Planted flaws are found: each is a mistake that real lock libraries have shipped.
//!
//! Slow: each flaw is looked for in runs of a few seconds, for a minute at most.
#![cfg(feature = "planted-flaws")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tenure_core::flaw::Flaw;
use tenure_core::lease::{Clock, SystemClock};
use tenure_verify::check::Rule;
use tenure_verify::{Kind, Options, run, work_for};

/// Within which time a flaw must be found: a minute, on a machine that other tests may keep busy meanwhile.
const LIMIT: Duration = Duration::from_secs(150);

fn options(nemesis: &[Kind]) -> Options {
    let mut options = Options::new(Duration::from_secs(4), vec![]);
    options.url = Some("memory:".to_owned());
    options.workers = 8;
    options.keys = 3;
    options.ttl = Duration::from_millis(600);
    options.nemesis = Some(nemesis.to_vec());
    options
}

/// Runs with one seed after another until a rule is found broken.
fn finds(what: &str, any_of: &[Rule], mut options: Options) {
    let start = SystemClock.now();
    let report = tempfile::tempdir().unwrap();
    options.report = Some(report.path().to_owned());
    for seed in 1.. {
        options.seed = seed;
        let outcome = run(&options, &AtomicBool::new(false), &mut |_, _| {}).unwrap();
        let broken =
            outcome.judgement.checks.iter().find(|check| check.broken > 0 && any_of.contains(&check.rule));
        let elapsed = SystemClock.now().since(start);
        if let Some(check) = broken {
            let rule = check.rule.as_str();
            println!(
                "{what}: {rule} after {:.1} s, seed {seed}: {}",
                elapsed.as_secs_f64(),
                check.found[0].what
            );
            return;
        }
        assert!(elapsed < LIMIT, "{what} was not found within {LIMIT:?}; the last run:\n{outcome}");
    }
}

fn planted(flaw: Flaw, nemesis: &[Kind], any_of: &[Rule]) {
    let mut options = options(nemesis);
    options.flaw = Some(flaw);
    // Late messages are what some flaws are about; and grants that answer an attempt, which only a free key gives.
    options.rough = nemesis.contains(&Kind::Cut);
    options.keys = if options.rough { 6 } else { 3 };
    finds(&format!("{flaw:?}"), any_of, options);
}

#[test]
fn without_a_flaw_nothing_is_found_in_the_same_runs() {
    for (seed, ttl, rough) in [(1, 600, false), (2, 200, false), (3, 600, true)] {
        let mut options = options(&[Kind::Kill, Kind::Pause, Kind::Cut, Kind::Failover]);
        options.seed = seed;
        options.rough = rough;
        options.ttl = Duration::from_millis(ttl);
        let outcome = run(&options, &AtomicBool::new(false), &mut |_, _| {}).unwrap();
        // A rough network is not in the history as a fault, so that losses have no cause there.
        let excused = |rule| {
            rough && matches!(rule, Rule::NoFalseLoss | Rule::WakeUp | Rule::Availability | Rule::Exclusion)
        };
        let broken = outcome.judgement.checks.iter().find(|check| check.broken > 0 && !excused(check.rule));
        assert!(broken.is_none() || !outcome.is_violated(), "{outcome}");
    }
}

#[test]
fn validity_that_counts_from_the_reply_is_found() {
    planted(Flaw::ValidityFromReply, &[Kind::Cut, Kind::Pause], &[Rule::Exclusion, Rule::Belief]);
}

#[test]
fn a_renewal_that_recreates_is_found() {
    planted(Flaw::RenewalThatRecreates, &[Kind::Cut, Kind::Pause], &[Rule::Exclusion, Rule::Leaks]);
}

#[test]
fn a_release_by_name_is_found() {
    planted(Flaw::ReleaseByName, &[Kind::Pause, Kind::Cut], &[Rule::Exclusion]);
}

#[test]
fn a_withdrawal_without_tombstone_is_found() {
    planted(Flaw::NoTombstone, &[Kind::Cut], &[Rule::Leaks]);
}

#[test]
fn a_wake_without_a_look_is_found() {
    // A failover makes everybody look again; it breaks exclusion by itself, but never the order of tokens.
    planted(Flaw::WakeWithoutRecheck, &[Kind::Cut, Kind::Failover], &[Rule::Tokens]);
}

#[test]
fn a_token_that_is_only_a_counter_is_found_after_a_failover() {
    planted(Flaw::CounterOnlyToken, &[Kind::Failover], &[Rule::Tokens]);
}

#[test]
fn permits_that_are_only_counted_are_found() {
    planted(Flaw::PermitsAsCounter, &[Kind::Pause, Kind::Cut], &[Rule::Exclusion]);
}

/// This test program again, as a worker that does not write tokens back.
#[test]
fn child_without_write_back() {
    let Some(words) = std::env::var_os("TENURE_VERIFY_WORKER") else { return };
    let words = words.into_string().unwrap();
    let (socket, life) = words.rsplit_once(' ').unwrap();
    tenure_core::flaw::plant_everywhere(Flaw::NoWriteBack);
    work_for(Path::new(socket), life.parse().unwrap()).unwrap();
}

/// Found where a server is left out whose clock goes before the others': it had the highest token, and told nobody.
#[test]
fn a_token_that_is_not_written_back_to_a_majority_is_found() {
    let shell = r#"p=$0; TENURE_VERIFY_WORKER="$1 $2" \
        exec "$p" --exact child_without_write_back --test-threads=1 --nocapture"#;
    let me = std::env::current_exe().unwrap().into_os_string();
    let mut options = Options::new(Duration::from_secs(12), vec!["sh".into(), "-c".into(), shell.into(), me]);
    options.url = Some("redlock:".to_owned());
    options.own_servers = Some(3);
    options.workers = 8;
    // A token is judged only against those that were granted before it was asked for: few should have to wait.
    options.keys = 8;
    options.ttl = Duration::from_secs(1);
    options.nemesis = Some(vec![Kind::Clock, Kind::Freeze, Kind::Freeze, Kind::Freeze]);
    finds("no write-back", &[Rule::Tokens], options);
}

#[test]
fn a_resource_that_is_not_entered_before_it_is_read_is_found() {
    let mut options = options(&[Kind::Pause]);
    options.fence_in = false;
    options.keys = 1;
    options.ttl = Duration::from_millis(100);
    finds("no fence-in", &[Rule::Fence], options);
}
