//! A user of locks, who does everything that users do: waits, gives up, drops, forgets, overstays.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_core::{Fairness, Guard, Lock, Mode, Outcome, Tenure};
use tokio::time::Instant;

use super::TTL;
use super::freeze::Freezer;
use super::referee::Referee;

/// A worker of one process.
pub(super) struct Worker {
    pub(super) tenure: Tenure,
    pub(super) referee: Arc<Referee>,
    pub(super) freezer: Arc<Freezer>,
    pub(super) dice: StdRng,
}

impl Worker {
    pub(super) fn new(tenure: Tenure, referee: Arc<Referee>, freezer: Arc<Freezer>, seed: u64) -> Self {
        Self { tenure, referee, freezer, dice: StdRng::seed_from_u64(seed) }
    }

    /// Locks and unlocks until the time is over, and then once more, in earnest.
    #[allow(clippy::disallowed_methods, reason = "simulated time is tokio's")]
    pub(super) async fn work(mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.cycle(false).await;
            self.think(2_000).await;
        }
        self.cycle(true).await;
    }

    async fn think(&mut self, ms_max: u64) {
        tokio::time::sleep(Duration::from_millis(self.dice.random_range(0..ms_max))).await;
    }

    async fn cycle(&mut self, earnest: bool) {
        let (name, mode) = match self.dice.random_range(0..6) {
            0..=2 => ("mutex", Mode::Exclusive),
            3 => ("file", Mode::Exclusive),
            4 => ("file", Mode::Shared),
            _ => ("seats", Mode::Permit { limit: NonZeroU32::MIN.saturating_add(1) }),
        };
        let lock = self.lock(name, mode);
        let asked = self.referee.asked(name);
        let Some(guard) = self.acquire(&lock, earnest).await else { return };
        let guard = Arc::new(guard);
        let serial = self.referee.granted(name, mode, &guard, asked);
        self.hold(name, mode, &guard).await;
        self.referee.ended(name, serial);
        if let Some(guard) = Arc::into_inner(guard) {
            self.leave(guard).await;
        }
    }

    fn lock(&mut self, name: &str, mode: Mode) -> Lock {
        let lock = match mode {
            Mode::Exclusive => self.tenure.lock(name),
            Mode::Shared => self.tenure.rw_lock(name).read(),
            Mode::Permit { limit } => self.tenure.semaphore(name, limit.get()).permit(),
        };
        let lock = lock.ttl(TTL);
        let lock = if self.dice.random_bool(0.2) { lock.fairness(Fairness::StrictFifo) } else { lock };
        match self.dice.random_range(0..10) {
            0 => lock.quarantine(Duration::from_secs(2)),
            1 => lock.max_hold(Duration::from_millis(self.dice.random_range(500..9_000))),
            _ => lock,
        }
    }

    /// Acquires in one of the ways there are; an engine that cannot be reached is tried again, in earnest.
    async fn acquire(&mut self, lock: &Lock, earnest: bool) -> Option<Guard> {
        loop {
            let patience = Duration::from_millis(self.dice.random_range(1..8_000));
            let way = if earnest { 9 } else { self.dice.random_range(0..10) };
            let got = match way {
                0 => lock.try_acquire().await.map(Outcome::guard),
                1..=3 => lock.wait_for(patience).await.map(Outcome::guard),
                4 | 5 => {
                    // Somebody who is cancelled.
                    let wait = std::pin::pin!(lock.acquire());
                    let stop = std::pin::pin!(tokio::time::sleep(patience));
                    match select(wait, stop).await {
                        Either::Left((got, _)) => got.map(Some),
                        Either::Right(_) => return None,
                    }
                }
                _ => lock.acquire().await.map(Some),
            };
            match got {
                Ok(got) => return got,
                Err(_) if earnest => self.think(1_000).await,
                Err(_) => return None,
            }
        }
    }

    /// Works under the hold: fences in, reads, thinks, writes; stops when told of the loss, or does not.
    async fn hold(&mut self, name: &str, mode: Mode, guard: &Guard) {
        let read = if mode == Mode::Exclusive { self.referee.enter(name, guard.token()) } else { None };
        let stubborn = self.dice.random_bool(0.2);
        let long = self.dice.random_bool(0.2);
        for _ in 0..(if long { 40 } else { 1 }) {
            let work =
                std::pin::pin!(tokio::time::sleep(Duration::from_millis(self.dice.random_range(0..500))));
            let lost = std::pin::pin!(guard.lost());
            if matches!(select(lost, work).await, Either::Left(_)) {
                break;
            }
            self.referee.judge_signal(guard, &self.freezer);
        }
        if let Some(value) = read
            && (stubborn || guard.check().is_ok())
        {
            self.referee.write(name, guard.token(), value + 1);
        }
    }

    async fn leave(&mut self, guard: Guard) {
        if self.dice.random_bool(0.3) {
            drop(guard);
        } else {
            // Whether it was still ours, and whether the engine could be told, is for the keeper to settle.
            drop(guard.release().await);
        }
    }
}
