//! Counts attempts that may still be on their way, so that a withdrawal knows whether it must leave a tombstone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::engine::Stray;

/// The unanswered attempts of one claim, over all its lanes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strays(Arc<AtomicU32>);

impl Strays {
    /// An attempt is about to be sent. Unless it is answered, it counts as under way for ever.
    pub(crate) fn sent(&self) -> Sent<'_> {
        self.0.fetch_add(1, Ordering::AcqRel);
        Sent(self)
    }

    /// Whether an attempt may still arrive.
    pub(crate) fn stray(&self) -> Stray {
        if self.0.load(Ordering::Acquire) == 0 { Stray::Impossible } else { Stray::Possible }
    }
}

/// An attempt under way.
pub(crate) struct Sent<'a>(&'a Strays);

impl Sent<'_> {
    /// The attempt was answered, or certainly not applied.
    pub(crate) fn answered(self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}
