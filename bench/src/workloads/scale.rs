//! What a crowd costs: hand-offs against the number of waiters, renewal against the number of holds, memory of each.

use std::time::Duration;

use anyhow::Result;

use super::race::{QUIET, Stage, TTL, hold, passed_over_by_nobody, wait};
use crate::crew::{Holds, Scenario};
use crate::engines::{SCALE_HELD, STRICT, TENURE};
use crate::report::Target;

const MS: Duration = Duration::from_millis(1);
const PROCESSES: u64 = 4;

/// As many waiters on one key, and as many holds of one process, and as many waiters in one process.
pub(crate) const WAITERS: [(u64, &str); 4] = [
    (2, "scale, 2 waiters"),
    (10, "scale, 10 waiters"),
    (100, "scale, 100 waiters"),
    (1000, "scale, 1000 waiters"),
];
pub(crate) const HOLDS: [(u64, &str); 4] = [
    (1, "scale, 1 held"),
    (100, "scale, 100 held"),
    (1000, "scale, 1000 held"),
    (10_000, "scale, 10000 held"),
];
pub(crate) const CROWD: (u64, &str) = (10_000, "scale, 10000 waiting in one process");

pub(crate) fn run(stage: &mut Stage<'_>) -> Result<()> {
    for (workers, part) in WAITERS {
        // Two cannot be in four processes, and ten not evenly.
        let processes = if workers < 10 * PROCESSES { 2 } else { PROCESSES };
        let scenario = Scenario { workers, processes, ..QUIET };
        let targets = vec![
            Target::at_most(STRICT, "commands/cycle", 2.1),
            Target::at_most(STRICT, "wakes/cycle", 1.05),
            Target::at_least(STRICT, "Jain of best", 0.99),
            Target::at_most(STRICT, "longest wait ms", 3.0).times_own("median wait ms"),
            passed_over_by_nobody(workers),
        ];
        stage.race(part, scenario, "handoffs/s", 1000 * MS, targets, Holds::contended)?;
    }
    for (workers, part) in HOLDS {
        // A command for each hundred holds and one for the rest, some more than every third of a TTL.
        let commands = (workers as f64 / 100.0).ceil() + 1.0;
        let most = (commands * 3.2 / TTL.as_secs_f64() * 100.0).round() / 100.0;
        let targets =
            vec![Target::at_most(TENURE, "commands/s", most), Target::at_most(TENURE, "KiB/hold", 2.0)];
        stage.idle(SCALE_HELD, part, TTL / 3, targets, |stage, entrant, slice| {
            hold(stage, entrant, slice, workers)
        })?;
    }
    let (workers, part) = CROWD;
    let targets =
        vec![Target::at_most(TENURE, "commands/s", 1.5), Target::at_most(TENURE, "KiB/waiter", 2.0)];
    stage.idle(SCALE_HELD, part, 2000 * MS, targets, |stage, entrant, slice| {
        wait(stage, entrant, slice, workers, 1)
    })
}

/// Holds of half a second with a TTL that is much shorter, or much longer, while others keep the processors busy.
pub(crate) fn ttl(stage: &mut Stage<'_>) -> Result<()> {
    for (ttl, part) in [(50 * MS, "ttl, 50 ms"), (60_000 * MS, "ttl, 60 s")] {
        let scenario = Scenario {
            workers: 32,
            processes: 2,
            own_keys: true,
            hold: 500 * MS,
            ttl,
            may_lose: true,
            ..QUIET
        };
        // A short term outlasts no machine that stands still: it is beside what any renewal survives.
        let long = ttl > 1000 * MS;
        let targets = if long { vec![Target::at_most(TENURE, "lost of 1000", 0.0)] } else { Vec::new() };
        stage.beside_load(part, scenario, 2000 * MS, targets)?;
    }
    Ok(())
}
