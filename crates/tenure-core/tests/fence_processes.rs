//! The file gate between real processes: this program starts itself again.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tenure_core::{FenceGate, FencingToken};

const PLACE: &str = "TENURE_TEST_FENCE_PLACE";
const FIRST: &str = "TENURE_TEST_FENCE_FIRST";
const STEPS: u64 = 40;

fn token(number: u64) -> FencingToken {
    FencingToken::new(number).unwrap()
}

fn start(role: &str, place: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", role, "--nocapture"])
        .env(PLACE, place)
        .env(FIRST, first.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the starting test gave; nothing when a role runs as a test, which then has nothing to do.
fn given() -> Option<(std::path::PathBuf, u64)> {
    Some((std::env::var_os(PLACE)?.into(), std::env::var(FIRST).ok()?.parse().unwrap()))
}

#[test]
fn role_of_a_writer() {
    let Some((place, first)) = given() else { return };
    let gate = FenceGate::open(place.join("fence")).unwrap();
    for number in (first..).step_by(3).take(STEPS as usize) {
        let written = gate.write(token(number), || {
            let mut log = fs::OpenOptions::new().create(true).append(true).open(place.join("log")).unwrap();
            writeln!(log, "{number}").unwrap();
        });
        if let Err(error) = written {
            assert!(error.stale().unwrap().mark > token(number));
        }
    }
}

#[test]
fn role_of_a_writer_that_never_ends() {
    let Some((place, first)) = given() else { return };
    let gate = FenceGate::open(place.join("fence")).unwrap();
    let _passage = gate.pass(token(first)).unwrap();
    println!("\npassed");
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn writers_in_several_processes_are_accepted_in_the_order_of_their_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let writers: Vec<Child> =
        (1..=3).map(|first| start("role_of_a_writer", directory.path(), first)).collect();
    for writer in writers {
        let output = writer.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    let written: Vec<u64> = log.lines().map(|line| line.parse().unwrap()).collect();
    assert!(written.is_sorted(), "a stale write passed: {written:?}");
    assert_eq!(written.last(), Some(&(3 * STEPS)));
    let gate = FenceGate::open(directory.path().join("fence")).unwrap();
    assert_eq!(gate.mark(0).unwrap(), Some(token(3 * STEPS)));
}

#[test]
fn a_process_killed_inside_its_write_opens_the_gate_and_leaves_its_mark() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = start("role_of_a_writer_that_never_ends", directory.path(), 50);
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "passed"), "the writer ended before it passed");

    let gate = FenceGate::open(directory.path().join("other")).unwrap();
    gate.enter(token(1)).unwrap(); // A gate on another path is not in its way.

    let blocked = std::thread::spawn({
        let path = directory.path().join("fence");
        move || FenceGate::open(path).unwrap().enter(token(49))
    });
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert_eq!(blocked.join().unwrap().unwrap_err().stale().unwrap().mark, token(50));
    FenceGate::open(directory.path().join("fence")).unwrap().enter(token(51)).unwrap();
}
