//! One key's file: a latch for microseconds, and the state under it.
//!
//! The latch (`flock` on the file) only serialises the verbs of different processes; who *holds the key* is written
//! in the file. So a process that dies with the latch loses it at once, and what it was writing does not count.
//! Threads of this process queue at a mutex in front of the latch, so that they do not spin against each other.
//!
//! # Invariants
//! 1. The file is never unlinked by us. If somebody else does, whoever has the latch of the old file notices (its
//!    link count is zero) and opens the new one.
//! 2. Nobody waits for the latch without a limit: a process that was stopped with it is named in the error.
//! 3. Looking without the latch is safe: the checksums tell a half-written state.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, OFlags, StatxFlags};
use rustix::io::Errno;
use tenure_core::Key;
use tenure_core::engine::ledger::Ledger;
use tenure_core::engine::{Effect, EngineError, EngineErrorKind, Retry};
use tenure_core::lease::Clock;

use crate::directory::Directory;
use crate::member_id::MemberId;
use crate::names;
use crate::options::SyncMode;
use crate::patience::pause;
use crate::record::{self, PAGE, Stored, Unreadable};
use crate::trouble;

/// How many files stay open.
const OPEN_MAX: usize = 256;
/// How many times a file may vanish under our hands before we give up.
const REOPENS_MAX: usize = 8;
/// How many times a state may change while we look without the latch.
const PEEKS_MAX: usize = 64;

/// The files of the keys that this process uses.
#[derive(Debug)]
pub(crate) struct KeyFiles {
    directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    files: HashMap<Key, (u64, Arc<KeyFile>)>,
    uses: u64,
}

/// Whether a verb makes the file of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Create,
    Leave,
}

/// What a file says without the latch.
#[derive(Debug)]
pub(crate) struct Peeked {
    /// None after a recovery.
    pub(crate) key: Option<Key>,
    pub(crate) ledger: Ledger<MemberId>,
}

#[derive(Debug)]
struct KeyFile {
    name: String,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    file: Option<OwnedFd>,
    body: Vec<u8>,
    /// Whether our last write may not have reached the disk: the next verb writes again, even if it changes nothing.
    doubtful: bool,
}

/// The latch, given back when dropped.
struct Latch<'a>(BorrowedFd<'a>);

impl Drop for Latch<'_> {
    fn drop(&mut self) {
        // It cannot fail on a descriptor that is open and locked.
        let _ = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}

impl KeyFiles {
    pub(crate) fn new(directory: Arc<Directory>, clock: Arc<dyn Clock>) -> Self {
        Self { directory, clock, open: Mutex::default() }
    }

    /// Lets `verb` change the line of a key, alone among all processes; none when there is no file and none is made.
    ///
    /// When `verb` fails nothing is written.
    pub(crate) fn act<R>(
        &self,
        key: &Key,
        missing: Missing,
        verb: impl FnOnce(&mut Ledger<MemberId>) -> Result<R, EngineError>,
    ) -> Result<Option<R>, EngineError> {
        let file = self.file(key);
        let mut inner = file.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { file: open, body, doubtful } = &mut *inner;
        for _ in 0..REOPENS_MAX {
            if open.is_none() {
                *open = self.open(&file.name, missing)?;
            }
            let Some(fd) = open.as_ref() else { return Ok(None) };
            let latch = self.latch(fd.as_fd(), &file.name)?;
            let Some(size) = self.size_if_linked(fd.as_fd(), &file.name)? else {
                drop(latch);
                *open = None;
                continue;
            };
            let must_write = std::mem::take(doubtful);
            let changed = self.change(latch.0, size, key, &file.name, body, must_write, verb);
            *doubtful =
                changed.as_ref().err().is_some_and(|error| must_write || error.effect() == Effect::Unknown);
            return changed.map(Some);
        }
        Err(self.unreachable(&file.name, "vanishes whenever it is opened: who deletes it?"))
    }

    /// The line of a key as it is now, none when it never had one. Takes no latch and changes nothing.
    pub(crate) fn peek(&self, key: &Key) -> Result<Option<Ledger<MemberId>>, EngineError> {
        let name = names::file_name(key);
        match self.peek_named(&name)? {
            Some(Peeked { key: Some(other), .. }) if other != *key => Err(self.clash(&name, &other)),
            Some(Peeked { ledger, .. }) => Ok(Some(ledger)),
            None => Ok(None),
        }
    }

