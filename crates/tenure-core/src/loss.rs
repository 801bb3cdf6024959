//! How a hold ends: by a release, or by a loss.

use std::fmt;

use crate::engine::Gone;
use crate::{FencingToken, Key};

/// Why a hold ended without a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossCause {
    /// Its lease ran out before a renewal was answered.
    Expired,
    /// The engine does not know the hold any more.
    Denied,
    /// An operator broke it.
    Revoked,
    /// It reached the longest time it was allowed to take.
    MaxHold,
}

impl LossCause {
    /// The cause in one word, for labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Denied => "denied",
            Self::Revoked => "revoked",
            Self::MaxHold => "max_hold",
        }
    }
}

/// A hold that ended without a release: somebody else may hold the key now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// Why.
    pub cause: LossCause,
    /// The token of the lost hold; a resource that checks tokens refuses it once a later one was used.
    pub token: FencingToken,
    key: Key,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.cause {
            LossCause::Expired => "its lease ran out before a renewal was answered",
            LossCause::Denied => "the engine does not know the hold any more",
            LossCause::Revoked => "an operator broke it",
            LossCause::MaxHold => "it reached its longest allowed time",
        };
        write!(f, "the hold of {:?} with token {} was lost: {why}", self.key, self.token)
    }
}

impl std::error::Error for Loss {}

/// What a release found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "it was yours or it was not")]
pub enum Released {
    /// The hold was yours until the release.
    Cleanly,
    /// The hold had been lost before. What was done since then may have overlapped with another holder.
    AlreadyLost(Loss),
}

impl Loss {
    pub(crate) fn new(cause: LossCause, token: FencingToken, key: Key) -> Self {
        Self { cause, token, key }
    }
}

impl From<Gone> for LossCause {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Evicted => Self::Revoked,
            Gone::Withdrawn | Gone::Absent => Self::Denied,
        }
    }
}
