//! Watches that no two workers hold at once: a bench of a lock that does not exclude measures nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, ensure};

/// Two workers held at once, which no bench survives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TwoHeld;

impl std::fmt::Display for TwoHeld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("two workers held at once")
    }
}

impl std::error::Error for TwoHeld {}

/// The referee of workers in one process.
#[derive(Debug, Default)]
pub(crate) struct Referee {
    held: AtomicBool,
    /// How many holds have ended.
    releases: AtomicU64,
    /// Who held last, and when it let go; zero when nobody looked at the clock.
    last: AtomicU64,
    released_at: AtomicU64,
}

impl Referee {
    /// A worker has the lock.
    pub(crate) fn enter(&self) -> Result<()> {
        ensure!(!self.held.swap(true, Ordering::AcqRel), TwoHeld);
        Ok(())
    }

    /// A worker is about to give the lock back.
    pub(crate) fn leave(&self) -> Result<()> {
        ensure!(self.held.swap(false, Ordering::AcqRel), "somebody else has left the lock of this worker");
        Ok(())
    }

    /// How many holds have ended so far: whoever sees more of them when it has the lock has waited.
    pub(crate) fn releases(&self) -> u64 {
        self.releases.load(Ordering::Acquire)
    }

    /// Notes who lets go. Only the holder may.
    pub(crate) fn let_go(&self, worker: u64, at: u64) {
        self.last.store(worker, Ordering::Release);
        self.released_at.store(at, Ordering::Release);
        self.releases.fetch_add(1, Ordering::AcqRel);
    }

    /// Who let go last, and when. Only the holder may ask.
    pub(crate) fn before(&self) -> (u64, u64) {
        (self.last.load(Ordering::Acquire), self.released_at.load(Ordering::Acquire))
    }
}

/// One hold of one worker, in nanoseconds of the clock that all processes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) worker: u64,
    /// When it asked.
    pub(crate) asked: u64,
    /// When it had the lock.
    pub(crate) had: u64,
    /// When it called the release.
    pub(crate) released: u64,
}

impl Held {
    /// Instead of the time of its release: it was lost before.
    const LOST: u64 = u64::MAX;

    /// A hold that had ended by itself when its worker wanted to release it.
    pub(crate) fn lost(worker: u64, asked: u64, had: u64) -> Self {
        Self { worker, asked, had, released: Self::LOST }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.released == Self::LOST
    }
}

/// Checks the holds of all processes, which it brings into the order of time.
pub(crate) fn judge(holds: &mut [Held]) -> Result<()> {
    holds.sort_unstable_by_key(|held| held.had);
    for pair in holds.windows(2) {
        let [before, after] = pair else { continue };
        if before.released > after.had {
            eprintln!("held at once: {before:?} and {after:?}");
            return Err(TwoHeld.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_at_once_are_seen_in_a_process() {
        let referee = Referee::default();
        referee.enter().unwrap();
        assert!(referee.enter().is_err());
        referee.leave().unwrap();
        assert!(referee.leave().is_err());
    }

    #[test]
    fn two_at_once_are_seen_between_processes() {
        let held = |worker, had, released| Held { worker, asked: 0, had, released };
        assert!(judge(&mut [held(2, 20, 30), held(1, 10, 20)]).is_ok());
        assert!(judge(&mut [held(2, 19, 30), held(1, 10, 20)]).is_err());
        assert!(judge(&mut [held(1, 10, 40), held(2, 20, 30)]).is_err());
    }
}
