//! The engines that are measured, each with those who take part: `tenure`, anchors of our own writing, and peers.
//!
//! # How to add an engine
//! 1. Turn its feature of `tenure` on in `bench/Cargo.toml`, so that `tenure::connect` knows its URL.
//! 2. Write `engines/NAME.rs` (`redis/` is the example) with a [`Site`]: the server, started by `tenure-servers` on a
//!    port of its own, its URL, and what it counts of itself. What it cannot count it leaves out.
//! 3. Write one anchor at least: the least that a lock on this storage can be, by hand, as a [`Client`] (an async
//!    client and its lock) or as a function that runs the workers of a process ([`crate::crew`]).
//! 4. Collect them in a `pub(crate) const ENGINE: Engine`, and add it to [`ALL`]. `tenure` itself is
//!    `Entrant::tenure(EVERYWHERE)`.
//!
//! Try it with `cargo xtask bench w1 --engine NAME --quick`. Nothing else knows which engines there are: the workloads,
//! the tables, the plots and the page are the same for all.

mod etcd;
mod local;
mod mysql;
mod postgres;
mod redis;
mod zookeeper;

pub(crate) use redis::SLOW;

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::crew::{Orders, Worked, tasks};
use crate::locks::Lock;

/// All of them, in the order in which they are measured.
pub(crate) const ALL: &[&Engine] = &[
    &local::ENGINE,
    &redis::ENGINE,
    &SLOW,
    &postgres::ENGINE,
    &mysql::ENGINE,
    &zookeeper::ENGINE,
    &etcd::ENGINE,
];

/// All workloads, for those who can do everything; `w5-held` is the part of w5 for those who renew by themselves.
pub(crate) const EVERYWHERE: &[&str] = &["w1", "w2", "w3", "w4", "w5", HELD];

/// The part of w5 in which holds are renewed.
pub(crate) const HELD: &str = "w5-held";

/// The parts of `scale` for those who can do everything but are not asked for other numbers of waiters.
pub(crate) const SCALE_HELD: &str = "scale-held";

/// Everything, and in numbers from a few to many.
const IN_ALL_NUMBERS: &[&str] = &["w1", "w2", "w3", "w4", "w5", HELD, "scale", SCALE_HELD, "ttl"];

/// Storage that is measured.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    /// Starts its server. An error that names what is not installed makes the engine absent.
    pub(crate) start: fn() -> Result<Box<dyn Site>>,
    pub(crate) entrants: &'static [Entrant],
}

/// Where it matters whether each waiter has a place of its own.
const STRICTLY: &[&str] = &["w3", "w5"];

/// A running server, gone when dropped.
pub(crate) trait Site {
    /// Its URL, as `tenure` is told it.
    fn url(&self) -> String;

    /// Its address, as the others are told it.
    fn address(&self) -> String;

    /// Begins to count; also what it slows down to count, if `closely`.
    fn begin(&mut self, closely: bool) -> Result<()>;

    /// What the server did since then.
    fn end(&mut self) -> Result<Vec<Counter>>;
}

/// Something that a server counts.
pub(crate) struct Counter {
    pub(crate) per_cycle: &'static str,
    pub(crate) per_second: &'static str,
    pub(crate) count: f64,
}

/// Who takes part.
#[derive(Clone, Copy)]
pub(crate) struct Entrant {
    pub(crate) name: &'static str,
    /// What it is, and with which settings, for those who read the figures.
    pub(crate) about: &'static str,
    pub(crate) takes_part_in: &'static [&'static str],
    /// The workloads of which it is the measure.
    pub(crate) anchor_of: &'static [&'static str],
    /// What `tenure` asks of the engine in its URL; empty for the usual one.
    pub(crate) dialect: &'static str,
    pub(crate) work: Work,
}

/// How the workers of one process do what they are ordered.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// This program, started again.
    Here(fn(&Orders) -> Result<Worked>),
    /// A lone round trip of the same server, to compare with: one worker in one process, always.
    RoundTrip(fn(&Orders) -> Result<Worked>),
    /// A program in another language that takes the same orders; none when it cannot be made ready.
    Peer(fn() -> Option<Command>),
}