    /// The key and the line of a file, none when it has no line yet.
    pub(crate) fn peek_named(&self, name: &str) -> Result<Option<Peeked>, EngineError> {
        let path = self.path(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match rustix::fs::openat(&self.directory.keys, name, flags, rustix::fs::Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(trouble::system("look at", &path, Effect::None, error)),
        };
        for peek in 1.. {
            let mut page = [0; PAGE];
            let found = match read_page(fd.as_fd(), &mut page) {
                Ok([]) => return Ok(None),
                Ok(page) => self.read(fd.as_fd(), page),
                Err(error) => Err(Unreadable::System(error)),
            };
            match found {
                Ok(stored) => return Ok(Some(Peeked { key: stored.key, ledger: stored.ledger })),
                // Somebody may be writing: his next state is whole.
                Err(Unreadable::Damaged) if peek < PEEKS_MAX => pause(Duration::from_micros(20)),
                Err(error) => return Err(unreadable(&path, error)),
            }
        }
        unreachable!("the loop ends by return: it has no other limit than PEEKS_MAX")
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one verb, of which none is used elsewhere")]
    fn change<R>(
        &self,
        fd: BorrowedFd<'_>,
        size: u64,
        key: &Key,
        name: &str,
        body: &mut Vec<u8>,
        must_write: bool,
        verb: impl FnOnce(&mut Ledger<MemberId>) -> Result<R, EngineError>,
    ) -> Result<R, EngineError> {
        let mut page = [0; PAGE];
        let mut stored = None;
        if size > 0 {
            let path = || self.path(name);
            let page =
                read_page(fd, &mut page).map_err(|e| trouble::system("read", &path(), Effect::None, e))?;
            stored = Some(self.read(fd, page).map_err(|error| unreadable(&path(), error))?);
        }
        let mut ledger = match &mut stored {
            None => Ledger::default(),
            Some(Stored { key: Some(other), .. }) if other != key => return Err(self.clash(name, other)),
            Some(stored) => std::mem::take(&mut stored.ledger),
        };
        let answer = verb(&mut ledger)?;
        record::encode_body(key, &ledger, body);
        let unchanged = match &stored {
            Some(stored) => stored.is(body, ledger.last_token),
            None => ledger == Ledger::default(),
        };
        if !unchanged || must_write {
            self.store(fd, size, stored.as_ref(), body, ledger.last_token, name)?;
        }
        Ok(answer)
    }

    /// Writes a state: first the room, then a long body, then the slot that makes it count.
    fn store(
        &self,
        fd: BorrowedFd<'_>,
        size: u64,
        before: Option<&Stored<'_>>,
        body: &[u8],
        last_token: u64,
        name: &str,
    ) -> Result<(), EngineError> {
        let failed = |effect, error| trouble::system("write", &self.path(name), effect, error);
        let Some(write) = record::write(before, body, last_token, self.directory.boot) else {
            let message =
                format!("{} cannot take another place: the line is too long", self.path(name).display());
            return Err(EngineError::new(EngineErrorKind::Full, Effect::None, Retry::Worth, message));
        };
        if write.room > size {
            match rustix::fs::fallocate(fd, FallocateFlags::empty(), size, write.room - size) {
                // Where room cannot be reserved, a release may need some.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(error) => return Err(failed(Effect::None, error)),
            }
        }
        if let Some(at) = write.body_at {
            write_all(fd, body, at).map_err(|error| failed(Effect::None, error))?;
        }
        write_all(fd, &write.bytes, write.at).map_err(|error| {
            // Without room nothing was written; of any other trouble nobody knows.
            let full = matches!(error, Errno::NOSPC | Errno::DQUOT);
            failed(if full { Effect::None } else { Effect::Unknown }, error)
        })?;
        if self.directory.sync == SyncMode::Always {
            rustix::fs::fdatasync(fd).map_err(|error| failed(Effect::Unknown, error))?;
            if size == 0 {
                let keys = &self.directory.keys;
                rustix::fs::fsync(keys).map_err(|error| failed(Effect::Unknown, error))?;
            }
        }
        if write.body_at.is_none() && size > PAGE as u64 && body.len() <= record::INLINE_MAX / 2 {
            // The room of a long line is given back; it does not matter if that fails.
            let _ = rustix::fs::ftruncate(fd, PAGE as u64);
        }
        Ok(())
    }

    fn read<'a>(&self, fd: BorrowedFd<'_>, page: &'a [u8]) -> Result<Stored<'a>, Unreadable> {
        record::read(page, self.directory.boot, &mut |at, len| {
            let mut body = vec![0; len as usize];
            let got = read_all(fd, &mut body, u64::from(at))?;
            body.truncate(got);
            Ok(body)
        })
    }

    /// The file of a key, open or not.
    fn file(&self, key: &Key) -> Arc<KeyFile> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.uses += 1;
        let uses = open.uses;
        if let Some((used, file)) = open.files.get_mut(key) {
            *used = uses;
            return Arc::clone(file);
        }
        if open.files.len() >= OPEN_MAX {
            // Whoever still uses it keeps it open until he is done; the latch is then between him and us as well.
            let oldest = open.files.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone());
            oldest.map(|oldest| open.files.remove(&oldest));
        }
        let file = Arc::new(KeyFile { name: names::file_name(key), inner: Mutex::default() });
        open.files.insert(key.clone(), (uses, Arc::clone(&file)));
        file
    }

