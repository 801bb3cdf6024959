//! Waiting with a limit.

use std::time::{Duration, Instant};

/// How long anything of a server may take before it has failed.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Looks until it is so, and says whether it became so within [`LIMIT`].
pub fn until(mut is_so: impl FnMut() -> bool) -> bool {
    let start = now();
    while !is_so() {
        if start.elapsed() > LIMIT {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    true
}

#[allow(clippy::disallowed_methods, reason = "the patience of tests, not the validity of a hold")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
