//! Workers in processes of their own: the same orders and the same notes for every entrant, whatever it is written in.
//!
//! A worker's process is started with its orders as arguments, connects, says `ready` on its standard output, and
//! reads from its standard input when to start and when to end, in nanoseconds of the monotonic clock that all
//! processes of a machine share. Then each of its workers takes, holds and gives in a loop. At the end the process
//! writes its notes, 32 bytes for each hold ([`Held`]). Programs under `bench/peers` do exactly the same.

mod parent;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::clock::span;
use crate::referee::Held;

pub(crate) use parent::{Crew, Holds, Scenario};
pub(crate) use worker::{Beat, Worked, hire, tasks, tasks_on_two_threads, threads};

/// What the workers of one process are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Orders {
    /// The server's address.
    pub(crate) at: String,
    /// The key, or what the keys begin with when each worker has its own.
    pub(crate) key: String,
    /// The number of the first worker, and how many there are.
    pub(crate) first: u64,
    pub(crate) workers: u64,
    pub(crate) own_keys: bool,
    /// How long to hold, but not past the end; how long to be away afterwards.
    pub(crate) hold: Duration,
    pub(crate) away: Duration,
    /// Over how long the workers begin, one after the other.
    pub(crate) spread: Duration,
    pub(crate) ttl: Duration,
    /// The file for the notes.
    pub(crate) notes: PathBuf,
}

impl Orders {
    /// As arguments, in the order of the fields; times in nanoseconds, a choice as 0 or 1.
    pub(crate) fn as_args(&self) -> Vec<String> {
        let numbers = [
            self.first,
            self.workers,
            u64::from(self.own_keys),
            span(self.hold),
            span(self.away),
            span(self.spread),
            span(self.ttl),
        ];
        let mut args = vec![self.at.clone(), self.key.clone()];
        args.extend(numbers.map(|n| n.to_string()));
        args.push(self.notes.to_string_lossy().into_owned());
        args
    }

    /// Reads what [`Orders::as_args`] has written.
    fn from_args(args: &[String]) -> Result<Self> {
        let [at, key, numbers @ .., notes] = args else { bail!("a worker without orders") };
        let numbers: Vec<u64> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
        let [first, workers, own_keys, hold, away, spread, ttl] = numbers[..] else {
            bail!("a worker with other orders")
        };
        Ok(Self {
            at: at.clone(),
            key: key.clone(),
            first,
            workers,
            own_keys: own_keys != 0,
            hold: Duration::from_nanos(hold),
            away: Duration::from_nanos(away),
            spread: Duration::from_nanos(spread),
            ttl: Duration::from_nanos(ttl),
            notes: notes.into(),
        })
    }

    /// The key of one worker.
    pub(crate) fn key_of(&self, worker: u64) -> String {
        if self.own_keys { format!("{}/{worker}", self.key) } else { self.key.clone() }
    }

    /// The numbers of the workers.
    pub(crate) fn each(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.workers
    }
}

impl Held {
    const LEN: usize = 32;

    fn write_all(holds: &[Self]) -> Vec<u8> {
        let words = holds.iter().flat_map(|held| [held.worker, held.asked, held.had, held.released]);
        words.flat_map(u64::to_le_bytes).collect()
    }

    fn read_all(bytes: &[u8]) -> impl Iterator<Item = Self> {
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
        let nanos = Duration::from_nanos;
        let orders = Orders {
            at: "redis://h".into(),
            key: "k".into(),
            first: 2,
            workers: 3,
            own_keys: true,
            hold: nanos(4),
            away: nanos(5),
            spread: nanos(6),
            ttl: nanos(7),
            notes: "/n".into(),
        };
        assert_eq!(Orders::from_args(&orders.as_args()).unwrap(), orders);
        let holds = [Held { worker: 1, asked: 2, had: 3 << 40, released: u64::MAX }];
        assert_eq!(Held::read_all(&Held::write_all(&holds)).collect::<Vec<_>>(), holds);
    }
}
