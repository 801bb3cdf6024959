//! Deliberately broken variants of the rules, so that tests can prove that they would notice.
//!
//! A proof that has never failed proves nothing. Each flaw is one that real lock libraries have shipped. Without the
//! feature `planted-flaws` nothing can be planted, at compile time, and the flaws are not in the program.

/// A rule that can be broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "a test that goes through all of them must know all of them")]
pub enum Flaw {
    /// Validity counted from the reply instead of from before the request.
    ValidityFromReply,
    /// No timer of its own while a renewal is on its way.
    NoTimerWhileRenewing,
    /// A wake taken for a grant.
    WakeWithoutRecheck,
    /// A renewal that makes the hold anew.
    RenewalThatRecreates,
    /// A release by name: it takes out whoever is first.
    ReleaseByName,
    /// No tombstone after a withdrawal.
    NoTombstone,
    /// Waiting places that never expire.
    ImmortalPlaces,
    /// A token that is only a counter.
    CounterOnlyToken,
    /// Permits that are only counted: a release gives one back, although its own was given back when it expired.
    PermitsAsCounter,
    /// A token of a quorum that is reported and not written back to a majority of it.
    NoWriteBack,
}

/// Whether a flaw is planted here; never without the feature.
#[cfg(not(feature = "planted-flaws"))]
#[inline(always)]
#[must_use]
pub const fn planted(_flaw: Flaw) -> bool {
    false
}

#[cfg(feature = "planted-flaws")]
mod planting {
    use super::Flaw;
    use std::cell::Cell;
    use std::sync::OnceLock;

    thread_local! {
        static PLANTED: Cell<Option<Flaw>> = const { Cell::new(None) };
    }

    static EVERYWHERE: OnceLock<Flaw> = OnceLock::new();

    /// Whether a flaw is planted in this thread or in this process.
    #[must_use]
    pub fn planted(flaw: Flaw) -> bool {
        PLANTED.get() == Some(flaw) || EVERYWHERE.get() == Some(&flaw)
    }

    /// Plants a flaw in all of this process until it ends; the first one stays.
    pub fn plant_everywhere(flaw: Flaw) {
        EVERYWHERE.get_or_init(|| flaw);
    }

    /// Plants a flaw in everything that runs on this thread while `test` runs.
    pub fn with_flaw<R>(flaw: Option<Flaw>, test: impl FnOnce() -> R) -> R {
        struct Restore(Option<Flaw>);
        impl Drop for Restore {
            fn drop(&mut self) {
                PLANTED.set(self.0);
            }
        }
        let _restore = Restore(PLANTED.replace(flaw));
        test()
    }
}

#[cfg(feature = "planted-flaws")]
pub use planting::{plant_everywhere, planted, with_flaw};
