//! The two outcomes of a gate besides "accepted": the holder is stale, or the gate is in trouble.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::FenceGate;
use crate::FencingToken;

/// Why a gate let nobody in.
#[derive(Debug, thiserror::Error)]
#[allow(clippy::exhaustive_enums, reason = "refused or broken: a caller must tell these apart")]
pub enum FenceError {
    /// The holder is stale: the gate works, and does what it is for.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// The gate cannot decide, and so refuses.
    #[error(transparent)]
    Trouble(#[from] FenceTrouble),
}

impl FenceError {
    /// The refusal, if it is one.
    #[must_use]
    pub fn stale(&self) -> Option<Stale> {
        match self {
            Self::Stale(stale) => Some(*stale),
            Self::Trouble(_) => None,
        }
    }

    /// The trouble, if it is one.
    #[must_use]
    pub fn trouble(&self) -> Option<&FenceTrouble> {
        match self {
            Self::Stale(_) => None,
            Self::Trouble(trouble) => Some(trouble),
        }
    }
}

/// A token that was refused because a newer one has passed: its hold is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "fencing token {offered} is stale: a holder with token {mark} has passed the gate in slot {slot}; \
     acquire the lock again and read again before writing"
)]
pub struct Stale {
    /// The slot in which it was offered.
    pub slot: u32,
    /// The token that was refused.
    pub offered: FencingToken,
    /// The mark that it is below.
    pub mark: FencingToken,
}

/// What kind of trouble a gate is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FenceTroubleKind {
    /// The system refused or failed to do something with the file. The mark may have been raised or not, and the same
    /// token may be offered again.
    Io,
    /// The file is a fence file, and what it remembered is lost.
    Damaged,
    /// The file is not a fence file, or one of a version that this program does not know.
    Foreign,
    /// The path no longer leads to the file that the gate has opened.
    Replaced,
    /// The slot is not below [`FenceGate::SLOTS_MAX`].
    SlotLimit,
}

/// Why a gate cannot decide. Whatever it is, nobody was let in.
#[derive(Debug)]
pub struct FenceTrouble {
    kind: FenceTroubleKind,
    path: Option<PathBuf>,
    message: String,
    source: Option<io::Error>,
}

impl FenceTrouble {
    /// The kind of trouble.
    #[must_use]
    pub fn kind(&self) -> FenceTroubleKind {
        self.kind
    }

    /// The file of the gate, if the trouble is with a file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(super) fn io(path: &Path, verb: &str, advice: &str, source: io::Error) -> Self {
        let message = format!("cannot {verb} fence file {}; {advice}", path.display());
        Self { source: Some(source), ..Self::of(FenceTroubleKind::Io, path, message) }
    }

    pub(super) fn damaged(path: &Path, what: &str) -> Self {
        let message = format!(
            "fence file {} is damaged: {what}; nobody is let in until every holder has stopped and the file is deleted",
            path.display()
        );
        Self::of(FenceTroubleKind::Damaged, path, message)
    }

    pub(super) fn foreign(path: &Path, what: &str) -> Self {
        let message = format!(
            "{} is {what}, and was left as it is; give the gate a path of its own, or use the version that wrote it",
            path.display()
        );
        Self::of(FenceTroubleKind::Foreign, path, message)
    }

    pub(super) fn replaced(path: &Path) -> Self {
        let message = format!(
            "fence file {} was deleted or replaced while its gate was open; put it back, or stop every holder and \
             open the gate again",
            path.display()
        );
        Self::of(FenceTroubleKind::Replaced, path, message)
    }

    pub(super) fn slot_limit(slot: u32) -> Self {
        let message = format!(
            "a fence gate has {} slots, and slot {slot} is beyond them; use a semaphore with a lower limit, or a gate \
             for each group of permits",
            FenceGate::SLOTS_MAX
        );
        Self { kind: FenceTroubleKind::SlotLimit, path: None, message, source: None }
    }

    fn of(kind: FenceTroubleKind, path: &Path, message: String) -> Self {
        Self { kind, path: Some(path.to_owned()), message, source: None }
    }
}

impl fmt::Display for FenceTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for FenceTrouble {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source as &(dyn StdError + 'static))
    }
}
