//! What the kernel refuses, in the words of the contract.
//!
//! An error number alone helps nobody at night: each message names the path and, where there is one, the way out.

use std::path::Path;

use rustix::io::Errno;
use tenure_core::engine::{Effect, EngineError, EngineErrorKind, Retry};

/// A system call on `path` that failed while `doing` something (in the infinitive).
pub(crate) fn system(doing: &str, path: &Path, effect: Effect, error: Errno) -> EngineError {
    let (kind, retry, advice) = match error {
        Errno::NOSPC | Errno::DQUOT => {
            (EngineErrorKind::Full, Retry::Worth, ": make room on that file system, or raise the quota")
        }
        Errno::ACCESS | Errno::PERM | Errno::ROFS => {
            (EngineErrorKind::Denied, Retry::Useless, ": this user must be able to write there")
        }
        Errno::MFILE | Errno::NFILE => {
            (EngineErrorKind::Unreachable, Retry::Worth, ": raise the limit of open files (ulimit -n)")
        }
        Errno::LOOP | Errno::ISDIR | Errno::NOTDIR | Errno::NXIO => {
            (EngineErrorKind::Foreign, Retry::Useless, ": something else lies where tenure keeps its files")
        }
        Errno::NOENT => (EngineErrorKind::Unreachable, Retry::Useless, ": was the directory deleted?"),
        _ => (EngineErrorKind::Unreachable, Retry::Worth, ""),
    };
    let message = format!("cannot {doing} {}: {error}{advice}", path.display());
    EngineError::new(kind, effect, retry, message).caused_by(std::io::Error::from(error))
}

/// Something at `path` is not ours, of another version, or damaged; nothing was changed.
pub(crate) fn foreign(path: &Path, what: &str) -> EngineError {
    let message = format!("{} {what}", path.display());
    EngineError::new(EngineErrorKind::Foreign, Effect::None, Retry::Useless, message)
}

/// A directory or a file that must not be used as it is; nothing was changed.
pub(crate) fn denied(path: &Path, what: &str) -> EngineError {
    let message = format!("{} {what}", path.display());
    EngineError::new(EngineErrorKind::Denied, Effect::None, Retry::Useless, message)
}

/// What this directory cannot do as it is configured; nothing was changed.
pub(crate) fn unsupported(path: &Path, what: &str) -> EngineError {
    let message = format!("{} {what}", path.display());
    EngineError::new(EngineErrorKind::Unsupported, Effect::None, Retry::Useless, message)
}
