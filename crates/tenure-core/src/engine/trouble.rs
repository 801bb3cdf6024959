//! An engine error that can be told to several: to all who wait for the same connection or the same answer.
//!
//! [`EngineError`] owns its source and so cannot be copied. Where one failure has many listeners, it is carried as a
//! [`Trouble`] and becomes an [`EngineError`] for each. The two axes are chosen by the constructors below; each engine
//! keeps the table of its own replies beside its client.

use super::{Effect, EngineError, EngineErrorKind, Retry};

/// A failure on its two axes, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trouble {
    /// The kind of trouble.
    pub kind: EngineErrorKind,
    /// Whether the verb may have been applied.
    pub effect: Effect,
    /// Whether the same verb may succeed later.
    pub retry: Retry,
    /// In lower case, without a full stop; says what to change.
    pub message: String,
}

impl Trouble {
    /// A failure with both axes.
    #[must_use]
    pub fn new(kind: EngineErrorKind, effect: Effect, retry: Retry, message: impl Into<String>) -> Self {
        Self { kind, effect, retry, message: message.into() }
    }

    /// The engine cannot be reached, or cannot serve now; nothing was applied.
    #[must_use]
    pub fn away(message: impl Into<String>) -> Self {
        Self::new(EngineErrorKind::Unreachable, Effect::None, Retry::Worth, message)
    }

    /// The engine refuses us for good; nothing was applied.
    #[must_use]
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(EngineErrorKind::Denied, Effect::None, Retry::Useless, message)
    }

    /// The engine cannot do what is needed; nothing was applied.
    #[must_use]
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(EngineErrorKind::Unsupported, Effect::None, Retry::Useless, message)
    }

    /// Something else is kept where we keep a line; nothing was touched.
    #[must_use]
    pub fn foreign(message: impl Into<String>) -> Self {
        Self::new(EngineErrorKind::Foreign, Effect::None, Retry::Useless, message)
    }

    /// The engine answered something that makes no sense.
    #[must_use]
    pub fn nonsense(message: impl Into<String>) -> Self {
        Self::new(EngineErrorKind::Protocol, Effect::Unknown, Retry::Useless, message)
    }

    /// The connection has ended, and whatever was under way may have been applied.
    #[must_use]
    pub fn lost(message: impl Into<String>) -> Self {
        Self::new(EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth, message)
    }

    /// The same failure of something that certainly applied nothing, such as connecting.
    #[must_use]
    pub fn without_effect(self) -> Self {
        Self { effect: Effect::None, ..self }
    }

    /// The same failure of something of which a part may have been applied.
    #[must_use]
    pub fn with_unknown_effect(self) -> Self {
        Self { effect: Effect::Unknown, ..self }
    }
}

impl From<Trouble> for EngineError {
    fn from(trouble: Trouble) -> Self {
        Self::new(trouble.kind, trouble.effect, trouble.retry, trouble.message)
    }
}
