//! `tenure run` as a person or a script uses it.

mod support;

use support::{Bench, until};

#[test]
fn the_codes_of_the_command_pass_through() {
    let bench = Bench::new();
    for code in [0, 1, 7, 64, 120, 255] {
        bench.end_of(["run", "a", "-c", &format!("exit {code}")]).with_code(code);
    }
}

#[test]
fn an_end_by_a_signal_is_128_and_its_number() {
    let bench = Bench::new();
    bench.end_of(["run", "a", "-c", "kill -TERM $$"]).with_code(143);
    bench.end_of(["run", "a", "-c", "kill -KILL $$"]).with_code(137);
    bench.assert_free("a");
}

#[test]
fn a_command_that_is_missing_is_127_and_one_that_cannot_run_is_126() {
    let bench = Bench::new();
    std::fs::write(bench.path("data"), "no program").unwrap();
    for (command, code) in [("no-such-command", 127), ("./nowhere/x", 127), ("./data", 126), ("/", 126)] {
        let ended = bench.end_of(["run", "a", "--", command]).with_code(code);
        assert!(ended.stderr.contains(command) && ended.stderr.lines().count() == 1, "{}", ended.stderr);
        bench.assert_free("a");
    }
}

#[test]
fn output_and_input_pass_untouched() {
    let bench = Bench::new();
    std::fs::write(bench.path("in"), [0, 159, 146, 150]).unwrap();
    let mut command = bench.tenure(["run", "a", "--", "cat"]);
    command.stdin(std::fs::File::open(bench.path("in")).unwrap());
    let output = bench.start(&mut command).output();
    assert_eq!(output.stdout, [0, 159, 146, 150]);
    assert!(output.stderr.is_empty());
}

#[test]
fn the_environment_names_lock_token_and_deadline() {
    let bench = Bench::new();
    let show = "echo $TENURE_NAME,$TENURE_TOKEN,${TENURE_DEADLINE-unset},${TENURE_SLOT-unset}";
    let mut command = bench.tenure(["run", "some lock", "-c", show]);
    command.env("TENURE_DEADLINE", "1").env("TENURE_SLOT", "9");
    let first = bench.start(&mut command).ended().with_code(0).stdout;
    let [name, token, deadline, slot] = first.trim().split(',').collect::<Vec<_>>().try_into().unwrap();
    assert_eq!((name, deadline, slot), ("some lock", "unset", "unset"));
    let second = bench.end_of(["run", "--max-hold", "1h", "some lock", "-c", show]).with_code(0).stdout;
    let [_, later, deadline, _] = second.trim().split(',').collect::<Vec<_>>().try_into().unwrap();
    assert!(later.parse::<u64>().unwrap() > token.parse().unwrap());
    // Tokens are microseconds unless the clock stood still: the deadline is an hour behind its grant.
    let ahead = deadline.parse::<f64>().unwrap() - later.parse::<f64>().unwrap() / 1e6;
    assert!((3_590.0..3_630.0).contains(&ahead), "{ahead}");
    let lease = bench.end_of(["run", "--at", "memory:", "a", "-c", show]).with_code(0).stdout;
    assert!(!lease.contains("unset,unset"), "{lease}");
    let slot = bench.end_of(["run", "--slots", "2", "b", "-c", show]).with_code(0).stdout;
    assert!(slot.ends_with(",unset,0\n"), "{slot}");
}

#[test]
fn two_runs_wait_for_each_other_in_turn() {
    let bench = Bench::new();
    let log = bench.path("log");
    let held = bench.hold(&[], "a");
    let mut waiters = Vec::new();
    for (index, word) in ["first", "second", "third"].into_iter().enumerate() {
        let script = format!("echo {word} >> {}", log.display());
        waiters.push(bench.start(&mut bench.tenure(["run", "a", "-c", &script])));
        bench.wait_for_waiters("a", index + 1);
    }
    assert!(!log.exists());
    held.release().with_code(0);
    for waiter in waiters {
        waiter.ended().with_code(0);
    }
    assert_eq!(std::fs::read_to_string(log).unwrap(), "first\nsecond\nthird\n");
}

