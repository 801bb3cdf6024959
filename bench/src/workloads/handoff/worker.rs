//! The child's side: some workers of one process, which note when they asked, had and released.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::anchors::Flock;
use crate::clock::{cpu, now, sleep, sleep_until};
use crate::loops::one_thread;
use crate::referee::Held;
use crate::scratch::{flock_in, local_in};

const KEY: &str = "orders/42";
/// A worker ends early when it has noted as many holds.
const NOTES_MAX: usize = 200_000;

/// What is contended for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Flock,
    Tenure,
    Blocking,
}

/// What a worker's process is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Orders {
    pub(crate) kind: Kind,
    pub(crate) directory: PathBuf,
    pub(crate) notes: PathBuf,
    /// The number of its first worker, and how many it has.
    pub(crate) first: u64,
    pub(crate) workers: u64,
    pub(crate) hold: Duration,
    pub(crate) away: Duration,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Flock => "flock",
            Self::Tenure => "tenure",
            Self::Blocking => "blocking",
        }
    }
}

impl Orders {
    /// What [`Orders::from_args`] reads.
    pub(crate) fn as_args(&self) -> Vec<String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut args = vec!["worker".to_owned(), self.kind.word().to_owned()];
        args.extend([path(&self.directory), path(&self.notes)]);
        let (hold, away) = (crate::clock::span(self.hold), crate::clock::span(self.away));
        args.extend([self.first, self.workers, hold, away, self.start, self.end].map(|n| n.to_string()));
        args
    }

    /// The orders in the arguments after `worker`.
    pub(crate) fn from_args(args: &[String]) -> Result<Self> {
        let [kind, directory, notes, numbers @ ..] = args else { bail!("a worker without orders") };
        let kind = [Kind::Flock, Kind::Tenure, Kind::Blocking].into_iter().find(|k| k.word() == kind);
        let numbers: Vec<u64> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
        let [first, workers, hold, away, start, end] = numbers[..] else {
            bail!("a worker with other orders")
        };
        Ok(Self {
            kind: kind.context("a worker of another kind")?,
            directory: directory.into(),
            notes: notes.into(),
            first,
            workers,
            hold: Duration::from_nanos(hold),
            away: Duration::from_nanos(away),
            start,
            end,
        })
    }
}

/// Does what a worker's process is told; prints the processor time that it took, in microseconds.
pub(crate) fn work(orders: &Orders) -> Result<()> {
    let shared = Arc::new(orders.clone());
    let workers = thread::spawn(move || match shared.kind {
        Kind::Flock => on_threads(
            &shared,
            || Flock::open(&flock_in(&shared.directory)),
            Flock::take,
            |flock, ()| flock.give(),
        ),
        Kind::Tenure => on_tasks(&shared),
        Kind::Blocking => {
            let tenure = tenure::blocking::Tenure::from(tenure::Tenure::new(local_in(&shared.directory)?));
            let release = |_: &_, guard: tenure::blocking::Guard| Ok(guard.release().map(drop)?);
            on_threads(&shared, || Ok(tenure.lock(KEY)), |lock| Ok(lock.acquire()?), release)
        }
    });
    sleep_until(orders.start);
    let before = cpu();
    sleep_until(orders.end);
    let used = cpu() - before;
    let holds = match workers.join() {
        Ok(holds) => holds?,
        Err(_) => bail!("a worker panicked"),
    };
    std::fs::write(&orders.notes, Held::write_all(&holds))?;
    println!("{}", used.as_micros());
    Ok(())
}

