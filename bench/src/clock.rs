//! The one clock of the bench: the monotonic one, which all processes of a machine share.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds since some fixed point, the same for every process.
pub(crate) fn now() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// How many microseconds of processor time all threads of a process have used; none when the kernel does not say.
pub(crate) fn cpu_of(pid: u32) -> Option<f64> {
    let mut nanos = 0.0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end while we look.
        let Ok(text) = std::fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
        nanos += text.split(' ').next()?.parse::<f64>().ok()?;
    }
    Some(nanos / 1e3)
}

/// Sleeps on this thread: the work of a worker that holds, or is away.
pub(crate) fn sleep(time: Duration) {
    // Both fit: a bench sleeps for seconds at most.
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    // A signal may cut it short; nobody depends on the exact length.
    let _ = rustix::thread::nanosleep(&time);
}

/// Sleeps until [`now`] is `at`.
pub(crate) fn sleep_until(at: u64) {
    sleep(Duration::from_nanos(at.saturating_sub(now())));
}

/// A slice of time as nanoseconds of [`now`].
pub(crate) fn span(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn nanos(time: Timespec) -> u64 {
    // Neither is negative on a clock that counts from the boot or from the start of the process.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