#[test]
fn without_waiting_a_busy_lock_names_its_holder() {
    let bench = Bench::new();
    let held = bench.hold(&[], "nightly");
    let ended = bench.end_of(["run", "-n", "nightly", "--", "true"]).with_code(120);
    let pid = held.pid().as_raw_pid();
    for part in ["nightly is held by echo $$", " on ", &format!("pid {pid}, since "), "(", "), token "] {
        assert!(ended.stderr.contains(part), "{part:?} is not in {}", ended.stderr);
    }
    assert_eq!(ended.stderr.lines().count(), 1);
    assert_eq!(bench.waiters("nightly"), 0);
    bench.end_of(["run", "-w", "0", "nightly", "--", "true"]).with_code(120);
    held.release().with_code(0);
    bench.assert_free("nightly");
}

#[test]
fn a_wait_that_is_over_leaves_the_line() {
    let bench = Bench::new();
    let held = bench.hold(&[], "a");
    let ended = bench.end_of(["run", "-w", "0.1", "a", "--", "true"]).with_code(124);
    assert!(ended.stderr.contains("within -w 100ms") && ended.stderr.contains("held by"), "{}", ended.stderr);
    assert_eq!(bench.waiters("a"), 0);
    held.release();
}

#[test]
fn the_code_of_a_conflict_can_be_chosen() {
    let bench = Bench::new();
    let held = bench.hold(&[], "a");
    for code in [0, 1, 99] {
        bench.end_of(["run", "-n", "-E", &code.to_string(), "a", "--", "true"]).with_code(code);
    }
    bench.end_of(["run", "-w", "50ms", "-E", "9", "a", "--", "true"]).with_code(9);
    // It is the code of a conflict only.
    bench.end_of(["run", "-E", "9", "b", "-c", "exit 3"]).with_code(3);
    bench.end_of(["run", "-E", "9", "b", "--", "no-such-command"]).with_code(127);
    held.release();
}

#[test]
fn readers_share_and_writers_do_not() {
    let bench = Bench::new();
    let reader = bench.hold(&["-s"], "data");
    bench.end_of(["run", "-s", "-n", "data", "--", "true"]).with_code(0);
    bench.end_of(["run", "-x", "-n", "data", "--", "true"]).with_code(120);
    reader.release();
    let writer = bench.hold(&["-x"], "data");
    bench.end_of(["run", "-s", "-n", "data", "--", "true"]).with_code(120);
    writer.release();
}

#[test]
fn slots_are_limited_and_numbered_and_agreed_on() {
    let bench = Bench::new();
    let first = bench.hold(&["--slots", "2"], "encode");
    let slot = bench.end_of(["run", "--slots", "2", "-n", "encode", "-c", "echo $TENURE_SLOT"]).with_code(0);
    assert_eq!(slot.stdout, "1\n");
    let second = bench.hold(&["--slots", "2"], "encode");
    bench.end_of(["run", "--slots", "2", "-n", "encode", "--", "true"]).with_code(120);
    let other = bench.end_of(["run", "--slots", "3", "-n", "encode", "--", "true"]).with_code(123);
    assert!(other.stderr.contains("limit of 2") && other.stderr.contains("--slots 2"), "{}", other.stderr);
    first.release();
    bench.end_of(["run", "--slots", "2", "-n", "encode", "--", "true"]).with_code(0);
    second.release();
}

#[test]
fn a_verbose_wait_says_behind_whom() {
    let bench = Bench::new();
    let held = bench.hold(&[], "a");
    let waiter = bench.start(&mut bench.tenure(["run", "-v", "-w", "1", "a", "--", "true"]));
    let ended = waiter.ended().with_code(124);
    assert!(
        ended.stderr.contains("waiting for a for 100ms, 0 ahead: behind echo")
            || ended.stderr.contains("1 ahead")
    );
    held.release();
}