    fn open(&self, name: &str, missing: Missing) -> Result<Option<OwnedFd>, EngineError> {
        let keys = self.directory.keys.as_fd();
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(keys, name, flags, rustix::fs::Mode::empty()) {
            Err(Errno::NOENT) if missing == Missing::Leave => return Ok(None),
            Err(Errno::NOENT) => self.directory.create_file(keys, name, flags),
            opened => opened,
        }
        .map(Some)
        .map_err(|error| trouble::system("open", &self.path(name), Effect::None, error))
    }

    /// Takes the latch, within a limit.
    fn latch<'a>(&self, fd: BorrowedFd<'a>, name: &str) -> Result<Latch<'a>, EngineError> {
        match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Latch(fd)),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(trouble::system("lock", &self.path(name), Effect::None, error)),
        }
        let start = self.clock.now();
        for attempt in 0u32.. {
            match attempt {
                // The latch is held for microseconds: on another core it is free at once, on ours after a yield.
                0..20 => std::thread::yield_now(),
                _ => pause(Duration::from_micros(50 << (attempt / 20).min(6))),
            }
            match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Latch(fd)),
                Err(Errno::WOULDBLOCK) if self.clock.now().since(start) < self.patience() => {}
                Err(Errno::WOULDBLOCK) => break,
                Err(error) => return Err(trouble::system("lock", &self.path(name), Effect::None, error)),
            }
        }
        let holder = self
            .latch_holder(fd)
            .map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
        let what = format!(
            "has been latched for {:?} by {holder}, which takes microseconds unless it is stopped: continue or end it",
            self.patience()
        );
        Err(self.unreachable(name, &what))
    }

    /// How long the latch may be held; a slow disk is waited for under it.
    fn patience(&self) -> Duration {
        match self.directory.sync {
            SyncMode::Clock => Duration::from_secs(2),
            SyncMode::Always => Duration::from_secs(10),
        }
    }

    /// Who has the latch, as far as the kernel tells.
    fn latch_holder(&self, fd: BorrowedFd<'_>) -> Option<u32> {
        let inode = rustix::fs::fstat(fd).ok()?.st_ino;
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        // 1: FLOCK  ADVISORY  WRITE 4242 fd:00:12345 0 EOF
        locks.lines().find_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [_, "FLOCK", _, "WRITE", pid, place, ..] = words[..] else { return None };
            (place.rsplit(':').next()? == inode.to_string()).then(|| pid.parse().ok())?
        })
    }

    /// How long the file is, none when it has no name any more.
    fn size_if_linked(&self, fd: BorrowedFd<'_>, name: &str) -> Result<Option<u64>, EngineError> {
        // Times are not asked for: on new kernels that would make each later write record a finer one.
        let mask = StatxFlags::NLINK | StatxFlags::SIZE | StatxFlags::TYPE;
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, mask)
            .map_err(|error| trouble::system("look at", &self.path(name), Effect::None, error))?;
        if FileType::from_raw_mode(u32::from(stat.stx_mode)) != FileType::RegularFile {
            return Err(trouble::foreign(
                &self.path(name),
                "is not a file: remove it, tenure did not make it",
            ));
        }
        Ok((stat.stx_nlink > 0).then_some(stat.stx_size))
    }

    fn clash(&self, name: &str, other: &Key) -> EngineError {
        trouble::foreign(&self.path(name), &format!("is the file of the key {other:?}: who has renamed it?"))
    }

    fn unreachable(&self, name: &str, what: &str) -> EngineError {
        let message = format!("{} {what}", self.path(name).display());
        EngineError::new(EngineErrorKind::Unreachable, Effect::None, Retry::Worth, message)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path.join("keys").join(name)
    }
}

fn unreadable(path: &Path, error: Unreadable) -> EngineError {
    match error {
        Unreadable::NotOurs => {
            trouble::foreign(path, "is not a key's file, or of another version: move it away")
        }
        Unreadable::Damaged => trouble::foreign(
            path,
            "is damaged, and who holds the key cannot be told: end every process that uses the key, then delete it",
        ),
        Unreadable::System(error) => trouble::system("read", path, Effect::None, error),
    }
}

fn read_page<'a>(fd: BorrowedFd<'_>, page: &'a mut [u8; PAGE]) -> Result<&'a [u8], Errno> {
    let got = read_all(fd, page, 0)?;
    Ok(&page[..got])
}

/// Reads until the buffer is full or the file ends.
fn read_all(fd: BorrowedFd<'_>, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
    let mut got = 0;
    while got < buffer.len() {
        match rustix::io::pread(fd, &mut buffer[got..], at + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn write_all(fd: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<(), Errno> {
    let mut put = 0;
    while put < bytes.len() {
        match rustix::io::pwrite(fd, &bytes[put..], at + put as u64) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(more) => put += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
