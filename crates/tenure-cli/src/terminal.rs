//! The terminal, and job control.
//!
//! The command has a process group of its own, so the kernel would treat it as a background job: stopped as soon as
//! it reads from the terminal, and deaf to ^C. So the terminal is handed to it, and taken back when it stops or ends,
//! as a shell does. A pipeline shares one group with us, and handing the terminal over would cut its other members
//! off; so with a pipe at our output (or no terminal at our input) it is handed over only when the command asks for
//! it, by being stopped with SIGTTIN or SIGTTOU.

use std::io::IsTerminal;
use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, Signal as NixSignal};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Pid, Signal};
use rustix::termios::{OptionalActions, Termios};

/// The terminal that controls us.
pub(crate) struct Terminal {
    tty: OwnedFd,
    ours: Pid,
    /// How the terminal was set before the command had it.
    before: Option<Termios>,
}

/// What a stop of the command means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It only wanted the terminal, and has it now: let it go on.
    Resume,
    /// Nobody watches: wait for whoever stopped it.
    Stay,
    /// Stop as well, so that the shell sees it.
    Follow,
    /// The same, with all of our own group: the key reached only the command.
    FollowTogether,
}

impl Terminal {
    /// The terminal, if there is one.
    pub(crate) fn find() -> Option<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let tty = rustix::fs::open("/dev/tty", flags, Mode::empty()).ok()?;
        Some(Self { tty, ours: rustix::process::getpgrp(), before: None })
    }

    fn is_with(&self, group: Pid) -> bool {
        rustix::termios::tcgetpgrp(&self.tty).ok() == Some(group)
    }

    /// Hands the terminal to a command that has just been started.
    pub(crate) fn lend_at_start(&mut self, group: Pid) {
        if std::io::stdin().is_terminal() && !leads_a_pipeline() {
            self.lend(group);
        }
    }

    /// Hands the terminal over, if it is ours to give.
    pub(crate) fn lend(&mut self, group: Pid) -> bool {
        if !self.is_with(self.ours) {
            return false;
        }
        self.before = self.before.take().or_else(|| rustix::termios::tcgetattr(&self.tty).ok());
        self.give(group)
    }

    /// Hands the terminal over once more after a stop, if the command had it before.
    pub(crate) fn lend_again(&mut self, group: Pid) {
        if self.before.is_some() {
            self.lend(group);
        }
    }

    /// Takes the terminal back from the command; true if it had it.
    pub(crate) fn take_back(&self, group: Pid) -> bool {
        self.is_with(group) && self.give(self.ours)
    }

    /// Sets the terminal as it was before the command: for one that was killed and could not.
    pub(crate) fn restore(&self) {
        if let Some(before) = self.before.as_ref().filter(|_| self.is_with(self.ours)) {
            let _ = without_ttou(|| rustix::termios::tcsetattr(&self.tty, OptionalActions::Drain, before));
        }
    }

    fn give(&self, group: Pid) -> bool {
        without_ttou(|| rustix::termios::tcsetpgrp(&self.tty, group)).is_ok()
    }

    /// What a stop of the command by `signal` means. The terminal is with us afterwards, unless it is resumed.
    pub(crate) fn stopped(&mut self, group: Pid, signal: i32) -> Stop {
        let wants_terminal = [Signal::TTIN, Signal::TTOU].map(Signal::as_raw).contains(&signal);
        if wants_terminal && (self.is_with(group) || self.lend(group)) {
            return Stop::Resume;
        }
        let had_it = self.is_with(group);
        if !had_it && !self.is_with(self.ours) {
            return Stop::Stay;
        }
        if nobody_could_wake_us() {
            return Stop::Resume;
        }
        if had_it {
            self.take_back(group);
            return Stop::FollowTogether;
        }
        Stop::Follow
    }
}

/// Whether our output goes to another process: then our group is likely that of a pipeline.
fn leads_a_pipeline() -> bool {
    let stat = rustix::fs::fstat(rustix::stdio::stdout());
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

/// Does something with the terminal that would stop a background process otherwise.
fn without_ttou<R>(act: impl FnOnce() -> R) -> R {
    let mut ttou = SigSet::empty();
    ttou.add(NixSignal::SIGTTOU);
    let blocked = ttou.thread_block();
    let done = act();
    if blocked.is_ok() {
        let _ = ttou.thread_unblock();
    }
    done
}

/// Whether our group is orphaned: no shell outside of it could continue it, and a stop would be for ever.
fn nobody_could_wake_us() -> bool {
    use rustix::process::{getpgid, getpgrp, getpid, getsid};
    let (ours, session) = (getpgrp(), getsid(None).ok());
    let mut process = Some(getpid());
    // Up through the ancestors of our own group to the first outside of it. The limit is for loops that cannot be.
    for _ in 0..64 {
        let Some(parent) = process.and_then(parent_of) else { return true };
        match getpgid(Some(parent)) {
            Ok(group) if group == ours => process = Some(parent),
            Ok(_) => return getsid(Some(parent)).ok() != session,
            Err(_) => return true,
        }
    }
    true
}

fn parent_of(process: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_pid())).ok()?;
    let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
    Pid::from_raw(parent)
}
