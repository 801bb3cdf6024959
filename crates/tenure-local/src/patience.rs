//! Short waits for what no event announces.

use std::time::Duration;

/// Waits a moment that nothing announces: no event tells of an `flock` that was given back. Shorter than a second.
pub(crate) fn pause(moment: Duration) {
    let moment = rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(moment.subsec_nanos()) };
    let _ = rustix::event::poll(&mut [], Some(&moment));
}
