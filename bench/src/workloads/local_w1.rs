//! One task that takes and gives one key of a directory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::anchors::{Flock, FlockOpened};
use crate::harness::{Contest, Contestant, Plan};
use crate::locks::Verbs;
use crate::loops::{alone, one_thread};
use crate::report::{Report, Target};
use crate::scratch::Scratch;

const ANCHOR: &str = "flock(2)";
const KEY: &str = "orders/42";

pub(crate) fn run(plan: &Plan) -> Result<Vec<Report>> {
    let scratch = Scratch::new()?;
    let runtime = one_thread()?;
    let flock = Arc::new(Flock::open(&scratch.flock())?);
    let opened = FlockOpened(scratch.flock());
    let verbs = Verbs::new(scratch.local()?, KEY)?;
    let tenure = tenure::Tenure::new(scratch.local()?);
    let lock = tenure.lock(KEY);
    let blocking = tenure::blocking::Tenure::from(tenure.clone()).lock(KEY);
    let contestants = vec![
        Contestant::new(ANCHOR, None, |slice| runtime.block_on(alone(&flock, slice))),
        Contestant::new("flock(2), opened each time", ANCHOR, |slice| {
            runtime.block_on(alone(&opened, slice))
        }),
        Contestant::new("the engine's verbs", ANCHOR, |slice| runtime.block_on(alone(&verbs, slice))),
        Contestant::new("tenure", ANCHOR, |slice| runtime.block_on(alone(&lock, slice))),
        Contestant::new("tenure::blocking", ANCHOR, |slice| runtime.block_on(alone(&blocking, slice))),
    ];
    let targets =
        vec![Target::at_least("tenure", "ratio", 0.1), Target::at_least("tenure::blocking", "ratio", 0.1)];
    let (rounds, slice) = plan.choose((5, 120), (9, 300));
    let slice = Duration::from_millis(slice);
    let contest = Contest {
        workload: "local-w1".to_owned(),
        rounds,
        slice,
        compared: "cycles/s",
        contestants,
        targets,
    };
    Ok(vec![Report { engine: "local", ..contest.run()? }])
}
