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

/// The least that a handover inside a process can be: a queue of tasks that pass a permit, without any engine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cohort(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    taken: bool,
    waiting: VecDeque<oneshot::Sender<u32>>,
}

/// The permit, with how often it has been passed.
#[derive(Debug)]
pub(crate) struct Permit(Cohort, u32);

impl Lock for Cohort {
    type Guard = Permit;

    async fn lock(&self) -> Result<Permit> {
        let turn = {
            let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !std::mem::replace(&mut queue.taken, true) {
                return Ok(Permit(self.clone(), 0));
            }
            let (sender, turn) = oneshot::channel();
            queue.waiting.push_back(sender);
            turn
        };
        Ok(Permit(self.clone(), turn.await?))
    }

    async fn unlock(Permit(cohort, passes): Permit) -> Result<()> {
        // Without an engine, the turn of the others takes no time.
        let mut passes = if passes < PASSES_MAX { passes + 1 } else { 0 };
        let mut queue = cohort.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(next) = queue.waiting.pop_front() {
            match next.send(passes) {
                Ok(()) => return Ok(()),
                Err(unheard) => passes = unheard,
            }
        }
        queue.taken = false;
        Ok(())
    }
}
