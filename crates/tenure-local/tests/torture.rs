//! Eight real processes, ten thousand acquisitions each, under kills and pauses: an unfenced journal that shows any
//! overlap, and a fenced register that shows any lost update.
//!
//! The journal is one file that all append to, so the order of its lines is the order in which things happened. Who
//! is killed is written there before the kill: from then on the victim may vanish at any line.
//!
//! Slow: eighty thousand acquisitions take about a minute.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rand::RngExt;
use rustix::process::{Pid, Signal, kill_process};
use tenure_core::blocking::Tenure;
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{FencingToken, Released};
use tenure_local::{Local, LocalOptions};

const PROCESSES: usize = 8;
const ACQUISITIONS: u64 = 10_000;
/// Long enough for a loaded machine; the run itself ends by count.
const LIMIT: Duration = Duration::from_secs(420);

fn connect(directory: &Path) -> Tenure {
    let local = Local::open(&LocalOptions::at(directory.join("locks"))).unwrap();
    tenure_core::Tenure::new(local).into()
}

fn journal(directory: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(directory.join("journal")).unwrap()
}

/// A resource that checks tokens: its mark, its value. The lock of its file is only held for the check.
struct Register(File);

impl Register {
    fn open(directory: &Path) -> Self {
        let path = directory.join("register");
        Self(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap())
    }

    fn load(&self) -> (u64, u64) {
        let mut bytes = [0; 16];
        let got = self.0.read_at(&mut bytes, 0).unwrap();
        assert!(got == 0 || got == 16);
        (
            u64::from_le_bytes(bytes[..8].try_into().unwrap()),
            u64::from_le_bytes(bytes[8..].try_into().unwrap()),
        )
    }

    /// Runs one decision; refused when the token is stale.
    fn with(&self, token: FencingToken, change: impl FnOnce(u64) -> u64) -> Option<u64> {
        self.0.lock().unwrap();
        let (mark, value) = self.load();
        let accepted = (token.get() >= mark).then(|| {
            let value = change(value);
            let bytes = [token.get().to_le_bytes(), value.to_le_bytes()].concat();
            self.0.write_all_at(&bytes, 0).unwrap();
            value
        });
        self.0.unlock().unwrap();
        accepted
    }
}

/// One worker process: works until it has passed its quota, then says so by its exit.
#[test]
fn child() {
    let Some(directory) = std::env::var_os("TENURE_TORTURE") else { return };
    let (directory, quota) =
        (Path::new(&directory), std::env::var("TENURE_QUOTA").unwrap().parse::<u64>().unwrap());
    let (tenure, register, mut journal) = (connect(directory), Register::open(directory), journal(directory));
    let me = std::process::id();
    let lock = tenure.lock("hot");
    for _ in 0..quota {
        let guard = lock.acquire().unwrap();
        let token = guard.token();
        journal.write_all(format!("enter {me} {token}\n").as_bytes()).unwrap();
        let read = register.with(token, |value| value).expect("a fresh token is not stale");
        guard.check().unwrap();
        let wrote = register.with(token, |_| read + 1).expect("nobody is let in before we leave");
        journal.write_all(format!("leave {me} {wrote}\n").as_bytes()).unwrap();
        assert_eq!(guard.release().unwrap(), Released::Cleanly);
    }
}

struct Worker {
    child: Child,
}

impl Worker {
    fn start(directory: &Path, quota: u64) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--test-threads=1"]).stdin(Stdio::null()).stdout(Stdio::null());
        command.env("TENURE_TORTURE", directory).env("TENURE_QUOTA", quota.to_string());
        Self { child: command.spawn().unwrap() }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn eight_processes_under_kills_and_pauses_never_overlap_and_lose_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path();
    let (mut journal, clock) = (journal(directory), SystemClock);
    let (start, mut dice) = (clock.now(), rand::rng());
    let mut workers: Vec<_> = (0..PROCESSES).map(|_| Worker::start(directory, ACQUISITIONS)).collect();
    let (mut kills, mut pauses, mut finished) = (0u64, 0u64, 0);
    while finished < PROCESSES {
        assert!(clock.now().since(start) < LIMIT, "stuck: {finished} of {PROCESSES} have finished");
        std::thread::park_timeout(Duration::from_millis(dice.random_range(20..80)));
        let victim = dice.random_range(0..workers.len());
        let pid = workers[victim].child.id();
        if let Some(status) = workers[victim].ended() {
            assert!(status.success(), "a worker failed: {status}");
            drop(workers.swap_remove(victim));
            finished += 1;
        } else if dice.random_bool(0.3) && kills < 60 {
            journal.write_all(format!("kill {pid}\n").as_bytes()).unwrap();
            drop(std::mem::replace(&mut workers[victim], Worker::start(directory, ACQUISITIONS)));
            kills += 1;
        } else {
            let stopped = Pid::from_child(&workers[victim].child);
            kill_process(stopped, Signal::STOP).unwrap();
            std::thread::park_timeout(Duration::from_millis(dice.random_range(1..60)));
            kill_process(stopped, Signal::CONT).unwrap();
            pauses += 1;
        }
    }
    let seen = judge(&std::fs::read_to_string(directory.join("journal")).unwrap(), kills);
    assert!(seen >= ACQUISITIONS * PROCESSES as u64 && kills >= 20 && pauses >= 20);
    let seconds = clock.now().since(start).as_secs_f64();
    println!("{seen} acquisitions in {seconds:.1} s, {kills} kills, {pauses} pauses");
    assert_eq!(connect(directory).inspect("hot").unwrap().places, vec![], "nothing is left in the line");
}

/// Reads the journal in the order in which it was written; returns how often somebody entered.
fn judge(journal: &str, kills: u64) -> u64 {
    let (mut inside, mut last_token, mut last_value, mut entered) = (None, 0, 0, 0);
    let mut doomed = HashSet::new();
    let mut unknown = BTreeMap::new();
    for line in journal.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["kill", pid] => {
                doomed.insert(pid);
            }
            ["enter", pid, token] => {
                let token: u64 = token.parse().unwrap();
                assert!(token > last_token, "tokens rise: {line} after {last_token}");
                if let Some(other) = inside.replace(pid) {
                    assert!(doomed.contains(other), "{line} while {other} is inside");
                    *unknown.entry(other).or_insert(0) += 1;
                }
                (last_token, entered) = (token, entered + 1);
            }
            ["leave", pid, value] => {
                let value: u64 = value.parse().unwrap();
                assert_eq!(inside.take(), Some(pid), "{line} by somebody who is not inside");
                // Whoever was killed between its write and its line has written one more.
                assert!(value > last_value, "{line} repeats a value: an update was lost");
                assert!(value - last_value <= 1 + unknown.values().sum::<u64>(), "{line} after {last_value}");
                last_value = value;
            }
            _ => panic!("a torn line: {line}"),
        }
    }
    assert!(unknown.values().sum::<u64>() <= kills);
    entered
}
