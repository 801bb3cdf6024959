//! What a caller did not ask for.
//!
//! Busy, timed out and lost are values, not errors (see [`Outcome`](crate::Outcome) and [`Loss`](crate::Loss)).
//! An [`Error`] is opaque: it has a kind to decide by, a message that names key, engine and verb, and its source.

use std::fmt;
use std::num::NonZeroU32;

use crate::engine::{EngineError, EngineErrorKind};
use crate::{Key, KeyError, TtlError};

/// Something a caller did not ask for.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What kind of trouble an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The name cannot be a key.
    InvalidName,
    /// The duration cannot be a TTL or another bound.
    InvalidDuration,
    /// The limit cannot be one.
    InvalidLimit,
    /// The URL cannot be read, or names no engine that this build knows.
    InvalidUrl,
    /// The engine did not answer, or cannot serve now. Whether the key is free is unknown.
    Unreachable,
    /// The engine refused us.
    Denied,
    /// The permits of the line have agreed on another limit.
    LimitMismatch {
        /// The limit in force.
        stored: NonZeroU32,
    },
    /// What is stored under the key is not ours, of another version, or damaged.
    Foreign,
    /// The engine has no room.
    Full,
    /// The engine, as configured, cannot do what was asked.
    Unsupported,
    /// The engine answered something that makes no sense.
    Protocol,
    /// An operator took the waiting claim out of the line.
    Evicted,
    /// The client was shut down, or its keeper could not be started.
    Closed,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    /// An error about the URL of an engine; for facades that choose engines by URL.
    #[must_use]
    pub fn invalid_url(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidUrl, message)
    }

    /// A failed verb of an engine.
    #[must_use]
    pub fn of_engine(engine: &str, verb: &str, key: Option<&Key>, error: EngineError) -> Self {
        let kind = match error.kind() {
            EngineErrorKind::Unreachable => ErrorKind::Unreachable,
            EngineErrorKind::Denied => ErrorKind::Denied,
            EngineErrorKind::LimitMismatch { stored } => ErrorKind::LimitMismatch { stored },
            EngineErrorKind::Foreign => ErrorKind::Foreign,
            EngineErrorKind::Full => ErrorKind::Full,
            EngineErrorKind::Unsupported => ErrorKind::Unsupported,
            EngineErrorKind::Protocol => ErrorKind::Protocol,
        };
        let message = match key {
            Some(key) => format!("{engine}: cannot {verb} {key:?}: {error}"),
            None => format!("{engine}: cannot {verb}: {error}"),
        };
        Self::new(kind, message).caused_by(error)
    }

    /// What kind of trouble it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the engine could not be asked, so that the state of the key is unknown.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.0.kind == ErrorKind::Unreachable
    }

    /// Whether the caller gave something that can never be right: a name, a duration, a limit, a URL.
    #[must_use]
    pub fn is_invalid_input(&self) -> bool {
        use ErrorKind::{InvalidDuration, InvalidLimit, InvalidName, InvalidUrl};
        matches!(self.0.kind, InvalidName | InvalidDuration | InvalidLimit | InvalidUrl)
    }
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        Self::new(ErrorKind::InvalidName, error.to_string()).caused_by(error)
    }
}

impl From<TtlError> for Error {
    fn from(error: TtlError) -> Self {
        Self::new(ErrorKind::InvalidDuration, error.to_string()).caused_by(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}
