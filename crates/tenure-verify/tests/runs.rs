//! Real runs: the quick one of each engine at hand, and what must go wrong in the right way.
//!
//! Slow: workers are tortured for as long as leases take.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tenure_verify::history::History;
use tenure_verify::{Kind, Options, Outcome, Verdict, VerifyError, run, work_for};

/// This test program again, as a worker.
#[test]
fn child() {
    let Some(words) = std::env::var_os("TENURE_VERIFY_WORKER") else { return };
    let words = words.into_string().unwrap();
    let (socket, life) = words.rsplit_once(' ').unwrap();
    work_for(Path::new(socket), life.parse().unwrap()).unwrap();
}

/// A worker is started by a shell, which turns the words that are added into a variable.
fn options(url: Option<&str>, seconds: u64) -> Options {
    let shell = r#"p=$0; TENURE_VERIFY_WORKER="$1 $2" exec "$p" --exact child --test-threads=1 --nocapture"#;
    let me = std::env::current_exe().unwrap().into_os_string();
    let worker = vec!["sh".into(), "-c".into(), shell.into(), me];
    let mut options = Options::new(Duration::from_secs(seconds), worker);
    options.url = url.map(str::to_owned);
    options.workers = 5;
    options.ttl = Duration::from_secs(1);
    options
}

fn go(options: &Options) -> Result<Outcome, VerifyError> {
    run(options, &AtomicBool::new(false), &mut |_, _| {})
}

/// Runs it, and finds nothing but what is to be found.
fn clean(options: &Options) -> Outcome {
    let outcome = go(options).unwrap();
    println!("{outcome}");
    assert_eq!(outcome.verdict(), Verdict::Clean, "{outcome}");
    outcome
}

#[test]
fn the_quick_run_in_memory_is_clean() {
    let outcome = clean(&options(Some("memory:"), 20));
    assert!(outcome.judgement.figures.exposures > 0);
}

#[test]
fn the_quick_run_on_the_local_engine_is_clean() {
    clean(&options(None, 20));
}

#[test]
fn the_quick_run_on_redis_is_clean() {
    let mut options = options(Some("redis:"), 20);
    options.own_servers = Some(1);
    let outcome = clean(&options);
    assert!(outcome.history.header.server.unwrap().starts_with("Redis "));
}

/// Two holders at once are tolerated then, and counted; nothing else is.
#[test]
fn failovers_of_sentinels_and_clusters_break_nothing_but_what_is_tolerated() {
    std::thread::scope(|scope| {
        for (url, servers, name) in
            [("redis+sentinel:", 3, "Redis Sentinel"), ("redis+cluster:", 6, "Redis Cluster")]
        {
            scope.spawn(move || {
                let mut options = options(Some(url), 20);
                options.own_servers = Some(servers);
                options.nemesis = Some(vec![Kind::Kill, Kind::Pause, Kind::Failover]);
                let outcome = clean(&options);
                assert!(outcome.history.header.server.unwrap().starts_with(name));
                options.nemesis = Some(vec![Kind::Cut]);
                let refused = go(&options);
                assert!(matches!(&refused, Err(VerifyError::Usage(why)) if why.contains("past it")));
            });
        }
    });
}

#[test]
fn a_server_that_nobody_runs_is_unreachable_and_nothing_else() {
    let [port] = tenure_servers::free_ports().unwrap();
    let options = options(Some(&format!("redis://127.0.0.1:{port}")), 1);
    assert!(matches!(go(&options), Err(VerifyError::Unreachable(_))));
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_is_touched() {
    let refused = |change: &dyn Fn(&mut Options)| {
        let mut options = options(Some("memory:"), 1);
        change(&mut options);
        match go(&options) {
            Err(VerifyError::Usage(message)) => message,
            other => panic!("{:?}", other.map(|outcome| outcome.verdict())),
        }
    };
    assert!(refused(&|options| options.nemesis = Some(vec![Kind::Restart])).contains("--own-servers"));
    assert!(refused(&|options| options.own_servers = Some(1)).contains("redis:"));
    assert!(
        refused(&|options| (options.url, options.own_servers) = (None, Some(1))).contains("--own-servers")
    );
    assert!(refused(&|options| options.workers = 0).contains("worker"));
    assert!(refused(&|options| options.url = Some("nonsense:".into())).contains("nonsense"));
}

#[test]
fn a_run_that_is_stopped_early_has_a_verdict_and_a_report_that_can_be_judged_again() {
    let report = tempfile::tempdir().unwrap();
    let mut options = options(Some("memory:"), 600);
    options.nemesis = Some(vec![]);
    options.report = Some(report.path().to_owned());
    let stop = AtomicBool::new(false);
    let outcome = run(&options, &stop, &mut |_, live| {
        // As ^C does.
        stop.store(live.grants > 50, std::sync::atomic::Ordering::Relaxed);
    });
    let outcome = outcome.unwrap();
    assert_eq!(outcome.verdict(), Verdict::Clean, "{outcome}");
    let again = History::load(&report.path().join("history.jsonl")).unwrap();
    assert_eq!(again, outcome.history);
    let page = std::fs::read_to_string(report.path().join("timeline.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("mutex-0"));
    let picture = std::fs::read_to_string(report.path().join("timeline.svg")).unwrap();
    assert!(picture.starts_with("<svg") && page.contains(&picture));
    let verdict = std::fs::read_to_string(report.path().join("verdict.json")).unwrap();
    let verdict: tenure_verify::Summary = serde_json::from_str(&verdict).unwrap();
    assert_eq!(verdict, outcome.summary());
}
