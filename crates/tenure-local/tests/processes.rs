//! What real processes do to each other: crash, stop, inherit, hand over.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::path::Path;
use std::time::Duration;

use futures_executor::block_on;
use rustix::process::{Pid, Signal};
use support::*;
use tenure_core::IfBusy;
use tenure_core::engine::{Attempt, Contender, Engine, Gone, Renewal, Standing, Withdrawn};
use tenure_local::Local;

/// Not a test: the other processes of the tests below.
#[test]
fn child() {
    play();
}

fn places(local: &Local, name: &str) -> usize {
    block_on(local.inspect(&key(name))).unwrap().places.len()
}

/// A process that is not a child of ours, ended when dropped.
struct Heir(Pid);

impl Heir {
    fn of(role: &mut Role) -> Self {
        Self(Pid::from_raw(role.says().parse().unwrap()).unwrap())
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
    }
}

#[test]
fn a_killed_holder_frees_the_key_at_once_and_wakes_the_waiter() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let mut holder = Role::start("hold", directory.path(), "k");
    assert_eq!(holder.says(), "holds");
    let mut waiter = local.contend(claim("k"));
    waits(&mut waiter);
    holder.kill();
    let took = woken(&mut waiter, LIMIT).expect("the death is heard");
    assert!(took < Duration::from_millis(500), "{took:?}");
    granted(&mut waiter);
    let left = || std::fs::read_dir(directory.path().join("locks/members")).unwrap().count();
    until("only our own file and socket are left", || left() == 2);
}

#[test]
fn a_release_wakes_the_first_waiter_of_another_process() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let (mut holder, first) = hold(&local, "k");
    let mut waiter = Role::start("wait", directory.path(), "k");
    assert_eq!(waiter.says(), "waits");
    let mut last = local.contend(claim("k"));
    assert_eq!(waits(&mut last).ahead, 2);
    release(&mut holder);
    assert_eq!(waiter.says(), "holds");
    assert_eq!(waits(&mut last).ahead, 1);
    waiter.go_on();
    assert_eq!(waiter.says(), "released");
    woken(&mut last, LIMIT).expect("the release is heard");
    assert!(granted(&mut last).tokens.first > first.tokens.first);
}

#[test]
fn an_evicted_holder_of_another_process_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (local, operator) = (open(directory.path()), open(directory.path()));
    let (mut holder, grant) = hold(&local, "k");
    // It begins to listen, as a guard does that waits for its loss.
    assert!(woken(&mut holder, LIMIT).is_some());
    assert!(matches!(block_on(holder.renew()), Ok(Renewal::Renewed(_))));
    assert_eq!(block_on(operator.evict(&key("k"), grant.claim)).unwrap(), Withdrawn::Held);
    woken(&mut holder, LIMIT).expect("the eviction is heard");
    assert_eq!(block_on(holder.renew()).unwrap(), Renewal::Gone(Gone::Evicted));
    assert!(matches!(block_on(holder.attempt()), Ok(Attempt::Gone(Gone::Evicted))));
}

#[test]
fn c092_an_ordinary_child_does_not_keep_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let mut holder = Role::start("ordinary", directory.path(), "k");
    assert_eq!(holder.says(), "holds");
    let _child = Heir::of(&mut holder);
    holder.kill();
    until("the key is free", || places(&local, "k") == 0);
    hold(&local, "k");
}

#[test]
fn c092_a_bequeathed_life_lasts_as_long_as_the_heir() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let mut holder = Role::start("bequeath", directory.path(), "k");
    assert_eq!(holder.says(), "holds");
    let heir = Heir::of(&mut holder);
    let mut waiter = local.contend(claim("k"));
    waits(&mut waiter);
    holder.kill();
    assert_eq!(woken(&mut waiter, Duration::from_millis(300)), None);
    waits(&mut waiter);
    drop(heir);
    woken(&mut waiter, LIMIT).expect("the heir's death is heard");
    granted(&mut waiter);
}

#[test]
fn c098_a_stopped_holder_keeps_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let mut holder = Role::start("hold", directory.path(), "k");
    assert_eq!(holder.says(), "holds");
    holder.stop_outside_the_latch(directory.path(), "k");
    let mut waiter = local.contend(claim("k"));
    waits(&mut waiter);
    // Longer than the claim window, which is all that could end a place of the living.
    assert_eq!(woken(&mut waiter, Duration::from_millis(3_500)), None);
    waits(&mut waiter);
    holder.signal(Signal::CONT);
    holder.go_on();
    assert_eq!(holder.says(), "released");
    granted(&mut waiter);
}

