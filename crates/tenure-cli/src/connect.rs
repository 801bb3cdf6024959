//! From `--at`, `TENURE_URL` or the default to an engine.
//!
//! An empty `TENURE_URL` is an error and not the default: a template that failed to fill it in would otherwise make
//! each host lock in its own directory, and exclude nobody.

use std::ffi::OsString;
use std::os::fd::OwnedFd;

use tenure::{Error, Options, Tenure};

use crate::exit::{Failure, code_of};

/// The variable that names the engine.
pub(crate) const TENURE_URL: &str = "TENURE_URL";

/// An engine to work with.
pub(crate) struct Connected {
    pub(crate) tenure: Tenure,
    pub(crate) place: Place,
    /// What a command inherits so that its lock stays taken while any process of it lives, whatever happens to us.
    pub(crate) bequest: Option<OwnedFd>,
}

/// Where the URL of the engine came from, for messages: the URL itself may have a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Flag,
    Variable,
    Default,
}

/// What to open an engine for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// To look, or to break.
    Looking,
    /// To hold a lock for a command.
    Holding,
}

impl Place {
    /// The failure of an engine that was found here, with what to change.
    pub(crate) fn failure(self, error: &Error) -> Failure {
        let code = code_of(error);
        let from = match self {
            Self::Flag => "the engine is that of --at",
            Self::Variable => "the engine is that of TENURE_URL",
            Self::Default => "choose another engine with --at or TENURE_URL",
        };
        let message = match error.kind() {
            tenure::ErrorKind::LimitMismatch { stored } => format!("{error} (--slots {stored})"),
            tenure::ErrorKind::InvalidName | tenure::ErrorKind::Evicted => error.to_string(),
            _ => format!("{error} ({from})"),
        };
        Failure::new(code, message)
    }
}

/// Opens the engine that was asked for.
pub(crate) async fn connect(at: Option<OsString>, options: Options, what: For) -> Result<Connected, Failure> {
    let (place, url) = match (at, std::env::var_os(TENURE_URL)) {
        (Some(url), _) => (Place::Flag, url),
        (None, Some(url)) => (Place::Variable, url),
        (None, None) => (Place::Default, "local:".into()),
    };
    let name = if place == Place::Flag { "--at" } else { TENURE_URL };
    let url = url.into_string().map_err(|url| Failure::usage(format!("{name} {url:?} is not UTF-8")))?;
    if url.is_empty() {
        let message = format!("{name} is empty: name an engine, for instance local:, or leave it away");
        return Err(Failure::usage(message));
    }
    open(&url, options, what).await.map_err(|error| place.failure(&error)).map(|(tenure, bequest)| Connected {
        tenure,
        place,
        bequest,
    })
}

async fn open(url: &str, options: Options, what: For) -> Result<(Tenure, Option<OwnedFd>), Error> {
    let _ = what;
    Ok((tenure::connect_with(url, options).await?, None))
}
