//! The loops that all contestants run in, whatever they lock.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::clock::{now, span};
use crate::harness::Figures;
use crate::locks::Lock;
use crate::referee::Referee;
use crate::stats::percentile;

/// How many cycles run between two looks at the clock.
const BATCH: u64 = 64;
/// One pass in as many is timed: reading the clock costs as much as a small part of a pass.
const TIMED_PASS: u64 = 8;

/// A runtime whose tasks all run on the thread that waits for them.
pub(crate) fn one_thread() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// A runtime with two threads of its own.
pub(crate) fn two_threads() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// One task that takes and gives a lock in a loop.
pub(crate) async fn alone(lock: &impl Lock, slice: Duration) -> Result<Figures> {
    let referee = Referee::default();
    let (start, mut cycles) = (now(), 0);
    let time = loop {
        cycles += cycle(lock, &referee, BATCH).await?;
        let time = now() - start;
        if time >= span(slice) {
            break time;
        }
    };
    Ok(vec![("us/cycle", time as f64 / 1e3 / cycles as f64), ("cycles/s", cycles as f64 * 1e9 / time as f64)])
}

/// So many cycles of one task.
pub(crate) async fn cycle(lock: &impl Lock, referee: &Referee, cycles: u64) -> Result<u64> {
    for _ in 0..cycles {
        let guard = lock.lock().await?;
        referee.enter()?;
        referee.leave()?;
        unlock(lock, guard).await?;
    }
    Ok(cycles)
}

async fn unlock<L: Lock>(_: &L, guard: L::Guard) -> Result<()> {
    L::unlock(guard).await
}

/// What the tasks of a crowd have counted.
#[derive(Default)]
struct Tally {
    cycles: u64,
    handoffs: u64,
    passes: Vec<f64>,
}

/// Many tasks that take and give one lock in a loop.
pub(crate) async fn crowd<L: Lock>(
    tasks: u64,
    slice: Duration,
    mut lock: impl FnMut() -> L,
) -> Result<Figures> {
    let referee = Arc::new(Referee::default());
    // Nobody runs before all have asked: on one thread, tasks that never meet would measure nothing.
    let gate = lock();
    let gate_guard = gate.lock().await?;
    let start = now();
    let mut members = JoinSet::new();
    for worker in 1..=tasks {
        members.spawn(member(lock(), worker, start + span(slice), Arc::clone(&referee)));
    }
    tokio::task::yield_now().await;
    unlock(&gate, gate_guard).await?;
    let mut all = Tally::default();
    while let Some(tally) = members.join_next().await {
        let tally = tally??;
        all.cycles += tally.cycles;
        all.handoffs += tally.handoffs;
        all.passes.extend(tally.passes);
    }
    let time = now() - start;
    let rate = |count: u64| count as f64 * 1e9 / time as f64;
    Ok(vec![
        ("cycles/s", rate(all.cycles)),
        ("handoffs/s", rate(all.handoffs)),
        ("pass p50 us", percentile(&mut all.passes, 0.5)),
        ("pass p99 us", percentile(&mut all.passes, 0.99)),
        ("cycles", all.cycles as f64),
    ])
}

/// One of a crowd.
async fn member<L: Lock>(lock: L, worker: u64, end: u64, referee: Arc<Referee>) -> Result<Tally> {
    let mut tally = Tally::default();
    loop {
        let seen = referee.releases();
        let guard = lock.lock().await?;
        referee.enter()?;
        let (last, released_at) = referee.before();
        // To another who was already waiting: a pass. Anything else is a lock taken anew.
        if last != worker && last != 0 && referee.releases() > seen {
            tally.handoffs += 1;
            if released_at != 0 {
                tally.passes.push((now() - released_at) as f64 / 1e3);
            }
        }
        referee.leave()?;
        tally.cycles += 1;
        let timed = tally.cycles % TIMED_PASS == 0;
        let time = if timed { now() } else { 0 };
        referee.let_go(worker, time);
        L::unlock(guard).await?;
        if timed && time >= end {
            return Ok(tally);
        }
    }
}
