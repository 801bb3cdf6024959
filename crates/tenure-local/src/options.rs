//! Where the directory is and how it is kept, from code or from a URL.
//!
//! The default needs no configuration and is the same for every process of a user, because two processes that lock
//! in different places do not lock at all. So it depends on nothing that differs between the environments of two
//! processes (`TMPDIR`, `XDG_RUNTIME_DIR`, `HOME`), only on the user and on whether `/run/lock` exists.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use tenure_core::engine::url::percent_decoded;

/// Where a [`Local`](crate::Local) engine keeps its files, and how.
///
/// ```
/// use tenure_local::{LocalOptions, SyncMode};
///
/// let options = LocalOptions::from_url("local:///var/lib/app/locks?sync=always")?;
/// assert_eq!(options.directory().to_str(), Some("/var/lib/app/locks"));
/// assert_eq!(options.sync(), SyncMode::Always);
/// # Ok::<(), tenure_local::LocalUrlError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalOptions {
    directory: PathBuf,
    chosen: Chosen,
    sync: SyncMode,
    file_systems: FileSystems,
}

/// Who chose the directory: our own choice is checked more strictly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    ByDefault,
    ByUser,
}

/// What keeps fencing tokens rising through a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SyncMode {
    /// The wall clock of the machine: nothing waits for the disk. Tokens could repeat only when a power cut loses
    /// the last seconds *and* the clock is then set back past them.
    #[default]
    Clock,
    /// The disk: each change of a key is on it before it is reported. Costs one `fdatasync` per verb.
    Always,
}

/// On which file systems the engine agrees to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FileSystems {
    /// Only on those known to be local, where the kernel alone decides who has a lock.
    #[default]
    Local,
    /// Also on network, FUSE and unknown ones, whose locks may be local to one machine, lost in a restart of the
    /// server, or nothing at all. The engine then promises exclusion only as far as they do.
    Any,
}

impl LocalOptions {
    /// The options of the default directory: `/run/lock/tenure-<uid>` where `/run/lock` exists, else
    /// `/tmp/tenure-<uid>`.
    #[must_use]
    pub fn new() -> Self {
        let base = if Path::new("/run/lock").is_dir() { "/run/lock" } else { "/tmp" };
        let directory = Path::new(base).join(format!("tenure-{}", rustix::process::geteuid().as_raw()));
        let chosen = Chosen::ByDefault;
        Self { directory, chosen, sync: SyncMode::default(), file_systems: FileSystems::default() }
    }

