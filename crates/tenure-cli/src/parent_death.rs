//! The command dies with us: the one place that needs `unsafe`.
//!
//! A wrapper that is killed by SIGKILL can do nothing for its command any more; the kernel can.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// Makes the kernel kill the command by SIGKILL when the thread that spawns it ends.
///
/// It does not reach the command's own children, and is forgotten when a set-user-id program is executed.
pub(crate) fn dies_with_us(command: &mut Command) {
    let we = getpid();
    let before_exec = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // We may have died before the line above took effect.
        if getppid() == Some(we) { Ok(()) } else { Err(io::Error::from(io::ErrorKind::BrokenPipe)) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed, because other threads may have held
    // locks at the fork. The closure makes two plain system calls, and allocates nothing: both errors are built
    // from a number.
    unsafe {
        command.pre_exec(before_exec);
    }
}
