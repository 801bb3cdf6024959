//! What the tests share: claims, waits with a limit, and children that are killed and stopped for real.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a part of tests, each of which uses its own"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use futures_executor::block_on;
use rustix::process::{Pid, Signal};
use tenure_core::engine::{Attempt, Contender, Engine, Grant, Stray, Waiting, Wake};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{Claim, ClaimId, IfBusy, Key, Mode};
use tenure_local::{Local, LocalContender, LocalOptions};

pub const LIMIT: Duration = Duration::from_secs(10);

pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

pub fn open(directory: &Path) -> Local {
    Local::open(&LocalOptions::at(directory.join("locks"))).unwrap()
}

pub fn claim(name: &str) -> Claim {
    Claim::new(key(name), ClaimId::from_bits(rand::random()))
}

pub fn with(mut claim: Claim, mode: Mode, if_busy: IfBusy) -> Claim {
    claim.mode = mode;
    claim.if_busy = if_busy;
    claim
}

pub fn granted(contender: &mut LocalContender) -> Grant {
    match block_on(contender.attempt()).unwrap() {
        Attempt::Granted(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

pub fn waits(contender: &mut LocalContender) -> Waiting {
    match block_on(contender.attempt()).unwrap() {
        Attempt::Waiting(waiting) => waiting,
        other => panic!("does not wait: {other:?}"),
    }
}

pub fn hold(local: &Local, name: &str) -> (LocalContender, Grant) {
    let mut contender = local.contend(claim(name));
    let grant = granted(&mut contender);
    (contender, grant)
}

pub fn release(contender: &mut LocalContender) {
    block_on(contender.withdraw(Stray::Impossible)).unwrap();
}

/// Waits for a wake, within a limit; says how long it took.
pub fn woken(contender: &mut LocalContender, limit: Duration) -> Option<Duration> {
    let start = SystemClock.now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let wake = runtime.block_on(async { tokio::time::timeout(limit, contender.changed()).await });
    wake.ok().map(|wake| {
        assert_eq!(wake.unwrap(), Wake::LookAgain);
        SystemClock.now().since(start)
    })
}

/// Looks until it is so, within a limit.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = SystemClock.now();
    while !is_so() {
        assert!(SystemClock.now().since(start) < LIMIT, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// This test program again, in a role. Killed when dropped.
pub struct Role {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Role {
    pub fn start(role: &str, directory: &Path, name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env("TENURE_TEST_ROLE", role)
            .env("TENURE_TEST_DIRECTORY", directory)
            .env("TENURE_TEST_KEY", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next thing it says.
    pub fn says(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "the child has ended");
            if let Some((_, said)) = line.split_once("child: ") {
                return said.trim().to_owned();
            }
        }
    }

    pub fn go_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
        if signal == Signal::STOP {
            until("the child is stopped", || {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
                stat.rsplit_once(") ").unwrap().1.starts_with('T')
            });
        }
    }

    /// Stops it at a moment when it does not have the latch of the key, which would stop the others, too.
    pub fn stop_outside_the_latch(&self, directory: &Path, name: &str) {
        let file = std::fs::File::open(directory.join("locks/keys").join(name)).unwrap();
        until("it is stopped without the latch", || {
            self.signal(Signal::STOP);
            let is_free = file.try_lock().is_ok();
            if is_free {
                file.unlock().unwrap();
            } else {
                self.signal(Signal::CONT);
            }
            is_free
        });
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits as the keeper does: by wakes, and by a look a second.
pub fn wait_and_hold(contender: &mut LocalContender) -> Grant {
    loop {
        if let Attempt::Granted(grant) = block_on(contender.attempt()).unwrap() {
            return grant;
        }
        woken(contender, Duration::from_secs(1));
    }
}

/// How often each process of a storm passes.
pub const STORM: usize = 150;

/// Takes the lock, and notes in a file, step by step, what two holders at once would spoil.
pub fn pass(local: &Local, name: &str, directory: &Path) {
    let notes = directory.join("notes");
    let mut contender = local.contend(claim(name));
    let grant = wait_and_hold(&mut contender);
    let read = || std::fs::read_to_string(&notes).unwrap_or_default();
    let before = read();
    let last = before.lines().last().map_or(0, |line| line.parse::<u64>().unwrap());
    assert!(grant.tokens.first.get() > last, "tokens rise");
    std::fs::write(&notes, format!("{before}{}\n", grant.tokens.first)).unwrap();
    std::thread::yield_now();
    assert_eq!(read().len(), before.len() + grant.tokens.first.to_string().len() + 1, "nobody else is in");
    release(&mut contender);
}

/// A process that outlives us, until the test ends it; its id.
#[allow(clippy::zombie_processes, reason = "its parent is killed before it")]
fn sleeper() -> u32 {
    Command::new("sleep").arg("600").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap().id()
}

/// Plays the role that the environment names, if it names one.
pub fn play() {
    let Ok(role) = std::env::var("TENURE_TEST_ROLE") else { return };
    let directory = std::env::var_os("TENURE_TEST_DIRECTORY").unwrap();
    let name = std::env::var("TENURE_TEST_KEY").unwrap();
    let local = open(Path::new(&directory));
    let say = |what: &str| println!("child: {what}");
    let listen = || std::io::stdin().read_line(&mut String::new()).unwrap();
    if role == "storm" {
        (0..STORM).for_each(|_| pass(&local, &name, Path::new(&directory)));
        say("done");
        return;
    }
    if role == "cycle" {
        say("begins");
        loop {
            let mut contender = local.contend(claim(&name));
            wait_and_hold(&mut contender);
            release(&mut contender);
        }
    }
    let mut contender = local.contend(claim(&name));
    if role == "wait" {
        waits(&mut contender);
        say("waits");
    }
    wait_and_hold(&mut contender);
    say("holds");
    match role.as_str() {
        "bequeath" => {
            let life = local.bequeath().unwrap();
            let heir = sleeper();
            drop(life);
            say(&heir.to_string());
        }
        "ordinary" => {
            say(&sleeper().to_string());
        }
        _ => {}
    }
    while listen() > 0 {
        release(&mut contender);
        say("released");
    }
}
