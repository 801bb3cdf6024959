//! The signals that concern a command under a lock.
//!
//! Those that mean something to the command are forwarded to its whole process group. A signal that was ignored when
//! `tenure` started stays ignored, or `nohup tenure run …` would not survive its terminal.

use std::io;
use std::task::Poll;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::exit::Failure;

/// Signals that end a program unless it does something about them.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
/// Signals that only make sense once there is a command.
const REST: [Signal; 6] =
    [Signal::USR1, Signal::USR2, Signal::WINCH, Signal::TSTP, Signal::CONT, Signal::CHILD];

/// The signals that we take.
pub(crate) struct Signals {
    taken: Vec<(Signal, Stream)>,
    ignored: u64,
}

impl Signals {
    /// Takes the signals that end a program.
    pub(crate) fn ending() -> Result<Self, Failure> {
        let mut signals = Self { taken: Vec::with_capacity(ENDING.len() + REST.len()), ignored: ignored() };
        signals.take(&ENDING)?;
        Ok(signals)
    }

    /// Takes the others as well, for a command that is about to start.
    pub(crate) fn take_all(&mut self) -> Result<(), Failure> {
        self.take(&REST)
    }

    fn take(&mut self, signals: &[Signal]) -> Result<(), Failure> {
        for &which in signals {
            // An ignored SIGCHLD would hide the end of the command from us.
            if which != Signal::CHILD && self.ignored & (1 << (which.as_raw() - 1)) != 0 {
                continue;
            }
            let stream = signal(SignalKind::from_raw(which.as_raw()));
            let stream =
                stream.map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
            self.taken.push((which, stream));
        }
        Ok(())
    }

    /// The next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (which, stream) in &mut self.taken {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*which);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Which signals were ignored when we started, as the kernel's bit set. Where it cannot be read, none.
fn ignored() -> u64 {
    let read = || -> io::Result<u64> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Ok(mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0))
    };
    read().unwrap_or(0)
}
