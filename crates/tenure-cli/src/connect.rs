//! From `--at`, `TENURE_URL` or the default to an engine.
//!
//! An empty `TENURE_URL` is an error and not the default: a template that failed to fill it in would otherwise make
//! each host lock in its own directory, and exclude nobody.

use std::ffi::OsString;
use std::os::fd::OwnedFd;

use tenure::{Error, ErrorKind, Options, Tenure};

use crate::exit::{Failure, code_of};

/// The variable that names the engine.
const TENURE_URL: &str = "TENURE_URL";

/// An engine to work with.
pub(crate) struct Connected {
    pub(crate) tenure: Tenure,
    pub(crate) place: Place,
    #[cfg(feature = "local")]
    local: Option<tenure_local::Local>,
}

/// Where the URL of the engine came from, for messages: the URL itself may have a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Flag,
    Variable,
    Default,
}

impl Place {
    /// The failure of an engine that was found here, with what to change.
    pub(crate) fn failure(self, error: &Error) -> Failure {
        let from = match self {
            Self::Flag => "the engine is that of --at",
            Self::Variable => "the engine is that of TENURE_URL",
            Self::Default => "choose another engine with --at or TENURE_URL",
        };
        let message = match error.kind() {
            ErrorKind::LimitMismatch { stored } => format!("{error} (--slots {stored})"),
            ErrorKind::InvalidName | ErrorKind::InvalidDuration | ErrorKind::Evicted => error.to_string(),
            _ => format!("{error} ({from})"),
        };
        Failure::new(code_of(error), message)
    }
}

impl Connected {
    /// What a command inherits so that its lock stays taken while any process of it lives, whatever happens to us;
    /// none where the engine has no such thing. Taken after the grant, so that the engine knows the command by name.
    pub(crate) fn bequest(&self) -> Result<Option<OwnedFd>, Failure> {
        #[cfg(feature = "local")]
        if let Some(local) = &self.local {
            let bequest = local.bequeath();
            return bequest
                .map(Some)
                .map_err(|error| self.place.failure(&Error::of_engine("local", "bequeath", None, error)));
        }
        Ok(None)
    }
}

/// Opens the engine that was asked for.
pub(crate) async fn connect(at: Option<OsString>, options: Options) -> Result<Connected, Failure> {
    let (place, url) = asked(at)?;
    open(&url, place, options).await.map_err(|error| place.failure(&error))
}

/// The URL of the engine that was asked for, and where it came from.
pub(crate) fn asked(at: Option<OsString>) -> Result<(Place, String), Failure> {
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
    Ok((place, url))
}

async fn open(url: &str, place: Place, options: Options) -> Result<Connected, Error> {
    #[cfg(feature = "local")]
    if url.starts_with("local:") {
        let local = tenure_local::LocalOptions::from_url(url);
        let local = local.map_err(|error| Error::invalid_url(error.to_string()))?;
        let local = tenure_local::Local::open(&local);
        let local = local.map_err(|error| Error::of_engine("local", "open", None, error))?;
        let tenure = Tenure::with_options(local.clone(), options);
        return Ok(Connected { tenure, place, local: Some(local) });
    }
    Ok(Connected {
        tenure: tenure::connect_with(url, options).await?,
        place,
        #[cfg(feature = "local")]
        local: None,
    })
}