    /// The options of a directory of your own. It is created when its parent exists.
    #[must_use]
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), chosen: Chosen::ByUser, ..Self::new() }
    }

    /// The same options with another answer to power cuts.
    #[must_use]
    pub fn with_sync(self, sync: SyncMode) -> Self {
        Self { sync, ..self }
    }

    /// The same options for other file systems.
    #[must_use]
    pub fn with_file_systems(self, file_systems: FileSystems) -> Self {
        Self { file_systems, ..self }
    }

    /// The options that a URL names: `local:` for the default directory, `local:///absolute/path` for another, then
    /// `?sync=clock|always` and `allow=network`. Bytes outside the usual are written `%2f`.
    ///
    /// # Errors
    /// [`LocalUrlError`] names the part that cannot be read.
    pub fn from_url(url: &str) -> Result<Self, LocalUrlError> {
        let rest = url.strip_prefix("local:").ok_or_else(|| LocalUrlError::Scheme(url.to_owned()))?;
        if rest.contains('#') {
            return Err(LocalUrlError::Fragment(rest.to_owned()));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = match directory(path)? {
            Some(directory) => Self::at(directory),
            None => Self::new(),
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            options = match (name, value) {
                ("sync", "clock") => options.with_sync(SyncMode::Clock),
                ("sync", "always") => options.with_sync(SyncMode::Always),
                ("allow", "network") => options.with_file_systems(FileSystems::Any),
                ("sync" | "allow", _) => {
                    return Err(LocalUrlError::Value { option: name.to_owned(), value: value.to_owned() });
                }
                _ => return Err(LocalUrlError::Option(name.to_owned())),
            };
        }
        Ok(options)
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What keeps tokens rising through a power cut.
    #[must_use]
    pub fn sync(&self) -> SyncMode {
        self.sync
    }

    /// On which file systems to work.
    #[must_use]
    pub fn file_systems(&self) -> FileSystems {
        self.file_systems
    }

    pub(crate) fn chosen(&self) -> Chosen {
        self.chosen
    }
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// The path of a URL, none when it names none.
fn directory(path: &str) -> Result<Option<PathBuf>, LocalUrlError> {
    let path = match path.strip_prefix("//") {
        Some("") => return Ok(None),
        Some(with_host) if !with_host.starts_with('/') => {
            let host = with_host.split('/').next().unwrap_or(with_host);
            return Err(LocalUrlError::Host(host.to_owned()));
        }
        Some(path) => path,
        None => path,
    };
    if path.is_empty() {
        return Ok(None);
    }
    let decoded = percent_decoded(path).ok_or_else(|| LocalUrlError::Percent(path.to_owned()))?;
    let decoded = PathBuf::from(OsString::from_vec(decoded));
    if decoded.is_relative() {
        return Err(LocalUrlError::Relative(path.to_owned()));
    }
    Ok(Some(decoded))
}

/// Why a URL is not one of a local engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalUrlError {
    /// It begins with something else.
    #[error("{0:?} is not a local URL: write local: or local:///absolute/path")]
    Scheme(String),
    /// It names a host.
    #[error("a local URL has no host, this one names {0:?}: write local:///absolute/path with three slashes")]
    Host(String),
    /// The path is relative, so two processes could mean two directories.
    #[error("the path {0:?} of a local URL is relative: write local:///absolute/path")]
    Relative(String),
    /// An escape is broken.
    #[error("the path {0:?} of a local URL has a broken escape: write % as %25")]
    Percent(String),
    /// It has a fragment.
    #[error("a local URL has no fragment, this one is {0:?}: write # as %23")]
    Fragment(String),
    /// An option is unknown.
    #[error("a local URL has no option {0:?}: it has sync and allow")]
    Option(String),
    /// An option has an unknown value.
    #[error(
        "{value:?} is no value for {option} in a local URL: write sync=clock, sync=always or allow=network"
    )]
    Value {
        /// The option.
        option: String,
        /// Its value.
        value: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_directory_sync_and_file_systems() {
        assert_eq!(LocalOptions::from_url("local:"), Ok(LocalOptions::new()));
        assert_eq!(LocalOptions::from_url("local://"), Ok(LocalOptions::new()));
        let sync = LocalOptions::new().with_sync(SyncMode::Always);
        assert_eq!(LocalOptions::from_url("local:?sync=always"), Ok(sync));
        let any = LocalOptions::at("/a b/é").with_file_systems(FileSystems::Any);
        assert_eq!(LocalOptions::from_url("local:///a%20b/%C3%a9?allow=network&sync=clock"), Ok(any));
        assert_eq!(LocalOptions::from_url("local:/x"), Ok(LocalOptions::at("/x")));
    }

    #[test]
    fn a_bad_url_is_refused_by_the_part_that_is_bad() {
        let refused = |url: &str| LocalOptions::from_url(url).unwrap_err();
        assert_eq!(refused("redis://x"), LocalUrlError::Scheme("redis://x".into()));
        assert_eq!(refused("local://server/x"), LocalUrlError::Host("server".into()));
        assert_eq!(refused("local:x/y"), LocalUrlError::Relative("x/y".into()));
        for broken in ["/a%", "/a%2", "/a%zz", "/a%+1", "/a%00b"] {
            assert_eq!(refused(&format!("local:{broken}")), LocalUrlError::Percent(broken.into()));
        }
        assert_eq!(refused("local:/x#y"), LocalUrlError::Fragment("/x#y".into()));
        assert_eq!(refused("local:?speed=high"), LocalUrlError::Option("speed".into()));
        let value = LocalUrlError::Value { option: "sync".into(), value: "maybe".into() };
        assert_eq!(refused("local:?sync=maybe"), value);
    }
}
