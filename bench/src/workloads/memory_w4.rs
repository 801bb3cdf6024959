//! Many tasks of one process on one key: the handover inside a process.

use std::time::Duration;

use anyhow::Result;
use tenure_core::engine::memory::Memory;
use tokio::runtime::Runtime;

use crate::anchors::{Cohort, Nothing, TokioMutex};
use crate::harness::{Contest, Contestant, Figures, Plan};
use crate::loops::{crowd, one_thread, two_threads};
use crate::report::{Report, Target};
use crate::scratch::{Scratch, counted};

const TASKS: u64 = 64;
const ANCHOR: &str = "cohort";

pub(crate) fn run(plan: &Plan) -> Result<Vec<Report>> {
    Ok(vec![
        on(plan, "memory-w4, one thread", &one_thread()?)?,
        on(plan, "memory-w4, two threads", &two_threads()?)?,
    ])
}

fn on(plan: &Plan, workload: &'static str, runtime: &Runtime) -> Result<Report> {
    let scratch = Scratch::new()?;
    let mutex = TokioMutex::default();
    let (memory, memory_verbs) = counted(Memory::new());
    let (local, local_verbs) = counted(scratch.local()?);
    let tenure = |tenure: &tenure::Tenure, slice, verbs: &crate::counting::Count| -> Result<Figures> {
        let before = verbs.get();
        let mut figures = runtime.block_on(crowd(TASKS, slice, || tenure.lock("orders/42")))?;
        let cycles = figures.pop().map_or(1.0, |(_, cycles)| cycles);
        figures.push(("verbs/cycle", (verbs.get() - before) as f64 / cycles));
        Ok(figures)
    };
    let contestants = vec![
        Contestant::new(ANCHOR, None, |slice| {
            let cohort = Cohort::of(Nothing);
            without_count(runtime.block_on(crowd(TASKS, slice, || cohort.clone())))
        }),
        Contestant::new("tokio::sync::Mutex", ANCHOR, |slice| {
            without_count(runtime.block_on(crowd(TASKS, slice, || TokioMutex::clone(&mutex))))
        }),
        Contestant::new("tenure on memory:", ANCHOR, |slice| tenure(&memory, slice, &memory_verbs)),
        Contestant::new("tenure on local:", ANCHOR, |slice| tenure(&local, slice, &local_verbs)),
    ];
    let targets = ["tenure on memory:", "tenure on local:"].into_iter().flat_map(|contestant| {
        [
            Target::at_least(contestant, "ratio", 0.5),
            Target::at_most(contestant, "pass p50 us", 2.0),
            Target::at_most(contestant, "verbs/cycle", 0.04),
        ]
    });
    let (rounds, slice) = plan.choose((5, 120), (9, 300));
    let targets = targets.collect();
    let slice = Duration::from_millis(slice);
    Contest { workload: workload.to_owned(), rounds, slice, compared: "cycles/s", contestants, targets }.run()
}

fn without_count(figures: Result<Figures>) -> Result<Figures> {
    figures.map(|mut figures| {
        figures.pop();
        figures
    })
}
