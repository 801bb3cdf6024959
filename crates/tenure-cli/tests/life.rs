//! Signals, stops, losses and sudden death: what happens to a command that runs under a lock.

#![allow(clippy::unwrap_used, reason = "the helpers are for tests as well")]

mod support;

use std::path::Path;

use rustix::process::{Signal, kill_process_group};
use support::{Bench, Ended, Running, lives, pid_in, state, until};

/// A script that writes its process id to a file as soon as it is set up.
fn ready(file: &Path) -> String {
    format!("echo $$ > {0}.new; mv {0}.new {0}", file.display())
}

fn break_it(bench: &Bench, name: &str) -> Ended {
    bench.end_of(["break", "--yes", name]).with_code(0)
}

#[test]
fn c101_a_signal_reaches_the_whole_group() {
    let bench = Bench::new();
    let (leader, member) = (bench.path("leader"), bench.path("member"));
    for (signal, code) in [
        (Signal::HUP, 129),
        (Signal::INT, 130),
        (Signal::QUIT, 131),
        (Signal::TERM, 143),
        (Signal::USR1, 138),
        (Signal::USR2, 140),
    ] {
        // The member is a child of the shell that is the command; without job control it shares its group.
        let inner = format!("{}; exec cat {}", ready(&member), bench.gate().path.display());
        let script = format!("sh -c '{inner}' > /dev/null 2>&1 & {}; wait", ready(&leader));
        let running = bench.start(&mut bench.tenure(["run", "a", "-c", &script]));
        let (leader_pid, member_pid) = (pid_in(&bench, &leader), pid_in(&bench, &member));
        running.signal(signal);
        running.ended().with_code(code);
        // A shell ignores INT and QUIT for what it starts in the background.
        if ![Signal::INT, Signal::QUIT].contains(&signal) {
            until("the member has ended", || (!lives(member_pid)).then_some(()));
        }
        let _ = kill_process_group(leader_pid, Signal::KILL);
        assert!(!lives(leader_pid));
        bench.assert_free("a");
        std::fs::remove_file(&leader).unwrap();
        std::fs::remove_file(&member).unwrap();
    }
}

#[test]
fn a_command_may_survive_a_signal() {
    let bench = Bench::new();
    let (file, gate) = (bench.path("ready"), bench.gate());
    let script =
        format!("trap 'exit 9' TERM; {}; while :; do read x < {}; done", ready(&file), gate.path.display());
    let running = bench.start(&mut bench.tenure(["run", "a", "-c", &script]));
    bench.content_of(&file);
    running.signal(Signal::TERM);
    running.ended().with_code(9);
}

#[test]
fn a_signal_while_waiting_leaves_the_line() {
    let bench = Bench::new();
    let held = bench.hold(&[], "a");
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let ran = bench.path("ran");
        let waiter = bench.start(&mut bench.tenure(["run", "a", "-c", &format!("touch {}", ran.display())]));
        bench.wait_for_waiters("a", 1);
        waiter.signal(signal);
        waiter.ended().with_code(code);
        assert_eq!(bench.waiters("a"), 0);
        assert!(!ran.exists());
    }
    held.release();
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let bench = Bench::new();
    let (file, gate) = (bench.path("ready"), bench.gate());
    let inner = format!("{}; read x < {}", ready(&file), gate.path.display());
    let script = format!("trap '' HUP; exec {} run a -c '{inner}'", env!("CARGO_BIN_EXE_tenure"));
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]).env("TENURE_URL", bench.url());
    let mut running = bench.start(&mut command);
    bench.content_of(&file);
    running.signal(Signal::HUP);
    until("the command reads", || {
        gate.open();
        running.has_ended().then_some(())
    });
    running.ended().with_code(0);
}

#[test]
fn c101_a_killed_wrapper_takes_its_command_along_before_the_next_grant() {
    let bench = Bench::new();
    let log = bench.path("log");
    let old = bench.start(&mut bench.tenure([
        "run",
        "a",
        "-c",
        &format!("while :; do echo old >> {}; done", log.display()),
    ]));
    bench.content_of(&log);
    let next = bench.start(&mut bench.tenure(["run", "a", "-c", &format!("echo new >> {}", log.display())]));
    bench.wait_for_waiters("a", 1);
    old.signal(Signal::KILL);
    next.ended().with_code(0);
    assert!(std::fs::read_to_string(log).unwrap().ends_with("old\nnew\n"));
}

#[test]
fn c101_a_grandchild_that_outlives_a_killed_wrapper_keeps_the_lock_taken() {
    let bench = Bench::new();
    let (file, gate) = (bench.path("grandchild"), bench.gate());
    let inner = format!("trap \"\" HUP INT QUIT TERM; {}; read x < {}", ready(&file), gate.path.display());
    let script = format!("sh -c '{inner}' > /dev/null 2>&1 & wait");
    let old = bench.start(&mut bench.tenure(["run", "a", "-c", &script]));
    let grandchild = pid_in(&bench, &file);
    old.signal(Signal::KILL);
    assert_eq!(old.ended().code, None);
    bench.end_of(["run", "-n", "a", "--", "true"]).with_code(120);
    let next = bench.start(&mut bench.tenure([
        "run",
        "a",
        "-c",
        &format!("cat /proc/{}/stat", grandchild.as_raw_pid()),
    ]));
    bench.wait_for_waiters("a", 1);
    assert!(lives(grandchild));
    until("the grandchild reads", || {
        gate.open();
        (!lives(grandchild)).then_some(())
    });
    // It had ended when its successor began.
    let next = next.ended();
    assert!(next.code == Some(1) || next.stdout.contains(") Z "), "{next:?}");
}

