//! By hand: its figures want a quiet machine and half a minute.
//!
//! Measures the engine beside a bare `flock`: the uncontended cycle, and the hand-off between two processes, with the
//! two wakes that it is made of.
//!
//! `cargo run --release -p tenure-local --example measure [DIRECTORY]`
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a throw-away measurement, which has to wait"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use futures_executor::block_on;
use tenure_core::engine::{Attempt, Contender, Engine, Stray};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{Claim, ClaimId, Key};
use tenure_local::{Local, LocalContender, LocalOptions};

const CYCLES: u32 = 100_000;
const PASSES: usize = 500;

fn main() {
    let args: Vec<_> = std::env::args().collect();
    match &args[1..] {
        [role, directory] if role == "pass-lock" => {
            report("hand-off, tenure", &pass(Path::new(directory), true))
        }
        [role, directory] if role == "pass-flock" => {
            report("hand-off, flock ", &pass(Path::new(directory), false))
        }
        _ => measure(args.get(1).map_or_else(|| std::env::temp_dir().join("tenure-measure"), PathBuf::from)),
    }
}

fn measure(directory: PathBuf) {
    std::fs::create_dir_all(&directory).unwrap();
    let locks = directory.join("locks");
    let local = Local::open(&LocalOptions::at(&locks)).unwrap();
    let file = File::create(directory.join("flock")).unwrap();
    for _ in 0..3 {
        cycles("cycle, flock          ", |_| {
            file.lock().unwrap();
            file.unlock().unwrap();
        });
        cycles("cycle, tenure         ", |n| {
            let mut contender = contender(&local, u128::from(n) + 1);
            assert!(matches!(block_on(contender.attempt()), Ok(Attempt::Granted(_))));
            block_on(contender.withdraw(Stray::Impossible)).unwrap();
        });
        let mut held = contender(&local, 1);
        block_on(held.attempt()).unwrap();
        cycles("renewal, tenure       ", |_| assert!(block_on(held.renew()).is_ok()));
        block_on(held.withdraw(Stray::Impossible)).unwrap();
        for role in ["pass-flock", "pass-lock"] {
            std::fs::write(directory.join("released"), [0; 8]).unwrap();
            let spawn =
                || Command::new(std::env::current_exe().unwrap()).arg(role).arg(&directory).spawn().unwrap();
            let mut both = [spawn(), spawn()];
            assert!(both.iter_mut().all(|child| child.wait().unwrap().success()));
        }
        let (to, from) = UnixDatagram::pair().unwrap();
        let send = |_: &Thread| assert_eq!(to.send(&[0; 16]).unwrap(), 16);
        wakes("wake by datagram", || assert_eq!(from.recv(&mut [0; 16]).unwrap(), 16), send);
        wakes("wake by a thread", thread::park, Thread::unpark);
    }
}

/// How long after it was roused a thread that sleeps is awake, in a process that is idle otherwise.
fn wakes(what: &str, sleep: impl Fn() + Sync, rouse: impl Fn(&Thread)) {
    let roused = AtomicU64::new(0);
    let now = || SystemClock.now().boot_micros();
    let once = || {
        sleep();
        now() - roused.load(Ordering::SeqCst)
    };
    let delays = thread::scope(|threads| {
        let sleeper = threads.spawn(|| (0..PASSES).map(|_| once()).collect::<Vec<_>>());
        for _ in 0..PASSES {
            thread::sleep(Duration::from_millis(2));
            roused.store(now(), Ordering::SeqCst);
            rouse(sleeper.thread());
        }
        sleeper.join().unwrap()
    });
    report(what, &delays);
}

fn contender(local: &Local, id: u128) -> LocalContender {
    local.contend(Claim::new(Key::new("measure").unwrap(), ClaimId::from_bits(id)))
}

fn cycles(what: &str, mut cycle: impl FnMut(u32)) {
    cycle(0);
    let start = SystemClock.now();
    (0..CYCLES).for_each(&mut cycle);
    println!("{what} {:>8.2} us", SystemClock.now().since(start).as_secs_f64() * 1e6 / f64::from(CYCLES));
}

/// Takes the lock again and again, holds it for 2 ms of idleness while the other process waits, and notes how long
/// after the other's release it came.
fn pass(directory: &Path, tenure: bool) -> Vec<u64> {
    let released = File::options().read(true).write(true).open(directory.join("released")).unwrap();
    let local = Local::open(&LocalOptions::at(directory.join("locks"))).unwrap();
    let flock = File::open(directory.join("flock")).unwrap();
    let mut gaps = Vec::new();
    let mut noted = [0; 8];
    for _ in 0..PASSES {
        let mut contender = contender(&local, rand::random());
        if tenure {
            block_on(async {
                while !matches!(contender.attempt().await.unwrap(), Attempt::Granted(_)) {
                    contender.changed().await.unwrap();
                }
            });
        } else {
            flock.lock().unwrap();
        }
        let now = SystemClock.now().boot_micros();
        let before = noted;
        released.read_exact_at(&mut noted, 0).unwrap();
        if noted != before && noted != [0; 8] {
            gaps.push(now - u64::from_le_bytes(noted));
        }
        thread::sleep(Duration::from_millis(2));
        noted = SystemClock.now().boot_micros().to_le_bytes();
        released.write_all_at(&noted, 0).unwrap();
        if tenure {
            block_on(contender.withdraw(Stray::Impossible)).unwrap();
        } else {
            flock.unlock().unwrap();
            // An `flock` is not fair: let the other have it.
            thread::sleep(Duration::from_millis(1));
        }
    }
    gaps
}

fn report(what: &str, gaps: &[u64]) {
    let mut gaps = gaps.to_vec();
    gaps.sort_unstable();
    if let (Some(p50), Some(p99)) = (gaps.get(gaps.len() / 2), gaps.get(gaps.len() * 99 / 100)) {
        println!("{what}      p50 {p50:>6} us, p99 {p99:>6} us, of {}", gaps.len());
    }
}
