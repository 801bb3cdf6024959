//! The arithmetic of leases, and the only place that touches time.
//!
//! A lease is a promise of the engine that nobody else is granted before it ends. The engine starts counting when it
//! handles the request, which is after we sent it; so counting from *before* the send can only err on the safe side.
//! Counting from the reply, as many peers do, lets two holders in whenever a reply is slow.
//!
//! # Invariants
//! 1. `until = sent + granted - margin`, for a request that was sent at or after `sent`.
//! 2. A lease is judged on two clocks: monotonic, and boot time, which also counts a suspended machine. It is over as
//!    soon as either says so.
//! 3. `until` only moves forward.
//! 4. Nothing outside this file does arithmetic on moments.

use std::fmt;
use std::time::Duration;

/// A reading of both clocks, each counted from some fixed point in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    monotonic: Duration,
    boot: Duration,
}

impl Moment {
    /// A moment from its two readings. Only clocks make moments.
    #[must_use]
    pub fn new(monotonic: Duration, boot: Duration) -> Self {
        Self { monotonic, boot }
    }

    /// This moment, `later` later on both clocks.
    #[must_use]
    pub fn after(self, later: Duration) -> Self {
        Self { monotonic: self.monotonic.saturating_add(later), boot: self.boot.saturating_add(later) }
    }

    /// How long from this moment until `later`, on the clock that is worse for us; zero when it has come.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        let monotonic = later.monotonic.saturating_sub(self.monotonic);
        let boot = later.boot.saturating_sub(self.boot);
        monotonic.min(boot)
    }

    /// How long since `earlier`, on the clock that shows more.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let monotonic = self.monotonic.saturating_sub(earlier.monotonic);
        let boot = self.boot.saturating_sub(earlier.boot);
        monotonic.max(boot)
    }

    /// Whether `deadline` has come on either clock.
    #[must_use]
    pub fn reached(self, deadline: Self) -> bool {
        self.until(deadline).is_zero()
    }

    /// When to do again what was done at this moment and is to be done each `every`, so that many do it together: on a
    /// grid with a point each `every`, of which the first lies at `phase` of it. Never later than `every` from now, and
    /// never earlier than half of it.
    pub(crate) fn again_together(self, every: Duration, phase: f64) -> Self {
        let latest = self.after(every);
        let at = latest.on_grid(every, phase);
        // Too soon to be worth it: half a point later, from where the next one is on the grid.
        if self.until(at) < every / 2 { latest.on_grid(every / 2, phase * 2.0) } else { at }
    }

    /// The last moment that is not after this one, of a grid with a point each `step`, of which the first lies at
    /// `phase` of a step.
    fn on_grid(self, step: Duration, phase: f64) -> Self {
        let shift = step.mul_f64(1.0 - phase.fract());
        let past = self.monotonic.saturating_add(shift).as_nanos().checked_rem(step.as_nanos());
        // Less than a step, which is a duration.
        let past = Duration::from_nanos(past.and_then(|past| u64::try_from(past).ok()).unwrap_or(0));
        Self { monotonic: self.monotonic.saturating_sub(past), boot: self.boot.saturating_sub(past) }
    }

    /// The earlier of two moments, clock by clock.
    #[must_use]
    pub fn earliest(self, other: Self) -> Self {
        Self { monotonic: self.monotonic.min(other.monotonic), boot: self.boot.min(other.boot) }
    }

    /// The reading of the monotonic clock.
    #[must_use]
    pub fn monotonic(self) -> Duration {
        self.monotonic
    }

    /// The reading of the boot clock in microseconds; processes of one machine share it.
    #[must_use]
    pub fn boot_micros(self) -> u64 {
        u64::try_from(self.boot.as_micros()).unwrap_or(u64::MAX)
    }
}

/// Where time is read. The system's in production, a simulated one in tests.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Both clocks, now. Never goes back.
    fn now(&self) -> Moment;

    /// Wall time in microseconds since 1970: the clock of engines that live in this process or on this machine, and
    /// of nothing else. May step either way.
    fn wall_micros(&self) -> u64;
}

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        let read = |id| duration(rustix::time::clock_gettime(id));
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let boot = read(rustix::time::ClockId::Boottime);
        // Elsewhere the monotonic clock is all there is; where it stands still during a suspend, so do we.
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let boot = read(rustix::time::ClockId::Monotonic);
        Moment { monotonic: read(rustix::time::ClockId::Monotonic), boot }
    }

    fn wall_micros(&self) -> u64 {
        let now = duration(rustix::time::clock_gettime(rustix::time::ClockId::Realtime));
        u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
    }
}

/// A kernel time as a duration; a clock set before its epoch reads as zero.
fn duration(time: rustix::time::Timespec) -> Duration {
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0).min(999_999_999);
    Duration::new(secs, nanos)
}

/// One answered grant or renewal: when its request was sent, and for how long the engine granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    sent: Moment,
    granted: Duration,
}

impl Lease {
    /// The lease that a positive answer gives to a request sent at or after `sent`.
    #[must_use]
    pub fn new(sent: Moment, granted: Duration) -> Self {
        Self { sent, granted }
    }