#[test]
fn c101_the_longest_hold_ends_in_term_and_then_in_kill() {
    let bench = Bench::new();
    let told = bench
        .end_of(["run", "--max-hold", "300ms", "--grace", "100ms", "a", "--", "sleep", "1000"])
        .with_code(121);
    assert!(told.stderr.contains("--max-hold 300ms was about to end"), "{}", told.stderr);
    let polite = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.01; done";
    let told = bench.end_of(["run", "--max-hold", "1s", "a", "-c", polite]).with_code(121);
    assert_eq!(told.stdout, "bye\n");
    let file = bench.path("stubborn");
    let stubborn = format!("trap '' TERM; {}; while :; do sleep 0.01; done", ready(&file));
    bench.end_of(["run", "--max-hold", "300ms", "--grace", "50ms", "a", "-c", &stubborn]).with_code(121);
    assert!(!lives(pid_in(&bench, &file)));
    bench.assert_free("a");
}

#[test]
fn c101_the_rest_of_the_group_has_the_rest_of_the_grace() {
    let bench = Bench::new();
    // The leader obeys TERM at once, its child needs a moment longer.
    let inner = "trap \"sleep 0.1; echo tidied > tidied; exit\" TERM; while :; do sleep 0.01; done";
    let script = format!("sh -c '{inner}' & wait");
    bench.end_of(["run", "--max-hold", "6s", "--grace", "5s", "a", "-c", &script]).with_code(121);
    assert_eq!(bench.content_of(&bench.path("tidied")), "tidied\n");
}

#[test]
fn a_broken_holder_is_told_and_ended() {
    let bench = Bench::new();
    let held = bench.hold(&[], "a");
    let broken = break_it(&bench, "a");
    assert!(broken.stderr.contains(&format!("pid {}", held.pid().as_raw_pid())), "{}", broken.stderr);
    let command = held.command;
    let ended = held.end().with_code(121);
    assert!(ended.stderr.contains("an operator broke it"), "{}", ended.stderr);
    assert!(!lives(command));
    bench.assert_free("a");
}

#[test]
fn a_broken_holder_without_grace_is_killed_at_once() {
    let bench = Bench::new();
    let file = bench.path("ready");
    let script = format!("trap '' TERM; {}; while :; do sleep 0.01; done", ready(&file));
    let running = bench.start(&mut bench.tenure(["run", "--grace", "0", "a", "-c", &script]));
    let command = pid_in(&bench, &file);
    break_it(&bench, "a");
    running.ended().with_code(121);
    assert!(!lives(command));
}

/// Stops a wrapper with its command, as a suspended machine or a debugger would.
fn stop(running: &Running, command: rustix::process::Pid) {
    running.signal(Signal::STOP);
    kill_process_group(command, Signal::STOP).unwrap();
    until("both are stopped", || {
        (state(running.pid()) == Some('T') && state(command) == Some('T')).then_some(())
    });
}

#[test]
fn c102_a_hold_that_was_broken_during_a_stop_does_not_go_on() {
    let bench = Bench::new();
    let (file, log) = (bench.path("ready"), bench.path("log"));
    let script = format!("{}; while :; do echo old >> {}; done", ready(&file), log.display());
    let running = bench.start(&mut bench.tenure(["run", "a", "-c", &script]));
    let command = pid_in(&bench, &file);
    bench.content_of(&log);
    stop(&running, command);
    bench.end_of(["run", "-n", "a", "--", "true"]).with_code(120);
    break_it(&bench, "a");
    bench.end_of(["run", "-n", "a", "-c", &format!("echo new >> {}", log.display())]).with_code(0);
    running.signal(Signal::CONT);
    let ended = running.ended().with_code(121);
    assert!(ended.stderr.contains("an operator broke it"), "{}", ended.stderr);
    assert!(!lives(command));
    // It was killed where it stood.
    assert!(std::fs::read_to_string(log).unwrap().ends_with("new\n"));
}

#[test]
fn c102_a_hold_that_outlived_a_stop_goes_on() {
    let bench = Bench::new();
    let (file, gate) = (bench.path("ready"), bench.gate());
    let script = format!("{}; read x < {}; exit 5", ready(&file), gate.path.display());
    let mut running = bench.start(&mut bench.tenure(["run", "a", "-c", &script]));
    let command = pid_in(&bench, &file);
    stop(&running, command);
    running.signal(Signal::CONT);
    until("the command goes on", || {
        gate.open();
        running.has_ended().then_some(())
    });
    running.ended().with_code(5);
}

#[test]
fn c102_a_lease_that_ended_during_a_stop_ends_the_command() {
    let bench = Bench::new();
    let (file, log) = (bench.path("ready"), bench.path("log"));
    let script = format!("{}; while :; do echo old >> {}; done", ready(&file), log.display());
    let arguments = ["run", "--at", "memory:", "--ttl", "500ms", "a", "-c", &script];
    let running = bench.start(&mut bench.tenure(arguments));
    let command = pid_in(&bench, &file);
    stop(&running, command);
    let written = std::fs::metadata(&log).map(|log| log.len()).unwrap_or(0);
    #[allow(clippy::disallowed_methods, reason = "a lease has to end, not an event to happen")]
    std::thread::sleep(std::time::Duration::from_millis(600));
    running.signal(Signal::CONT);
    running.ended().with_code(121);
    assert!(!lives(command));
    assert_eq!(std::fs::metadata(&log).map(|log| log.len()).unwrap_or(0), written);
}

#[test]
fn a_lease_is_renewed_as_long_as_the_command_runs() {
    let bench = Bench::new();
    let arguments = ["run", "--at", "memory:", "--ttl", "200ms", "a", "--", "sleep", "1"];
    bench.end_of(arguments).with_code(0);
}