impl Entrant {
    pub(crate) const fn here(
        name: &'static str,
        about: &'static str,
        takes_part_in: &'static [&'static str],
        work: fn(&Orders) -> Result<Worked>,
    ) -> Self {
        Self { name, about, takes_part_in, anchor_of: &[], dialect: "", work: Work::Here(work) }
    }

    /// A peer in another language, which takes part when peers are asked for.
    pub(crate) const fn peer(
        name: &'static str,
        about: &'static str,
        takes_part_in: &'static [&'static str],
        program: fn() -> Option<Command>,
    ) -> Self {
        Self { name, about, takes_part_in, anchor_of: &[], dialect: "", work: Work::Peer(program) }
    }

    /// `tenure` on this engine, as users have it.
    pub(crate) const fn tenure(takes_part_in: &'static [&'static str]) -> Self {
        let about = "`tenure::connect(url)`, its defaults: order of arrival, fencing tokens, renewal";
        Self::here(TENURE, about, takes_part_in, tasks::<tenure::Tenure>)
    }

    /// The same without handing over inside a process: every waiter has a place of its own in the line.
    pub(crate) const fn strict(takes_part_in: &'static [&'static str]) -> Self {
        let about = "`tenure` with `Fairness::StrictFifo`: each waiter has a place of its own in the line";
        Self::here(STRICT, about, takes_part_in, tasks::<Strict>)
    }

    /// The same with holds that last as long as a session, which a dialect of the URL asks for.
    pub(crate) const fn by_session(
        name: &'static str,
        dialect: &'static str,
        about: &'static str,
        takes_part_in: &'static [&'static str],
    ) -> Self {
        Self { dialect, ..Self::here(name, about, takes_part_in, tasks::<tenure::Tenure>) }
    }

    /// What it is told of its server.
    pub(crate) fn at(&self, site: &dyn Site) -> String {
        match (self.is_tenure(), self.dialect) {
            (false, _) => site.address(),
            (true, "") => site.url(),
            (true, dialect) => {
                let url = site.url();
                let mark = if url.contains('?') { '&' } else { '?' };
                format!("{url}{mark}dialect={dialect}")
            }
        }
    }

    /// Whether it is `tenure`, which is told the URL.
    pub(crate) fn is_tenure(&self) -> bool {
        self.name.starts_with(TENURE)
    }

    /// The same, as the measure of these workloads.
    pub(crate) const fn anchors(mut self, anchor_of: &'static [&'static str]) -> Self {
        self.anchor_of = anchor_of;
        self
    }
}

/// The names under which `tenure` takes part.
pub(crate) const TENURE: &str = "tenure";
pub(crate) const STRICT: &str = "tenure, strict";
pub(crate) const ADVISORY: &str = "tenure, advisory";
pub(crate) const NOT_AWAITED: &str = "tenure, release not awaited";
pub(crate) const ALONE: &str = "tenure, verbs alone";
pub(crate) const ON_TWO: &str = "tenure, two threads";
pub(crate) const ALONE_ON_TWO: &str = "tenure, verbs alone, two threads";

/// An async client of an engine, one for each process, and what it locks with.
pub(crate) trait Client: Sized + Send + 'static {
    type Lock: Lock;

    /// Connects.
    fn open(at: &str) -> impl Future<Output = Result<Self>> + Send;

    /// The lock of a key; a holder that vanishes keeps it for `ttl`.
    fn lock(&self, key: &str, ttl: Duration) -> Self::Lock;
}

impl Client for tenure::Tenure {
    type Lock = tenure::Lock;

    async fn open(at: &str) -> Result<Self> {
        Ok(tenure::connect(at).await?)
    }

    fn lock(&self, key: &str, ttl: Duration) -> tenure::Lock {
        Self::lock(self, key).ttl(ttl)
    }
}

struct Strict(tenure::Tenure);

impl Client for Strict {
    type Lock = tenure::Lock;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(tenure::connect(at).await?))
    }

    fn lock(&self, key: &str, ttl: Duration) -> tenure::Lock {
        Client::lock(&self.0, key, ttl).fairness(tenure::Fairness::StrictFifo)
    }
}

/// The entrant of an engine, by both names.
pub(crate) fn entrant(engine: &str, name: &str) -> Option<&'static Entrant> {
    let engine = ALL.iter().find(|e| e.name == engine)?;
    engine.entrants.iter().find(|entrant| entrant.name == name)
}
