//! Who is alive: one locked file per instance of the engine.
//!
//! A pid says little: it is used again, and means something else in a container. A lock on a file says it all: the
//! kernel gives it up when the last process that has the descriptor ends, however it ends, and not before. So a place
//! belongs to a *member*, and a member lives exactly as long as its file is locked; a process that is merely stopped
//! or starved keeps what it holds.
//!
//! # Invariants
//! 1. A member's file is locked before it gets its name, so nobody ever sees a living member unlocked.
//! 2. Ids are random and never used again: a member that is dead stays dead, and one without a file is dead.
//! 3. Others only ask for a shared lock for a moment, so that two who ask do not take each other for the member.
//! 4. In doubt a member lives: nobody is robbed because a file could not be opened.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tenure_core::Identity;
use tenure_core::engine::{Effect, EngineError};

use crate::directory::{self, Directory};
use crate::member_id::MemberId;
use crate::patience::pause;
use crate::trouble;

/// How many files of others stay open.
const OPEN_MAX: usize = 64;
/// How many files one sweep looks at.
const SWEEP_MAX: usize = 4_096;
/// How long one look at our own name is believed.
const ASK_EVERY_MICROS: u64 = 100_000;
/// What a member's file is called before it counts.
const NEW: &str = ".new-";

/// What a member's file says, for people; no decision is made on it.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    host: String,
    pid: u32,
    start_ticks: u64,
    boot_id: String,
    command: String,
}

/// This instance, while it is alive.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: MemberId,
    file: OwnedFd,
    /// When it was last seen to have its name.
    asked_micros: AtomicU64,
}

impl Member {
    /// Comes to life, in the name of `identity`.
    pub(crate) fn new(directory: &Directory, identity: &Identity) -> Result<Self, EngineError> {
        let failed = |error| trouble::system("join", &directory.path.join("members"), Effect::None, error);
        let card = Card {
            host: identity.host.clone(),
            pid: identity.pid,
            start_ticks: start_ticks(),
            boot_id: format!("{:032x}", directory.boot),
            command: identity.command.clone(),
        };
        let card = serde_json::to_vec(&card).unwrap_or_default();
        let mut last = Errno::AGAIN;
        for _ in 0..8 {
            let id = MemberId::from_bits(rand::random());
            let new = format!("{NEW}{}", id.file());
            let flags = OFlags::RDWR | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = directory.create_file(directory.members.as_fd(), &new, flags);
            let file = file.map_err(failed)?;
            let made = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
                .and_then(|()| rustix::io::pwrite(&file, &card, 0))
                .and_then(|_| rustix::fs::renameat(&directory.members, &new, &directory.members, id.file()));
            match made {
                Ok(()) => return Ok(Self { id, file, asked_micros: AtomicU64::new(0) }),
                // Somebody who sweeps took the new file for one left behind.
                Err(error @ (Errno::WOULDBLOCK | Errno::NOENT)) => last = error,
                Err(error) => {
                    directory::unlink(&directory.members, &new);
                    return Err(failed(error));
                }
            }
        }
        Err(failed(last))
    }

    /// Whether the others could see not long ago that we live. Asking the kernel each time would cost a claim more
    /// than reading its line does; renewals always ask.
    pub(crate) fn was_linked(&self, now_micros: u64) -> bool {
        let asked = self.asked_micros.load(Ordering::Relaxed);
        if now_micros.abs_diff(asked) < ASK_EVERY_MICROS {
            return true;
        }
        let linked = self.is_linked();
        if linked {
            self.asked_micros.store(now_micros, Ordering::Relaxed);
        }
        linked
    }

    /// Whether the others can still see that we live: somebody may have deleted the file.
    pub(crate) fn is_linked(&self) -> bool {
        let mask = rustix::fs::StatxFlags::NLINK;
        rustix::fs::statx(&self.file, c"", rustix::fs::AtFlags::EMPTY_PATH, mask)
            .is_ok_and(|stat| stat.stx_nlink > 0)
    }

