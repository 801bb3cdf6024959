//! The directory itself: found or made, and checked before anything is trusted to it.
//!
//! A lock is worth as much as the file system under it and as the rights around it. What cannot be trusted is refused
//! when the engine is opened, with the reason and the way out, and nothing that is not ours is ever touched.
//!
//! # Invariants
//! 1. A directory without our `FORMAT` file is used only when it is empty, and then made ours with that file last.
//! 2. After the checks all files are reached through open descriptors, so that nobody can swap the path.
//! 3. Nobody outside the directory's own owner and group can write to it.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Stat};
use rustix::io::Errno;
use tenure_core::engine::{Effect, EngineError, EngineErrorKind, Retry};

use crate::filesystems::{self, FileSystem, Trust};
use crate::options::{Chosen, FileSystems, LocalOptions, SyncMode};
use crate::patience::pause;
use crate::trouble;

/// What the file `FORMAT` says: the mechanism and its version.
const FORMAT: &[u8] = b"tenure local 1 flock\n";
/// The same file before it counts.
const NEW_FORMAT: &str = ".FORMAT.new";

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open directory that passed all checks.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    pub(crate) keys: OwnedFd,
    pub(crate) members: OwnedFd,
    pub(crate) sync: SyncMode,
    pub(crate) trust: Trust,
    /// Which boot of the machine this is; zero when unknown.
    pub(crate) boot: u128,
    rights: Rights,
    /// Kept open for its lock, which tells clean-up programs that the directory is in use.
    _top: OwnedFd,
}

/// The rights of new files: those of the directory, without execution.
#[derive(Clone, Copy, Debug)]
struct Rights {
    directory: Mode,
    /// The group to share with, if the directory is shared.
    group: Option<Gid>,
}

impl Directory {
    /// Opens the directory, making it if need be.
    pub(crate) fn open(options: &LocalOptions) -> Result<Self, EngineError> {
        let path = options.directory().to_owned();
        let system = |doing: &str| {
            let path = path.clone();
            let doing = doing.to_owned();
            move |error| trouble::system(&doing, &path, Effect::None, error)
        };
        let top = open_or_create(&path)?;
        let stat = rustix::fs::fstat(&top).map_err(system("look at"))?;
        let rights = check_rights(&path, &stat, options.chosen())?;
        let magic = rustix::fs::fstatfs(&top).map_err(system("look at"))?.f_type;
        #[allow(clippy::unnecessary_cast, reason = "the field has another type on other machines")]
        let file_system = filesystems::by_magic(magic as u64);
        check_file_system(&path, file_system, options)?;
        let format = match open_format(&top, &path)? {
            Some(format) => format,
            None => found(&top, &path, rights)?,
        };
        self_test(&path, format)?;
        let inside = |name: &str| rustix::fs::openat(&top, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        let keys = inside("keys").map_err(system("open keys in"))?;
        let members = inside("members").map_err(system("open members in"))?;
        // systemd-tmpfiles ages nothing in a directory that is locked. If somebody has it locked right now, so be it.
        let _ = rustix::fs::flock(&top, FlockOperation::NonBlockingLockShared);
        let (sync, trust, boot) = (options.sync(), file_system.trust, boot_id());
        Ok(Self { path, keys, members, sync, trust, boot, rights, _top: top })
    }

    /// Creates a file if there is none, with the rights of the directory.
    pub(crate) fn create_file(
        &self,
        at: BorrowedFd<'_>,
        name: &str,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let mode = self.file_mode();
        let file = rustix::fs::openat(at, name, flags | OFlags::CREATE, mode)?;
        if let Some(group) = self.rights.group {
            // Whoever finds it first sets what its maker's umask has taken; only the maker may.
            let _ = rustix::fs::fchown(&file, None, Some(group));
            let _ = rustix::fs::fchmod(&file, mode);
        }
        Ok(file)
    }

    /// The rights of a file in the directory.
    pub(crate) fn file_mode(&self) -> Mode {
        self.rights.directory & Mode::from_raw_mode(0o666)
    }
}

/// The directory, which is made when only it is missing.
fn open_or_create(path: &Path) -> Result<OwnedFd, EngineError> {
    if let Ok(stat) = rustix::fs::lstat(path)
        && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
        && ![0, rustix::process::geteuid().as_raw()].contains(&stat.st_uid)
    {
        let what = format!("is a symbolic link made by user {}: name the directory itself", stat.st_uid);
        return Err(trouble::denied(path, &what));
    }
    match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => {}
        opened => return opened.map_err(|error| trouble::system("open", path, Effect::None, error)),
    }
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(Errno::NOENT) => {
            let missing =
                path.ancestors().skip(1).find(|parent| !parent.as_os_str().is_empty() && !parent.exists());
            let missing = missing.unwrap_or(path).display();
            let message =
                format!("cannot create {}: {missing} does not exist, create it first", path.display());
            let (kind, retry) = (EngineErrorKind::Unreachable, Retry::Useless);
            return Err(EngineError::new(kind, Effect::None, retry, message));
        }
        Err(error) => return Err(trouble::system("create", path, Effect::None, error)),
    }
    rustix::fs::open(path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|error| trouble::system("open", path, Effect::None, error))
}

