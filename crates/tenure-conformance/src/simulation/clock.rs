//! A clock on simulated time, with a rate of its own and a machine that can be suspended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tenure_core::lease::{Clock, Moment};
use tokio::time::Instant;

/// Where simulated time begins, in microseconds since 1970: in 2020.
const EPOCH_MICROS: u64 = 1_577_836_800_000_000;

/// A clock on tokio's time, which a test has paused.
#[derive(Debug)]
pub struct SimClock {
    origin: Instant,
    rate_ppm: i32,
    suspended_micros: AtomicU64,
}

impl SimClock {
    /// A clock that gains `rate_ppm` microseconds a second.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new(rate_ppm: i32) -> Self {
        Self { origin: Instant::now(), rate_ppm, suspended_micros: AtomicU64::new(0) }
    }

    /// Lets boot time jump, as if the machine had been suspended for so long.
    pub fn suspend(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.suspended_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn elapsed(&self) -> Duration {
        let nanos = i128::try_from(self.origin.elapsed().as_nanos()).unwrap_or(i128::MAX);
        let skewed = nanos + nanos * i128::from(self.rate_ppm) / 1_000_000;
        Duration::from_nanos(u64::try_from(skewed).unwrap_or(0))
    }
}

impl Clock for SimClock {
    fn now(&self) -> Moment {
        let monotonic = self.elapsed();
        let suspended = Duration::from_micros(self.suspended_micros.load(Ordering::Relaxed));
        Moment::new(monotonic, monotonic + suspended)
    }

    fn wall_micros(&self) -> u64 {
        EPOCH_MICROS + u64::try_from(self.elapsed().as_micros()).unwrap_or(0)
    }
}
