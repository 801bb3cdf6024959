//! The child's side: some workers of one process, which note when they asked, had and released.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;

use super::Orders;
use crate::clock::{now, sleep, sleep_until, span};
use crate::engines::{Client, Work, entrant};
use crate::locks::{Lock, Lost};
use crate::loops::{one_thread, two_threads};
use crate::referee::Held;

/// A worker ends early when it has noted as many holds.
const NOTES_MAX: usize = 400_000;

/// A term that a busy machine may take for an answer.
const SHORT_TERM: Duration = Duration::from_secs(1);

/// What the workers of a process have noted.
pub(crate) type Worked = Vec<Held>;

/// Does what a worker's process is told: engine, entrant and orders.
pub(crate) fn hire(args: &[String]) -> Result<()> {
    let [engine, name, orders @ ..] = args else { bail!("a worker without orders") };
    let orders = Orders::from_args(orders)?;
    let entrant = entrant(engine, name).with_context(|| format!("nobody is called {name} on {engine}"))?;
    let (Work::Here(work) | Work::RoundTrip(work)) = entrant.work else {
        bail!("{name} is a program of its own");
    };
    let holds = work(&orders)?;
    std::fs::write(&orders.notes, Held::write_all(&holds))?;
    Ok(())
}

/// Until when a process works.
#[derive(Clone, Copy)]
pub(crate) struct Beat {
    end: u64,
}

impl Beat {
    /// Says that this process is ready, and waits until it is time to begin.
    pub(crate) fn ready() -> Result<Self> {
        println!("ready");
        std::io::stdout().flush()?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        let times: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [start, end] = times[..] else { bail!("told to work {line:?}") };
        sleep_until(start);
        Ok(Self { end })
    }

    pub(crate) fn is_over(self) -> bool {
        now() >= self.end
    }

    /// What is left of a time before the end.
    fn cut(self, time: Duration) -> Duration {
        time.min(Duration::from_nanos(self.end.saturating_sub(now())))
    }

    /// How long after the start a worker begins.
    fn late(orders: &Orders, worker: u64) -> Duration {
        orders.spread.mul_f64((worker - orders.first) as f64 / orders.workers as f64)
    }
}

/// The workers of one process as tasks on one thread.
pub(crate) fn tasks<C: Client>(orders: &Orders) -> Result<Worked> {
    tasks_on::<C>(&one_thread()?, orders)
}

/// The same on a runtime with two threads.
pub(crate) fn tasks_on_two_threads<C: Client>(orders: &Orders) -> Result<Worked> {
    tasks_on::<C>(&two_threads()?, orders)
}

fn tasks_on<C: Client>(runtime: &Runtime, orders: &Orders) -> Result<Worked> {
    runtime.block_on(async {
        let client = C::open(&orders.at).await?;
        // Connections, scripts and the like are there before the clock runs.
        let warm = client.lock(&format!("{}/warm/{}", orders.key, orders.first), orders.ttl);
        unlock(&warm, warm.lock().await?).await?;
        let beat = Beat::ready()?;
        let orders = Arc::new(orders.clone());
        let mut tasks = tokio::task::JoinSet::new();
        for worker in orders.each() {
            let lock = client.lock(&orders.key_of(worker), orders.ttl);
            tasks.spawn(task(lock, worker, beat, Arc::clone(&orders)));
        }
        let mut holds = Vec::new();
        while let Some(task) = tasks.join_next().await {
            holds.extend(task??);
        }
        Ok(holds)
    })
}

async fn unlock<L: Lock>(_: &L, guard: L::Guard) -> Result<()> {
    L::unlock(guard).await
}

async fn task<L: Lock>(lock: L, worker: u64, beat: Beat, orders: Arc<Orders>) -> Result<Worked> {
    let rest = async |time: Duration| {
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
    };
    rest(Beat::late(&orders, worker)).await;
    let mut holds = Vec::new();
    while !beat.is_over() && holds.len() < NOTES_MAX {
        let asked = now();
        let guard = match lock.lock().await {
            // A short term may be over before its answer is there; without one, nobody would answer.
            Err(error) if error.is::<Lost>() && orders.ttl < SHORT_TERM => {
                holds.push(Held::lost(worker, asked, asked));
                continue;
            }
            other => other?,
        };
        let had = now();
        rest(beat.cut(orders.hold)).await;
        let released = now();
        holds.push(match L::unlock(guard).await {
            Err(error) if error.is::<Lost>() => Held::lost(worker, asked, had),
            other => other.map(|()| Held { worker, asked, had, released })?,
        });
        rest(beat.cut(orders.away)).await;
    }
    Ok(holds)
}

/// The workers of one process as threads.
pub(crate) fn threads<L: Send, G>(
    orders: &Orders,
    open: impl Fn(&str, Duration) -> Result<L>,
    take: impl Fn(&L) -> Result<G> + Sync,
    give: impl Fn(&L, G) -> Result<()> + Sync,
) -> Result<Worked> {
    let work = |worker, lock: L, beat: Beat| {
        sleep(Beat::late(orders, worker));
        let mut holds = Vec::new();
        while !beat.is_over() && holds.len() < NOTES_MAX {
            let asked = now();
            let guard = take(&lock)?;
            let had = now();
            if span(orders.hold) > 0 {
                sleep(beat.cut(orders.hold));
            }
            let released = now();
            give(&lock, guard)?;
            holds.push(Held { worker, asked, had, released });
            if span(orders.away) > 0 {
                sleep(beat.cut(orders.away));
            }
        }
        anyhow::Ok(holds)
    };
    let opened = orders.each().map(|worker| anyhow::Ok((worker, open(&orders.key_of(worker), orders.ttl)?)));
    let opened: Vec<_> = opened.collect::<Result<_>>()?;
    let beat = Beat::ready()?;
    let work = &work;
    thread::scope(|scope| {
        let threads = opened.into_iter().map(|(worker, lock)| scope.spawn(move || work(worker, lock, beat)));
        let threads: Vec<_> = threads.collect();
        let mut holds = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(noted) => holds.extend(noted?),
                Err(_) => bail!("a worker panicked"),
            }
        }
        Ok(holds)
    })
}