/// Who may use the directory, and whether we may.
fn check_rights(path: &Path, stat: &Stat, chosen: Chosen) -> Result<Rights, EngineError> {
    let me = rustix::process::geteuid().as_raw();
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::WOTH) {
        return Err(trouble::denied(path, "can be written by everybody, who could delete locks: chmod o-w"));
    }
    let shared = mode.contains(Mode::RWXG) && is_in_group(stat.st_gid);
    if stat.st_uid != me && (chosen == Chosen::ByDefault || !shared) {
        let owner = stat.st_uid;
        let what = format!(
            "belongs to user {owner}, not to {me}: run as that user, or share a directory through a group (chmod g+rwx)"
        );
        return Err(trouble::denied(path, &what));
    }
    let group = shared.then(|| Gid::from_raw(stat.st_gid)).filter(|_| mode.contains(Mode::RWXG));
    Ok(Rights { directory: mode & Mode::from_raw_mode(0o770) | Mode::RWXU, group })
}

fn is_in_group(group: u32) -> bool {
    rustix::process::getegid().as_raw() == group
        || rustix::process::getgroups().is_ok_and(|groups| groups.iter().any(|mine| mine.as_raw() == group))
}

fn check_file_system(path: &Path, found: FileSystem, options: &LocalOptions) -> Result<(), EngineError> {
    if found.trust == Trust::None && options.file_systems() == FileSystems::Local {
        let what = format!(
            "is on a file system {}, where a lock may not exclude: choose a local directory, or say allow=network if \
             only this machine uses it",
            if found.name.contains(' ') { found.name.to_owned() } else { format!("of type {}", found.name) }
        );
        return Err(trouble::unsupported(path, &what));
    }
    if found.trust == Trust::Memory && options.sync() == SyncMode::Always {
        let what = format!("is on {}, which forgets everything: sync=always needs a disk", found.name);
        return Err(trouble::unsupported(path, &what));
    }
    Ok(())
}

/// The file `FORMAT` if it is there and says what it must.
fn open_format(top: &OwnedFd, path: &Path) -> Result<Option<[OwnedFd; 2]>, EngineError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let open = || rustix::fs::openat(top, "FORMAT", flags, Mode::empty());
    let file = match open() {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.map_err(|error| trouble::system("open FORMAT in", path, Effect::None, error))?,
    };
    let mut text = [0; 64];
    let got = rustix::io::pread(&file, &mut text, 0)
        .map_err(|error| trouble::system("read FORMAT in", path, Effect::None, error))?;
    if text[..got] != *FORMAT {
        let found = String::from_utf8_lossy(&text[..got]);
        let what = format!(
            "has a FORMAT that says {:?} instead of {:?}: use another directory, or the version that made it",
            found.trim_end(),
            String::from_utf8_lossy(FORMAT).trim_end()
        );
        return Err(trouble::foreign(path, &what));
    }
    let second = open().map_err(|error| trouble::system("open FORMAT in", path, Effect::None, error))?;
    Ok(Some([file, second]))
}