#[test]
fn c104_killed_waiters_do_not_block_the_line() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let (mut holder, _) = hold(&local, "k");
    let mut waiters: Vec<_> = (0..5).map(|_| Role::start("wait", directory.path(), "k")).collect();
    assert!(waiters.iter_mut().all(|waiter| waiter.says() == "waits"));
    let mut last = local.contend(claim("k"));
    assert_eq!(waits(&mut last).ahead, 6);
    waiters.iter_mut().for_each(Role::kill);
    until("the dead have left the line", || places(&local, "k") == 2);
    release(&mut holder);
    woken(&mut last, LIMIT).expect("the release is heard");
    granted(&mut last);
}

#[test]
fn c106_a_stopped_waiter_lets_the_next_pass_after_the_claim_window() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let (mut holder, _) = hold(&local, "k");
    let mut stopped = Role::start("wait", directory.path(), "k");
    assert_eq!(stopped.says(), "waits");
    stopped.stop_outside_the_latch(directory.path(), "k");
    let mut next = local.contend(claim("k"));
    assert_eq!(waits(&mut next).ahead, 1 + 1);
    release(&mut holder);
    let waiting = waits(&mut next);
    assert!(waiting.look_in.is_some_and(|look_in| look_in <= local.facts().claim_window), "{waiting:?}");
    until("the offer has lapsed", || matches!(block_on(next.attempt()), Ok(Attempt::Granted(_))));
    // It comes back at the end of the line, and holds when its turn has come again.
    stopped.signal(Signal::CONT);
    until("the late waiter is back", || places(&local, "k") == 2);
    release(&mut next);
    assert_eq!(stopped.says(), "holds");
}

#[test]
fn c097_a_member_file_with_the_pid_of_a_living_process_keeps_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let mut holder = Role::start("hold", directory.path(), "k");
    assert_eq!(holder.says(), "holds");
    let line = block_on(local.inspect(&key("k"))).unwrap();
    assert_eq!(line.places[0].identity.as_ref().unwrap().pid, holder.pid());
    // Its file now names us, who live; the kernel knows better.
    let members = directory.path().join("locks/members");
    let file = std::fs::read_dir(&members).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    let ours = text.replace(&holder.pid().to_string(), &std::process::id().to_string());
    std::fs::write(&file, ours).unwrap();
    holder.kill();
    until("the key is free", || places(&local, "k") == 0);
}

#[test]
fn holders_of_many_processes_never_overlap_and_tokens_rise() {
    let directory = tempfile::tempdir().unwrap();
    let mut storm: Vec<_> = (0..3).map(|_| Role::start("storm", directory.path(), "k")).collect();
    assert!(storm.iter_mut().all(|role| role.says() == "done"));
    let notes = std::fs::read_to_string(directory.path().join("notes")).unwrap();
    assert_eq!(notes.lines().count(), 3 * STORM);
}

#[test]
fn c099_processes_killed_in_the_middle_of_verbs_leave_a_sound_file() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let mut last = 0;
    for round in 0..20 {
        let mut cycles = [(); 2].map(|()| Role::start("cycle", directory.path(), "k"));
        assert!(cycles.iter_mut().all(|role| role.says() == "begins"));
        for role in &mut cycles {
            // Long enough for some hundred verbs, and never the same moment in one.
            std::thread::park_timeout(Duration::from_micros(3_000 + 137 * round));
            role.kill();
        }
        let mut contender = local.contend(claim("k"));
        let token = wait_and_hold(&mut contender).tokens.first.get();
        assert!(token > last);
        last = token;
        release(&mut contender);
    }
}

#[test]
fn a_process_that_is_stopped_with_the_latch_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let local = open(directory.path());
    let (mut holder, _) = hold(&local, "k");
    let file = std::fs::File::open(directory.path().join("locks/keys/k")).unwrap();
    file.lock().unwrap();
    let error = block_on(holder.renew()).unwrap_err();
    assert_eq!(error.kind(), tenure_core::engine::EngineErrorKind::Unreachable);
    assert_eq!(error.effect(), tenure_core::engine::Effect::None);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    let line = block_on(local.inspect(&key("k"))).unwrap();
    assert!(matches!(line.places[0].standing, Standing::Holds { .. }), "looking needs no latch");
    file.unlock().unwrap();
    assert!(matches!(block_on(holder.renew()), Ok(Renewal::Renewed(_))));
}

#[test]
fn a_claim_that_does_not_wait_leaves_nothing_and_starts_no_thread() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (open(directory.path()), open(directory.path()));
    let _held = hold(&one, "k");
    let mut busy = two.contend(with(claim("k"), tenure_core::Mode::Exclusive, IfBusy::Leave));
    assert!(matches!(block_on(busy.attempt()), Ok(Attempt::Busy(waiting)) if waiting.ahead == 1));
    assert_eq!(places(&one, "k"), 1);
    let sockets = |path: &Path| {
        let names = std::fs::read_dir(path.join("locks/members")).unwrap();
        names.filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().ends_with(".sock")).count()
    };
    assert_eq!(sockets(directory.path()), 0);
}