/// The workers of one process as tasks on one thread.
fn on_tasks(orders: &Arc<Orders>) -> Result<Vec<Held>> {
    let tenure = tenure::Tenure::new(local_in(&orders.directory)?);
    sleep_until(orders.start);
    one_thread()?.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for worker in orders.first..orders.first + orders.workers {
            let (orders, lock) = (Arc::clone(orders), tenure.lock(KEY));
            tasks.spawn(async move {
                let mut holds = Vec::new();
                while now() < orders.end && holds.len() < NOTES_MAX {
                    let asked = now();
                    let guard = lock.acquire().await?;
                    let had = now();
                    if !orders.hold.is_zero() {
                        tokio::time::sleep(orders.hold).await;
                    }
                    let released = now();
                    guard.release().await?;
                    holds.push(Held { worker, asked, had, released });
                    if !orders.away.is_zero() {
                        tokio::time::sleep(orders.away).await;
                    }
                }
                anyhow::Ok(holds)
            });
        }
        let mut holds = Vec::new();
        while let Some(task) = tasks.join_next().await {
            holds.extend(task??);
        }
        Ok(holds)
    })
}

/// The workers of one process as threads.
fn on_threads<L: Send, G>(
    orders: &Orders,
    mut open: impl FnMut() -> Result<L>,
    take: impl Fn(&L) -> Result<G> + Sync,
    give: impl Fn(&L, G) -> Result<()> + Sync,
) -> Result<Vec<Held>> {
    let work = |worker, lock: L| {
        sleep_until(orders.start);
        let mut holds = Vec::new();
        while now() < orders.end && holds.len() < NOTES_MAX {
            let asked = now();
            let guard = take(&lock)?;
            let had = now();
            if !orders.hold.is_zero() {
                sleep(orders.hold);
            }
            let released = now();
            give(&lock, guard)?;
            holds.push(Held { worker, asked, had, released });
            if !orders.away.is_zero() {
                sleep(orders.away);
            }
        }
        anyhow::Ok(holds)
    };
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for worker in orders.first..orders.first + orders.workers {
            let lock = open()?;
            threads.push(scope.spawn(move || work(worker, lock)));
        }
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

/// The parent, which holds while the workers wait.
pub(super) enum Holder {
    Flock(Flock),
    Tenure(tenure::blocking::Guard),
}

impl Holder {
    pub(super) fn take(kind: Kind, directory: &Path) -> Result<Self> {
        if kind == Kind::Flock {
            let flock = Flock::open(&flock_in(directory))?;
            flock.take()?;
            return Ok(Self::Flock(flock));
        }
        let tenure = tenure::blocking::Tenure::from(tenure::Tenure::new(local_in(directory)?));
        Ok(Self::Tenure(tenure.lock(KEY).acquire()?))
    }

    pub(super) fn give(self) -> Result<()> {
        match self {
            Self::Flock(flock) => flock.give(),
            Self::Tenure(guard) => Ok(guard.release().map(drop)?),
        }
    }
}

impl Held {
    const LEN: usize = 32;

    fn write_all(holds: &[Self]) -> Vec<u8> {
        let words = holds.iter().flat_map(|held| [held.worker, held.asked, held.had, held.released]);
        words.flat_map(u64::to_le_bytes).collect()
    }

    pub(super) fn read_all(bytes: &[u8]) -> impl Iterator<Item = Self> {
        bytes.chunks_exact(Self::LEN).map(|chunk| {
            let mut words =
                chunk.chunks_exact(8).map(|word| word.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)));
            let mut next = || words.next().unwrap_or(0);
            Self { worker: next(), asked: next(), had: next(), released: next() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_reads_the_orders_and_notes_that_another_wrote() {
        let orders = Orders {
            kind: Kind::Tenure,
            directory: "/d".into(),
            notes: "/n".into(),
            first: 2,
            workers: 3,
            hold: Duration::from_nanos(4),
            away: Duration::from_nanos(5),
            start: 6,
            end: 7,
        };
        assert_eq!(Orders::from_args(&orders.as_args()[1..]).unwrap(), orders);
        let holds = [Held { worker: 1, asked: 2, had: 3 << 40, released: u64::MAX }];
        assert_eq!(Held::read_all(&Held::write_all(&holds)).collect::<Vec<_>>(), holds);
    }
}