/// Makes an empty directory ours. Several processes may try at once.
fn found(top: &OwnedFd, path: &Path, rights: Rights) -> Result<[OwnedFd; 2], EngineError> {
    let failed = |error| trouble::system("prepare", path, Effect::None, error);
    refuse_strangers(top, path)?;
    for attempt in 0.. {
        match rustix::fs::flock(top, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) if attempt < 2_000 => pause(Duration::from_millis(1)),
            Err(error) => return Err(failed(error)),
        }
        // Whoever was faster keeps a lock on it for as long as he uses it.
        if let Some(format) = open_format(top, path)? {
            return Ok(format);
        }
    }
    if let Some(format) = open_format(top, path)? {
        return Ok(format);
    }
    refuse_strangers(top, path)?;
    for name in ["keys", "members"] {
        match rustix::fs::mkdirat(top, name, rights.directory) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        let made =
            rustix::fs::openat(top, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
        rustix::fs::fchown(&made, None, rights.group).map_err(failed)?;
        rustix::fs::fchmod(&made, rights.directory).map_err(failed)?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = rights.directory & Mode::from_raw_mode(0o660);
    let file = rustix::fs::openat(top, NEW_FORMAT, flags, mode).map_err(failed)?;
    rustix::fs::fchown(&file, None, rights.group).map_err(failed)?;
    rustix::fs::fchmod(&file, mode).map_err(failed)?;
    rustix::io::pwrite(&file, FORMAT, 0).map_err(failed)?;
    // Once for all: the names in it are then on disk before any token is.
    rustix::fs::fsync(&file).map_err(failed)?;
    rustix::fs::renameat(top, NEW_FORMAT, top, "FORMAT").map_err(failed)?;
    rustix::fs::fsync(top).map_err(failed)?;
    open_format(top, path)?.ok_or_else(|| trouble::foreign(path, "lost its FORMAT at once: who deletes it?"))
}

/// Refuses a directory that has anything but what an interrupted [`found`] leaves.
fn refuse_strangers(top: &OwnedFd, path: &Path) -> Result<(), EngineError> {
    let failed = |error| trouble::system("list", path, Effect::None, error);
    for entry in Dir::read_from(top).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        let ours: [&[u8]; 6] = [b".", b"..", b"keys", b"members", NEW_FORMAT.as_bytes(), b"FORMAT"];
        if !ours.contains(&name) {
            let what = format!(
                "has {:?} but no FORMAT, so it is not a directory of tenure: name an empty or a new one",
                OsStr::from_bytes(name)
            );
            return Err(trouble::foreign(path, &what));
        }
    }
    Ok(())
}

/// Proves that a lock on one descriptor excludes another descriptor of the same file.
fn self_test(path: &Path, [first, second]: [OwnedFd; 2]) -> Result<(), EngineError> {
    // Shared first: others who test at the same time are not in the way.
    let shared = rustix::fs::flock(&first, FlockOperation::NonBlockingLockShared);
    let exclusive = rustix::fs::flock(&second, FlockOperation::NonBlockingLockExclusive);
    judge_self_test(path, shared, exclusive)
}

fn judge_self_test(
    path: &Path,
    shared: Result<(), Errno>,
    exclusive: Result<(), Errno>,
) -> Result<(), EngineError> {
    match (shared, exclusive) {
        (Ok(()), Err(Errno::WOULDBLOCK)) => Ok(()),
        (Ok(()), Ok(())) => Err(trouble::unsupported(
            path,
            "is on a file system whose locks do not exclude: choose another directory",
        )),
        (Err(error), _) | (_, Err(error)) => {
            let what = format!("is on a file system without locks ({error}): choose another directory");
            Err(trouble::unsupported(path, &what))
        }
    }
}

/// Which boot of the machine this is; zero when the system does not tell.
fn boot_id() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

/// Removes a name, if it is there.
pub(crate) fn unlink(at: &OwnedFd, name: &str) {
    // A file that stays is found dead again by the next who looks.
    let _ = rustix::fs::unlinkat(at, name, AtFlags::empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c096_a_lock_that_does_nothing_is_refused() {
        let path = Path::new("/x");
        let kind = |shared, exclusive| judge_self_test(path, shared, exclusive).map_err(|error| error.kind());
        assert_eq!(kind(Ok(()), Err(Errno::WOULDBLOCK)), Ok(()));
        assert_eq!(kind(Ok(()), Ok(())), Err(EngineErrorKind::Unsupported));
        assert_eq!(kind(Err(Errno::NOLCK), Ok(())), Err(EngineErrorKind::Unsupported));
        assert_eq!(kind(Ok(()), Err(Errno::OPNOTSUPP)), Err(EngineErrorKind::Unsupported));
    }

    #[test]
    fn c096_network_file_systems_are_refused_unless_allowed() {
        let path = Path::new("/mnt/share");
        let nfs = filesystems::by_magic(0x6969);
        let error = check_file_system(path, nfs, &LocalOptions::at(path)).unwrap_err();
        assert_eq!(error.kind(), EngineErrorKind::Unsupported);
        assert!(
            error.to_string().contains("type nfs") && error.to_string().contains("allow=network"),
            "{error}"
        );
        let allowed = LocalOptions::at(path).with_file_systems(FileSystems::Any);
        assert!(check_file_system(path, nfs, &allowed).is_ok());
    }

    #[test]
    fn sync_always_is_refused_in_memory() {
        let options = LocalOptions::at("/x").with_sync(SyncMode::Always);
        let tmpfs = filesystems::by_magic(0x0102_1994);
        assert!(check_file_system(Path::new("/x"), tmpfs, &options).is_err());
        assert!(check_file_system(Path::new("/x"), filesystems::by_magic(0xef53), &options).is_ok());
    }
}
