//! A directory: the kernel's own lock beside ours.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::{Counter, Engine, Entrant, Site};
use crate::anchors::Flock;
use crate::crew::{Orders, Worked, threads};
use crate::scratch::Scratch;

pub(crate) const ENGINE: Engine = Engine {
    name: "local",
    start: || Ok(Box::new(Directory(Scratch::new()?))),
    entrants: &[
        Entrant::here("flock(2)", "a descriptor for each worker, each on a thread", &["w3", "scale"], flock)
            .anchors(&["w3", "scale"]),
        Entrant::tenure(&["w3", "scale"]),
        Entrant::here("tenure::blocking", "the same on threads", &["w3"], blocking),
    ],
};

struct Directory(Scratch);

impl Site for Directory {
    fn url(&self) -> String {
        self.address()
    }

    fn address(&self) -> String {
        format!("local://{}", self.0.path().join("locks").display())
    }

    fn begin(&mut self, _: bool) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<Vec<Counter>> {
        // Nobody serves a directory.
        Ok(Vec::new())
    }
}

/// The file that stands for a key.
fn file(at: &str, key: &str) -> PathBuf {
    let directory = Path::new(at.trim_start_matches("local://"));
    directory.with_file_name(key.replace('/', "-"))
}

fn flock(orders: &Orders) -> Result<Worked> {
    let open = |key: &str, _: Duration| Flock::open(&file(&orders.at, key));
    threads(orders, open, Flock::take, |flock, ()| flock.give())
}

fn blocking(orders: &Orders) -> Result<Worked> {
    let tenure = tenure::blocking::connect(&orders.at)?;
    let give = |_: &_, guard: tenure::blocking::Guard| Ok(guard.release().map(drop)?);
    threads(orders, |key, _| Ok(tenure.lock(key)), |lock| Ok(lock.acquire()?), give)
}