    /// When we must stop acting on it.
    #[must_use]
    pub fn until(self) -> Moment {
        self.sent.after(self.granted.saturating_sub(margin(self.granted)))
    }

    /// When to renew it: after a third, so that two more attempts fit before it ends.
    #[must_use]
    pub fn renew_at(self) -> Moment {
        self.sent.after(self.granted / 3)
    }

    /// When to renew it together with others of the same length: between a sixth and a third after it was sent.
    pub(crate) fn renew_together_at(self, phase: f64) -> Moment {
        self.sent.again_together(self.granted / 3, phase)
    }

    /// When silence becomes a worry: two thirds without an answer.
    #[must_use]
    pub fn suspect_at(self) -> Moment {
        self.sent.after(self.granted / 3 * 2)
    }

    /// How long to wait after a failed renewal before the next, without jitter.
    #[must_use]
    pub fn retry_delay(self) -> Duration {
        (self.granted / 12).max(Duration::from_millis(1))
    }

    /// Whether too little of it is left to be worth having: less than a quarter at the time of the answer.
    #[must_use]
    pub fn is_late(self, now: Moment) -> bool {
        now.until(self.until()) < self.granted / 4
    }

    /// The lease that lasts longer; a renewal never shortens what the engine has already promised.
    #[must_use]
    pub fn or_longer(self, other: Self) -> Self {
        if self.until().until(other.until()).is_zero() { self } else { other }
    }
}

/// What is taken off each lease for clocks whose rates differ (1 %; crystals differ by 0.02 %, a slewed clock by
/// 0.05 %) and for coarse timers (2 ms).
fn margin(granted: Duration) -> Duration {
    granted / 100 + Duration::from_millis(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Moment {
        Moment::new(Duration::from_millis(ms), Duration::from_millis(ms))
    }

    #[test]
    fn c002_validity_counts_from_the_send() {
        let lease = Lease::new(at(1_000), Duration::from_secs(10));
        assert_eq!(lease.until(), at(1_000 + 10_000 - 102));
        assert_eq!(Lease::new(at(1_000), Duration::from_secs(9)).renew_at(), at(4_000));
    }

    #[test]
    fn c016_a_suspended_machine_ends_a_lease() {
        let lease = Lease::new(at(0), Duration::from_secs(30));
        let suspended = Moment::new(Duration::from_secs(1), Duration::from_secs(101));
        assert!(!at(1_000).reached(lease.until()));
        assert!(suspended.reached(lease.until()));
        assert_eq!(suspended.until(lease.until()), Duration::ZERO);
    }

    #[test]
    fn the_system_clocks_move_forward_and_the_wall_is_past_2020() {
        let clock = SystemClock;
        let first = clock.now();
        assert!(clock.now().since(first) < Duration::from_secs(60));
        assert!(clock.wall_micros() > 1_577_836_800_000_000);
    }

    proptest! {
        #[test]
        fn c020_a_holder_whose_clock_runs_one_percent_slow_still_loses_first(
            sent in 0u64..1_000_000, granted_ms in 50u64..604_800_000, slow in 0u64..100,
        ) {
            // The engine counts `granted` from a moment not before `sent`; ours runs up to 1 % slower than its clock.
            let lease = Lease::new(at(sent), Duration::from_millis(granted_ms));
            let ours = at(sent).until(lease.until());
            let theirs = ours.saturating_add(ours * u32::try_from(slow).unwrap() / 10_000);
            prop_assert!(theirs < Duration::from_millis(granted_ms));
        }

        #[test]
        fn a_lease_is_renewed_before_it_is_suspect_and_suspect_before_it_ends(granted_ms in 50u64..604_800_000) {
            let lease = Lease::new(at(0), Duration::from_millis(granted_ms));
            prop_assert!(!lease.renew_at().reached(lease.suspect_at()));
            prop_assert!(!lease.suspect_at().reached(lease.until()));
        }

        #[test]
        fn what_is_renewed_together_is_renewed_between_a_sixth_and_a_third(
            sent in 0u64..1_000_000_000, granted_ms in 50u64..604_800_000, phase in 0.0f64..1.0,
        ) {
            let (granted, slack) = (Duration::from_millis(granted_ms), Duration::from_micros(1));
            let mut lease = Lease::new(at(sent), granted);
            let mut before = Vec::new();
            for _ in 0..4 {
                let together = lease.renew_together_at(phase);
                prop_assert!(lease.renew_at().reached(together));
                prop_assert!(together.after(slack).reached(lease.sent.after(granted / 6)));
                before.push(together);
                // Sent a little later than planned, as always.
                lease = Lease::new(together.after(granted / 100), granted);
            }
            // After the first ones, each comes a whole third after the one before.
            prop_assert!(before[2].until(before[3]) + slack > granted / 3);
        }

        #[test]
        fn until_only_moves_forward(a in 0u64..1_000, b in 0u64..1_000, x in 50u64..9_000, y in 50u64..9_000) {
            let (one, two) = (Lease::new(at(a), Duration::from_millis(x)), Lease::new(at(b), Duration::from_millis(y)));
            let longer = one.or_longer(two);
            prop_assert!(longer.until().reached(one.until()) && longer.until().reached(two.until()));
        }
    }
}
