//! Where the bench finds its own files, and leaves what it writes.

use std::path::{Path, PathBuf};

/// The folder of this package. Cargo says it to what it runs; where it was compiled may be another clone, when two
/// share a folder of builds.
pub(crate) fn bench() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    bench().parent().unwrap_or(Path::new(".")).to_owned()
}
