//! Directories and engines that a workload uses and leaves nothing of.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;
use tenure::Tenure;
use tenure_core::engine::Engine;
use tenure_local::{Local, LocalOptions};

use crate::counting::{Count, Counted};

/// A directory of its own, removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix("tenure-bench-").tempdir()?))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The file that the anchors lock.
    pub(crate) fn flock(&self) -> PathBuf {
        flock_in(self.path())
    }

    pub(crate) fn local(&self) -> Result<Local> {
        local_in(self.path())
    }
}

/// The file in `directory` that the anchors lock.
pub(crate) fn flock_in(directory: &Path) -> PathBuf {
    directory.join("flock")
}

/// The local engine in `directory`.
pub(crate) fn local_in(directory: &Path) -> Result<Local> {
    Ok(Local::open(&LocalOptions::at(directory.join("locks")))?)
}

/// A client of an engine whose verbs are counted.
pub(crate) fn counted(engine: impl Engine) -> (Tenure, Count) {
    let (engine, count) = Counted::new(engine);
    (Tenure::new(engine), count)
}
