//! One task that takes and gives one key in memory: what the client and its keeper add to an engine that costs little.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tenure_core::engine::memory::Memory;

use crate::anchors::TokioMutex;
use crate::harness::{Contest, Contestant, Plan};
use crate::locks::Verbs;
use crate::loops::{alone, one_thread, two_threads};
use crate::report::Report;

const ANCHOR: &str = "tokio::sync::Mutex";
const KEY: &str = "orders/42";

pub(crate) fn run(plan: &Plan) -> Result<Vec<Report>> {
    let (one, two) = (one_thread()?, two_threads()?);
    let mutex: TokioMutex = Arc::default();
    let verbs = Verbs::new(Memory::new(), KEY)?;
    let tenure = tenure::Tenure::new(Memory::new());
    let lock = tenure.lock(KEY);
    let contestants = vec![
        Contestant::new(ANCHOR, None, |slice| one.block_on(alone(&mutex, slice))),
        Contestant::new("the engine's verbs", ANCHOR, |slice| one.block_on(alone(&verbs, slice))),
        Contestant::new("tenure", ANCHOR, |slice| one.block_on(alone(&lock, slice))),
        Contestant::new("tenure, from a runtime of two threads", ANCHOR, |slice| {
            let lock = lock.clone();
            two.block_on(two.spawn(async move { alone(&lock, slice).await }))?
        }),
    ];
    let (rounds, slice) = plan.choose((5, 120), (9, 300));
    let slice = Duration::from_millis(slice);
    let targets = Vec::new();
    let contest = Contest {
        workload: "memory-w1".to_owned(),
        rounds,
        slice,
        compared: "cycles/s",
        contestants,
        targets,
    };
    Ok(vec![contest.run()?])
}
