//! The signals that concern a command under a lock.
//!
//! Those that mean something to the command are forwarded to its whole process group. A signal that was ignored when
//! `tenure` started stays ignored, or `nohup tenure run …` would not survive its terminal.
//!
//! A handler sets a flag and writes to a pipe that only the main thread reads. (The signals of tokio go through one
//! pipe that all runtimes of the process read, and the end of a command would wake the keeper's thread first.)

use std::io::{self, Read};
use std::os::unix::net::UnixStream as Pipe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use signal_hook::{flag, low_level::pipe};
use tokio::net::UnixStream;

use crate::exit::Failure;

/// Signals that end a program unless it does something about them.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
/// Signals that only make sense once there is a command. The order is that in which they are heard of: a
/// continuation before what became of the command.
const REST: [Signal; 6] =
    [Signal::USR1, Signal::USR2, Signal::WINCH, Signal::TSTP, Signal::CONT, Signal::CHILD];

/// The signals that we take.
pub(crate) struct Signals {
    taken: Vec<(Signal, Arc<AtomicBool>)>,
    ears: UnixStream,
    mouth: Pipe,
    ignored: u64,
}

impl Signals {
    /// Takes the signals that end a program.
    pub(crate) fn ending() -> Result<Self, Failure> {
        let open = || -> io::Result<Self> {
            let (ears, mouth) = Pipe::pair()?;
            ears.set_nonblocking(true)?;
            let taken = Vec::with_capacity(ENDING.len() + REST.len());
            Ok(Self { taken, ears: UnixStream::from_std(ears)?, mouth, ignored: ignored() })
        };
        let mut signals = open().map_err(|error| cannot_handle(&error))?;
        signals.take(&ENDING).map_err(|error| cannot_handle(&error))?;
        Ok(signals)
    }

    /// Takes the others as well, for a command that is about to start.
    pub(crate) fn take_all(&mut self) -> Result<(), Failure> {
        self.take(&REST).map_err(|error| cannot_handle(&error))
    }

    fn take(&mut self, signals: &[Signal]) -> io::Result<()> {
        for &which in signals {
            // An ignored SIGCHLD would hide the end of the command from us.
            if which != Signal::CHILD && self.ignored & (1 << (which.as_raw() - 1)) != 0 {
                continue;
            }
            let came = Arc::new(AtomicBool::new(false));
            // In this order: whoever reads the pipe finds the flag set.
            flag::register(which.as_raw(), Arc::clone(&came))?;
            pipe::register(which.as_raw(), self.mouth.try_clone()?)?;
            self.taken.push((which, came));
        }
        Ok(())
    }

    /// The next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Signal {
        loop {
            // Empty the pipe before looking: a signal after the look writes to it again.
            let mut bytes = [0; 64];
            while matches!(self.ears.try_read(&mut bytes), Ok(1..)) {}
            for (which, came) in &self.taken {
                if came.swap(false, Ordering::AcqRel) {
                    return *which;
                }
            }
            if self.ears.readable().await.is_err() {
                // Without its driver the process is ending.
                std::future::pending::<()>().await;
            }
        }
    }
}

fn cannot_handle(error: &io::Error) -> Failure {
    Failure::internal(format!("cannot handle signals: {error}"))
}

/// Which signals were ignored when we started, as the kernel's bit set. Where it cannot be read, none.
fn ignored() -> u64 {
    let read = || -> io::Result<u64> {
        // In one read: the file is made anew for each.
        let mut bytes = [0; 4096];
        let len = std::fs::File::open("/proc/self/status")?.read(&mut bytes)?;
        let status = String::from_utf8_lossy(&bytes[..len]);
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Ok(mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0))
    };
    read().unwrap_or(0)
}
