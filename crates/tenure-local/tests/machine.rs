//! What only some machines let a test try. Where it cannot be tried, the test says why and does not count as passed.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_executor::block_on;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use support::{claim, granted, hold, open, release, waits};
use tenure_core::FencingToken;
use tenure_core::engine::{Contender, Effect, Engine, EngineErrorKind, Stray, TokenDurability, Withdrawn};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_local::{Local, LocalOptions, SyncMode};

fn main() -> ExitCode {
    let trials = vec![
        Trial::ignorable_test(
            "a_directory_of_another_user_is_refused",
            a_directory_of_another_user_is_refused,
        ),
        Trial::ignorable_test(
            "c049_tokens_rise_although_the_clock_is_set_back_and_the_process_is_new",
            c049_tokens_rise_although_the_clock_is_set_back_and_the_process_is_new,
        ),
        Trial::ignorable_test(
            "c100_on_a_full_disk_a_claim_is_refused_and_a_release_works",
            c100_on_a_full_disk_a_claim_is_refused_and_a_release_works,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn a_directory_of_another_user_is_refused() -> Result<Completion, Failed> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Completion::ignored_with("only root can give a directory away"));
    }
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(12_345), None).unwrap();
    let refused = Local::open(&LocalOptions::at(directory.path())).unwrap_err();
    assert_eq!(refused.kind(), EngineErrorKind::Denied);
    Ok(Completion::Completed)
}

/// Today's clocks, with a wall that can be set.
#[derive(Debug)]
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Moment {
        SystemClock.now()
    }

    fn wall_micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn c049_tokens_rise_although_the_clock_is_set_back_and_the_process_is_new() -> Result<Completion, Failed> {
    // Where programs are built is on a disk more often than where temporary files are.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = LocalOptions::at(directory.path().join("locks")).with_sync(SyncMode::Always);
    let clock = Arc::new(SetClock(AtomicU64::new(2_000_000)));
    let mut last = None;
    for wall in [2_000_000, 1_000_000, 5, 3_000_000] {
        clock.0.store(wall, Ordering::Relaxed);
        let local = match Local::open_with_clock(&options, Arc::clone(&clock) as Arc<dyn Clock>) {
            Err(error) if error.kind() == EngineErrorKind::Unsupported => {
                return Ok(Completion::ignored_with(error.to_string()));
            }
            local => local.unwrap(),
        };
        assert_eq!(local.facts().token_durability, TokenDurability::Disk);
        let (mut holder, grant) = hold(&local, "k");
        assert!(Some(grant.tokens.first) > last);
        last = Some(grant.tokens.last());
        release(&mut holder);
    }
    assert!(last >= FencingToken::new(3_000_000));
    Ok(Completion::Completed)
}

/// A tmpfs of 64 kB, unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mounted() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"])
            .arg(directory.path())
            .output();
        mount.is_ok_and(|mount| mount.status.success()).then_some(Self(directory))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn c100_on_a_full_disk_a_claim_is_refused_and_a_release_works() -> Result<Completion, Failed> {
    let Some(small) = Small::mounted() else {
        return Ok(Completion::ignored_with("a tmpfs cannot be mounted here: only root can"));
    };
    let local = open(small.0.path());
    let mut held: Vec<_> = (0..30).map(|_| local.contend(claim("long"))).collect();
    granted(&mut held[0]);
    for waiter in &mut held[1..] {
        waits(waiter);
    }
    let (mut short, _) = hold(&local, "short");
    let full = |name: &str| {
        let error = block_on(local.contend(claim(name)).attempt()).unwrap_err();
        assert_eq!((error.kind(), error.effect()), (EngineErrorKind::Full, Effect::None), "{error}");
    };
    let room = fs::File::create(small.0.path().join("room")).unwrap();
    while std::io::Write::write(&mut &room, &[1; 4096]).is_ok() {}
    full("fresh");
    assert_eq!(block_on(short.withdraw(Stray::Possible)).unwrap(), Withdrawn::Held);
    for at in 0..held.len() {
        assert_eq!(block_on(held[at].withdraw(Stray::Impossible)).unwrap(), Withdrawn::Held, "{at}");
        if let Some(next) = held.get_mut(at + 1) {
            granted(next);
        }
    }
    let (mut again, _) = hold(&local, "short");
    release(&mut again);
    drop(room);
    fs::remove_file(small.0.path().join("room")).unwrap();
    hold(&local, "fresh");
    Ok(Completion::Completed)
}
