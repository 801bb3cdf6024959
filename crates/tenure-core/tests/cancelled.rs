//! Cancelled waits leave nothing. Alone in its program: it counts threads.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use futures_util::FutureExt;
use tenure_core::engine::memory::Memory;
use tenure_core::{Fairness, Tenure};

#[tokio::test]
async fn c028_a_thousand_cancelled_waits_leave_neither_threads_nor_places() {
    let threads = || std::fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.count());
    let tenure = Tenure::new(Memory::new());
    let held = tenure.lock("a").acquire().await.unwrap();
    let before = threads();
    for n in 0..1_000 {
        let lock = tenure.lock("a");
        let lock = if n % 2 == 0 { lock } else { lock.fairness(Fairness::StrictFifo) };
        let wait = std::pin::pin!(lock.acquire());
        assert!(wait.now_or_never().is_none());
    }
    assert_eq!(threads(), before);
    held.release().await.unwrap();
    assert_eq!(tenure.shutdown(Duration::from_secs(20)).await, 0);
    assert_eq!(tenure.inspect("a").await.unwrap().places, vec![]);
}
