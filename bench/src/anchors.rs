//! What the figures are measured against: the limits that no lock between processes can pass.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::locks::Lock;

/// `flock(2)` on a descriptor that stays open.
#[derive(Debug)]
pub(crate) struct Flock(OwnedFd);

impl Flock {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Blocks until it is ours.
    pub(crate) fn take(&self) -> Result<()> {
        Ok(rustix::fs::flock(&self.0, FlockOperation::LockExclusive)?)
    }

    pub(crate) fn give(&self) -> Result<()> {
        Ok(rustix::fs::flock(&self.0, FlockOperation::Unlock)?)
    }
}

impl Lock for Arc<Flock> {
    type Guard = Self;

    async fn lock(&self) -> Result<Self> {
        self.take()?;
        Ok(Arc::clone(self))
    }

    async fn unlock(guard: Self) -> Result<()> {
        guard.give()
    }
}

/// `flock(2)` with the file opened and closed in every cycle.
#[derive(Clone, Debug)]
pub(crate) struct FlockOpened(pub(crate) PathBuf);

impl Lock for FlockOpened {
    type Guard = Flock;

    async fn lock(&self) -> Result<Flock> {
        let flock = Flock::open(&self.0)?;
        flock.take()?;
        Ok(flock)
    }

    async fn unlock(guard: Flock) -> Result<()> {
        guard.give()
    }
}

/// A mutex of the runtime: what a lock inside one process costs.
pub(crate) type TokioMutex = Arc<tokio::sync::Mutex<()>>;

impl Lock for TokioMutex {
    type Guard = OwnedMutexGuard<()>;

    async fn lock(&self) -> Result<Self::Guard> {
        Ok(Arc::clone(self).lock_owned().await)
    }

    async fn unlock(guard: Self::Guard) -> Result<()> {
        drop(guard);
        Ok(())
    }
}

/// How often a cohort passes its permit before others would have a turn.
const PASSES_MAX: u32 = 64;

/// Nothing to take at all: what remains of a cohort then is the handover.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nothing;

impl Lock for Nothing {
    type Guard = ();

    async fn lock(&self) -> Result<()> {
        Ok(())
    }

    async fn unlock((): ()) -> Result<()> {
        Ok(())
    }
}

/// The least that a handover inside a process can be: a queue of tasks that pass what one of them has taken, a bounded
/// number of times. No fencing, no renewal, and nobody may stop waiting.
pub(crate) struct Cohort<L: Lock>(Arc<Members<L>>);

struct Members<L: Lock> {
    lock: L,
    queue: Mutex<Queue<L::Guard>>,
}

struct Queue<G> {
    taken: bool,
    waiting: VecDeque<oneshot::Sender<Turn<G>>>,
}

/// What the next one gets: what was taken, with how often it was passed, or the right to take it anew.
type Turn<G> = Option<(G, u32)>;

/// Has what was taken.
pub(crate) struct Permit<L: Lock> {
    cohort: Cohort<L>,
    guard: L::Guard,
    passes: u32,
}

impl<L: Lock> Cohort<L> {
    pub(crate) fn of(lock: L) -> Self {
        let queue = Mutex::new(Queue { taken: false, waiting: VecDeque::new() });
        Self(Arc::new(Members { lock, queue }))
    }

    /// Gives the next one its turn; gives it back when nobody waits.
    fn next(&self, mut turn: Turn<L::Guard>) -> Option<Turn<L::Guard>> {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(next) = queue.waiting.pop_front() {
            match next.send(turn) {
                Ok(()) => return None,
                Err(unheard) => turn = unheard,
            }
        }
        // With what was taken in hand, it is free only when that has been given back.
        queue.taken = turn.is_some();
        Some(turn)
    }
}

impl<L: Lock> Clone for Cohort<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: Lock + Sync> Lock for Cohort<L>
where
    L::Guard: 'static,
{
    type Guard = Permit<L>;

    async fn lock(&self) -> Result<Permit<L>> {
        let turn = {
            let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::replace(&mut queue.taken, true) {
                let (sender, turn) = oneshot::channel();
                queue.waiting.push_back(sender);
                Some(turn)
            } else {
                None
            }
        };
        let passed = match turn {
            Some(turn) => turn.await?,
            None => None,
        };
        let (guard, passes) = match passed {
            Some(passed) => passed,
            None => (self.0.lock.lock().await?, 0),
        };
        Ok(Permit { cohort: self.clone(), guard, passes })
    }

    async fn unlock(permit: Permit<L>) -> Result<()> {
        let Permit { cohort, guard, passes } = permit;
        let mut kept = Some((guard, passes + 1));
        if passes < PASSES_MAX {
            match cohort.next(kept) {
                None => return Ok(()),
                Some(unheard) => kept = unheard,
            }
        }
        if let Some((guard, _)) = kept {
            L::unlock(guard).await?;
        }
        cohort.next(None);
        Ok(())
    }
}
