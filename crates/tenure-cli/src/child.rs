//! The command: a process group of its own.
//!
//! # Invariants
//! 1. The leader is not reaped before its group got its last signal, so that the group's number is still its own.
//! 2. However we leave, a group that was not seen to end is killed first.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};

use crate::exit::{Code, Failure};
use crate::parent_death;

/// A running command.
pub(crate) struct Child {
    group: Pid,
    ended: bool,
    stopped: bool,
}

/// What happened to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A signal stopped it.
    Stopped(i32),
    /// It goes on after a stop.
    Continued,
    /// It ended.
    Ended(End),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a code.
    Exited(u8),
    /// By a signal.
    Killed(i32),
}

impl End {
    pub(crate) fn code(self) -> Code {
        match self {
            Self::Exited(code) => Code::of(code),
            Self::Killed(signal) => Code::of_signal(signal),
        }
    }
}

/// A variable of the command's environment: set, or taken away.
pub(crate) type Variable = (&'static str, Option<String>);

impl Child {
    /// Starts a command. Must be called on the main thread: the command dies with the thread that started it.
    pub(crate) fn spawn(program: &[OsString], environment: &[Variable]) -> Result<Self, Failure> {
        let (name, arguments) =
            program.split_first().ok_or_else(|| Failure::usage("no command was given"))?;
        let mut command = Command::new(name);
        command.args(arguments).process_group(0);
        for (variable, value) in environment {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        parent_death::dies_with_us(&mut command);
        let child = command.spawn().map_err(|error| cannot_start(name, &error))?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let group = group.ok_or_else(|| Failure::internal("the command has no process id"))?;
        Ok(Self { group, ended: false, stopped: false })
    }

    /// The process id of the leader, which is the number of the group.
    pub(crate) fn group(&self) -> Pid {
        self.group
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Sends a signal to the whole group. A group that is gone needs none.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process_group(self.group, signal);
    }

    /// The next thing that happened to the leader, if anything did. It is not reaped when it ended.
    pub(crate) fn turn(&mut self) -> Option<Turn> {
        if self.ended {
            return None;
        }
        let leader = WaitId::Pid(self.group);
        let stops = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
        if let Ok(Some(status)) = rustix::process::waitid(leader, stops) {
            if let Some(signal) = status.stopping_signal() {
                self.stopped = true;
                return Some(Turn::Stopped(signal));
            }
            if status.continued() {
                self.stopped = false;
                return Some(Turn::Continued);
            }
        }
        let leader = WaitId::Pid(self.group);
        let ends = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(leader, ends).ok().flatten()?;
        let code = status.exit_status().and_then(|code| u8::try_from(code & 0xff).ok());
        Some(Turn::Ended(match (code, status.terminating_signal()) {
            (Some(code), _) => End::Exited(code),
            (None, signal) => End::Killed(signal.unwrap_or(Signal::KILL.as_raw())),
        }))
    }

    /// Lets go of a leader that ended by itself; what it left in the background is its own.
    pub(crate) fn reap(&mut self) {
        let _ = rustix::process::waitpid(Some(self.group), WaitOptions::NOHANG);
        self.ended = true;
    }

    /// Kills what is left of the group after its leader ended, and waits until it is gone, but not for long: a
    /// process that sits in the kernel ends when it comes out.
    pub(crate) async fn end_group(&mut self) {
        self.signal(Signal::KILL);
        self.reap();
        for _ in 0..100 {
            if self.group_is_gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Whether only the leader is left of the group, if anything.
    pub(crate) fn is_alone(&self) -> bool {
        // There is no system call for it; a process that cannot be read has ended.
        let Ok(processes) = std::fs::read_dir("/proc") else { return false };
        let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        !pids.filter(|pid| *pid != self.group.as_raw_pid()).any(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            let state = fields.next().unwrap_or("Z");
            let group = fields.nth(1).and_then(|group| group.parse().ok());
            group == Some(self.group.as_raw_pid()) && !matches!(state, "Z" | "X")
        })
    }

    fn group_is_gone(&self) -> bool {
        rustix::process::test_kill_process_group(self.group).is_err()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::KILL);
        }
    }
}

/// The command that `-c` means: one line for a shell.
pub(crate) fn shell(line: &OsStr) -> Vec<OsString> {
    let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    vec![shell.unwrap_or_else(|| "/bin/sh".into()), "-c".into(), line.to_owned()]
}

fn cannot_start(name: &OsStr, error: &io::Error) -> Failure {
    let name = name.to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Code::NOT_FOUND,
            format!("{name:?} was not found: check the command and PATH; the lock was given back"),
        ),
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => Failure::internal(format!(
            "cannot start {name:?}: {error}: raise the limit of processes or memory; the lock was given back"
        )),
        _ => Failure::new(
            Code::NOT_EXECUTABLE,
            format!("{name:?} cannot be executed: {error}; the lock was given back"),
        ),
    }
}