    /// The life of this member as a descriptor that children inherit.
    pub(crate) fn share(&self) -> Result<OwnedFd, Errno> {
        rustix::io::dup(&self.file)
    }

    /// Dies for everybody, also when a child that was forked without our knowledge still has the descriptor.
    pub(crate) fn die(&self) {
        // It cannot fail on a descriptor that is open and locked.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// When this process began, in clock ticks since the boot; zero when the system does not tell.
fn start_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command in parentheses may have spaces; the 20th word after it is the start.
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    after.split(' ').nth(19).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

/// The other members, as far as we have met them.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) directory: Arc<Directory>,
    open: Mutex<HashMap<MemberId, Arc<OwnedFd>>>,
}

impl Members {
    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Self { directory, open: Mutex::default() }
    }

    /// Whether the member lives. The files of a dead one are removed.
    pub(crate) fn is_alive(&self, id: MemberId) -> bool {
        let known = self.open().get(&id).map(Arc::clone);
        let file = match known {
            Some(file) => file,
            None => match self.open_file(&id.file()) {
                Ok(file) => Arc::new(file),
                Err(error) => return error != Errno::NOENT,
            },
        };
        let is_alive = is_locked(&file);
        let mut open = self.open();
        if !is_alive {
            open.remove(&id);
            drop(open);
            self.forget(id);
        } else if open.len() < OPEN_MAX || open.contains_key(&id) {
            open.insert(id, file);
        } else {
            // Any one will do: it is only dearer to ask about.
            let other = open.keys().next().copied();
            other.map(|other| open.remove(&other));
            open.insert(id, file);
        }
        is_alive
    }

    /// Waits a little for a member that has closed its file: the kernel tells of that just before it unlocks it.
    pub(crate) fn wait_until_dead(&self, id: MemberId) {
        for _ in 0..50 {
            if !self.is_alive(id) {
                return;
            }
            pause(Duration::from_millis(1));
        }
    }

    /// Who a member is, if its file can be read.
    pub(crate) fn identity(&self, id: MemberId) -> Option<Arc<Identity>> {
        let file = self.open_file(&id.file()).ok()?;
        let mut text = [0; 4096];
        let got = rustix::io::pread(&file, &mut text, 0).ok()?;
        let Card { host, pid, command, .. } = serde_json::from_slice(&text[..got]).ok()?;
        Some(Arc::new(Identity { host, pid, command }))
    }

    /// Removes what dead members have left.
    pub(crate) fn sweep(&self) {
        let Ok(entries) = Dir::read_from(&self.directory.members) else { return };
        for entry in entries.take(SWEEP_MAX).flatten() {
            let name = entry.file_name();
            if let Some(id) = MemberId::of_name(name) {
                let dead = match self.open_file(&id.file()) {
                    Ok(file) => !is_locked(&file),
                    Err(error) => error == Errno::NOENT,
                };
                if dead {
                    self.forget(id);
                }
            } else if let Some(new) = name.to_str().ok().filter(|name| name.starts_with(NEW))
                && self.open_file(new).is_ok_and(|file| !is_locked(&file))
            {
                directory::unlink(&self.directory.members, new);
            }
        }
    }

    /// Removes the files of a member that is dead, or about to be.
    pub(crate) fn forget(&self, id: MemberId) {
        directory::unlink(&self.directory.members, &id.socket());
        directory::unlink(&self.directory.members, &id.file());
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<MemberId, Arc<OwnedFd>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opened for reading only: closing it again is not what those who watch the directory wait for.
    fn open_file(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(&self.directory.members, name, flags, Mode::empty())
    }
}

/// Whether somebody has the file locked for himself alone.
fn is_locked(file: &OwnedFd) -> bool {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            let _ = rustix::fs::flock(file, FlockOperation::Unlock);
            false
        }
        Err(_) => true,
    }
}
