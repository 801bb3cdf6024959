//! How long a hold is valid unless it is renewed.
//!
//! Peers have accepted a TTL of zero, of minus one and of ten thousand years, and each has locked somebody out
//! or let two in. So a TTL is a type with bounds, checked where it enters; arithmetic on it cannot overflow.

use std::fmt;
use std::time::Duration;

/// How long a hold is valid unless it is renewed: 50 ms to 7 days, 30 s unless told otherwise.
///
/// The TTL is not a limit to the work: a hold is renewed as long as its guard lives. It is the time for which the key
/// stays taken after the holder has vanished.
///
/// ```
/// use std::time::Duration;
/// use tenure_core::Ttl;
///
/// assert_eq!(Ttl::default().duration(), Duration::from_secs(30));
/// assert!(Ttl::new(Duration::ZERO).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(Duration);

impl Ttl {
    /// The shortest TTL.
    pub const MIN: Self = Self(Duration::from_millis(50));
    /// The longest TTL.
    pub const MAX: Self = Self(Duration::from_secs(7 * 24 * 3600));

    /// Checks a duration and makes it a TTL.
    ///
    /// # Errors
    /// [`TtlError`] when it is shorter than [`Ttl::MIN`] or longer than [`Ttl::MAX`].
    pub fn new(duration: Duration) -> Result<Self, TtlError> {
        if (Self::MIN.0..=Self::MAX.0).contains(&duration) {
            Ok(Self(duration))
        } else {
            Err(TtlError { given: duration })
        }
    }

    /// The TTL as a duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl Default for Ttl {
    fn default() -> Self {
        Self(Duration::from_secs(30))
    }
}

impl TryFrom<Duration> for Ttl {
    type Error = TtlError;

    fn try_from(duration: Duration) -> Result<Self, TtlError> {
        Self::new(duration)
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A duration that cannot be a TTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a TTL is between 50 ms and 7 days, not {given:?}: choose how long the key may stay taken after a crash"
)]
pub struct TtlError {
    given: Duration,
}

impl TtlError {
    /// The duration that was given.
    #[must_use]
    pub fn given(&self) -> Duration {
        self.given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c021_a_ttl_outside_its_bounds_is_refused() {
        for bad in [Duration::ZERO, Duration::from_millis(49), Duration::from_secs(604_801), Duration::MAX] {
            assert_eq!(Ttl::new(bad), Err(TtlError { given: bad }));
        }
        for good in [Ttl::MIN.0, Duration::from_secs(30), Ttl::MAX.0] {
            assert_eq!(Ttl::new(good).map(Ttl::duration), Ok(good));
        }
    }
}