#[test]
fn events_are_json_lines_on_stderr() {
    let bench = Bench::new();
    let ended = bench.end_of(["run", "--json", "a", "--", "echo", "data"]).with_code(0);
    assert_eq!(ended.stdout, "data\n");
    let events: Vec<serde_json::Value> =
        ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["acquired", "released"]);
    assert!(events[0]["token"].is_u64());
    let held = bench.hold(&[], "a");
    let busy = bench.end_of(["run", "--json", "-n", "a", "--", "true"]).with_code(120);
    let busy: serde_json::Value = serde_json::from_str(&busy.stderr).unwrap();
    assert_eq!(busy["line"]["holders"][0]["pid"], held.pid().as_raw_pid());
    held.release();
    let wrong = bench.end_of(["run", "--json", "", "--", "true"]).with_code(64);
    let wrong: serde_json::Value = serde_json::from_str(&wrong.stderr).unwrap();
    assert_eq!((wrong["event"].as_str(), wrong["code"].as_i64()), (Some("error"), Some(64)));
}

#[test]
fn a_script_can_lock_itself() {
    let bench = Bench::new();
    let script = bench.path("script");
    let text = format!(
        "#!/bin/sh\n[ \"$TENURE_NAME\" = self ] || exec {} run -n self -- sh \"$0\" \"$@\"\necho locked $1\n",
        env!("CARGO_BIN_EXE_tenure")
    );
    std::fs::write(&script, text).unwrap();
    let mut command = std::process::Command::new("sh");
    command.arg(&script).arg("word").env("TENURE_URL", bench.url()).env_remove("TENURE_NAME");
    assert_eq!(bench.start(&mut command).ended().with_code(0).stdout, "locked word\n");
}

#[test]
fn c038_the_lock_is_free_when_the_program_has_ended() {
    let bench = Bench::new();
    for _ in 0..20 {
        bench.end_of(["run", "-n", "a", "--", "true"]).with_code(0);
    }
}

#[test]
fn c039_a_successor_starts_after_the_last_act_of_its_predecessor() {
    let bench = Bench::new();
    let log = bench.path("log");
    // The command ignores TERM and works until it is killed; the release comes after that.
    let script = format!("trap '' TERM; while :; do echo old >> {}; done", log.display());
    let old =
        bench.start(&mut bench.tenure(["run", "--max-hold", "500ms", "--grace", "50ms", "a", "-c", &script]));
    bench.content_of(&log);
    let script = format!("echo new >> {}", log.display());
    bench.end_of(["run", "a", "-c", &script]).with_code(0);
    old.ended().with_code(121);
    assert!(std::fs::read_to_string(log).unwrap().ends_with("old\nnew\n"));
}

#[test]
fn c041_an_engine_that_cannot_be_reached_is_not_a_licence_to_run() {
    let bench = Bench::new();
    let ran = bench.path("ran");
    let url = format!("local://{}", bench.path("missing/parent/locks").display());
    let touch = format!("touch {}", ran.display());
    let ended = bench.end_of(["run", "--at", &url, "-n", "-E", "0", "a", "-c", &touch]).with_code(122);
    assert!(ended.stderr.contains("missing/parent") && ended.stderr.contains("--at"), "{}", ended.stderr);
    assert!(!ran.exists());
}

#[test]
fn what_is_left_in_the_background_does_not_keep_the_lock() {
    let bench = Bench::new();
    let gate = bench.gate();
    let script = format!("(read x < {}; echo done > out) > /dev/null 2>&1 &", gate.path.display());
    bench.end_of(["run", "a", "-c", &script]).with_code(0);
    bench.assert_free("a");
    until("the background process reads", || {
        gate.open();
        bench.path("out").exists().then_some(())
    });
}
