//! What can go wrong between us and an engine, on two axes that are never derived from one another.

use std::error::Error as StdError;
use std::fmt;
use std::num::NonZeroU32;

/// What kind of trouble an engine met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineErrorKind {
    /// The engine did not answer, or cannot serve now.
    Unreachable,
    /// The engine refused us: credentials, rights, a read-only place.
    Denied,
    /// The line's permits have agreed on another limit.
    LimitMismatch {
        /// The limit in force.
        stored: NonZeroU32,
    },
    /// What is stored under the key is not ours, of another version, or damaged.
    Foreign,
    /// The engine has no room.
    Full,
    /// This engine, as configured, cannot do what was asked.
    Unsupported,
    /// The engine answered something that makes no sense.
    Protocol,
}

/// Whether the failed verb may have been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "certain or not: there is no third")]
pub enum Effect {
    /// Certainly nothing was applied.
    None,
    /// It may have been applied; the keeper withdraws the claim.
    Unknown,
}

/// Whether the same verb may succeed if it is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "worth it or not: there is no third")]
pub enum Retry {
    /// The trouble may pass by itself.
    Worth,
    /// It will not.
    Useless,
}

/// A verb of an engine that failed.
#[derive(Debug)]
pub struct EngineError {
    kind: EngineErrorKind,
    effect: Effect,
    retry: Retry,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl EngineError {
    /// An error with its two axes and a message in lower case that says what to change.
    #[must_use]
    pub fn new(kind: EngineErrorKind, effect: Effect, retry: Retry, message: impl Into<String>) -> Self {
        Self { kind, effect, retry, message: message.into(), source: None }
    }

    /// The same error with what caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind of trouble.
    #[must_use]
    pub fn kind(&self) -> EngineErrorKind {
        self.kind
    }

    /// Whether the verb may have been applied.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// Whether to try again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.retry
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for EngineError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}
