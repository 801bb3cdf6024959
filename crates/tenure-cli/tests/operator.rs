//! `tenure status`, `tenure list` and `tenure break`.

mod support;

use support::Bench;

#[test]
fn status_shows_holders_and_waiters() {
    let bench = Bench::new();
    let free = bench.end_of(["status", "nightly"]).with_code(0);
    assert_eq!(free.stdout, "nightly is free\n");
    let held = bench.hold(&[], "nightly");
    let waiter = bench.start(&mut bench.tenure(["run", "nightly", "--", "true"]));
    bench.wait_for_waiters("nightly", 1);
    let shown = bench.end_of(["status", "nightly"]).with_code(0).stdout;
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines[0].starts_with("nightly is held by echo $$") && lines[1].contains("CLAIM"), "{shown}");
    assert!(
        lines[2].contains("holds") && lines[2].contains(&format!("pid {}", held.pid().as_raw_pid())),
        "{shown}"
    );
    assert!(lines[3].contains("waits") && lines[3].contains("true on "), "{shown}");
    let status: serde_json::Value = serde_json::from_str(&bench.status("nightly")).unwrap();
    assert_eq!((status["state"].as_str(), status["name"].as_str()), (Some("held"), Some("nightly")));
    assert_eq!(status["waiters"][0]["command"], "true");
    held.release();
    waiter.ended().with_code(0);
    assert!(bench.end_of(["status", "nightly"]).stdout.starts_with("nightly is free; its last token is "));
}

#[test]
fn list_shows_what_is_in_use_under_a_prefix() {
    let bench = Bench::new();
    assert_eq!(bench.end_of(["list"]).with_code(0).stdout, "");
    let (one, two) = (bench.hold(&[], "jobs/1"), bench.hold(&["-s"], "jobs/2"));
    let other = bench.hold(&["--slots", "2"], "other");
    let all = bench.end_of(["list"]).with_code(0).stdout;
    assert_eq!(all.lines().count(), 4, "{all}");
    let jobs = bench.end_of(["list", "--json", "jobs/"]).with_code(0).stdout;
    let names: Vec<_> = jobs
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["name"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(names, ["jobs/1", "jobs/2"]);
    for held in [one, two, other] {
        held.release();
    }
    assert_eq!(bench.end_of(["list"]).with_code(0).stdout, "");
}

#[test]
fn break_does_not_act_without_an_answer() {
    let bench = Bench::new();
    let held = bench.hold(&[], "a");
    let refused = bench.end_of(["break", "a"]).with_code(64);
    assert!(
        refused.stderr.contains("--yes") && refused.stderr.contains("holder of a is echo"),
        "{}",
        refused.stderr
    );
    bench.end_of(["run", "-n", "a", "--", "true"]).with_code(120);
    held.release().with_code(0);
}

#[test]
fn break_says_whom_and_since_when() {
    let bench = Bench::new();
    let held = bench.hold(&[], "a");
    let broken = bench.end_of(["break", "--yes", "a"]).with_code(0);
    let pid = format!("pid {}, since ", held.pid().as_raw_pid());
    for part in ["echo $$", pid.as_str(), "token ", "claim ", "broke the hold of"] {
        assert!(broken.stderr.contains(part), "{part}: {}", broken.stderr);
    }
    held.end().with_code(121);
    let nothing = bench.end_of(["break", "--yes", "a"]).with_code(0);
    assert!(nothing.stderr.contains("a is free: nothing to break"), "{}", nothing.stderr);
}

#[test]
fn break_takes_one_claim_or_all_of_the_line() {
    let bench = Bench::new();
    let held = bench.hold(&[], "a");
    let waiter = bench.start(&mut bench.tenure(["run", "a", "--", "true"]));
    bench.wait_for_waiters("a", 1);
    let status: serde_json::Value = serde_json::from_str(&bench.status("a")).unwrap();
    let claim = status["waiters"][0]["claim"].as_str().unwrap();
    let broken = bench.end_of(["break", "--yes", "--json", "--claim", claim, "a"]).with_code(0).stdout;
    let broken: serde_json::Value = serde_json::from_str(&broken).unwrap();
    assert_eq!((broken["broken"].as_str(), broken["claim"].as_str()), (Some("waited"), Some(claim)));
    let evicted = waiter.ended().with_code(123);
    assert!(evicted.stderr.contains("ended by an operator"), "{}", evicted.stderr);
    bench.end_of(["break", "--yes", "--claim", claim, "a"]).with_code(64);
    let waiter = bench.start(&mut bench.tenure(["run", "a", "--", "true"]));
    bench.wait_for_waiters("a", 1);
    bench.end_of(["break", "--yes", "--all", "a"]).with_code(0);
    held.end().with_code(121);
    // The waiter was reached before or after the lock was its own for a moment, but not left alone.
    let code = waiter.ended().code;
    assert!([Some(123), Some(121), Some(0)].contains(&code), "{code:?}");
    bench.assert_free("a");
}

#[test]
fn a_holder_is_passed_by_its_successor_after_a_break() {
    let bench = Bench::new();
    let held = bench.hold(&["--grace", "0"], "a");
    let next = bench.start(&mut bench.tenure(["run", "a", "-c", "echo $TENURE_TOKEN"]));
    bench.wait_for_waiters("a", 1);
    let before: serde_json::Value = serde_json::from_str(&bench.status("a")).unwrap();
    bench.end_of(["break", "-y", "a"]).with_code(0);
    let token: u64 = next.ended().with_code(0).stdout.trim().parse().unwrap();
    assert!(token > before["holders"][0]["token"].as_u64().unwrap());
    held.end().with_code(121);
}
