//! The history of a run: everything that was said and done, in the order in which the referee heard of it.
//!
//! It is a file of JSON lines: a [`Header`], then records `[micros, {event}]`. It is only appended to, so that what a
//! killed run leaves can be judged as well, and it keeps facts and no verdicts, so that a later judge can judge again.
//!
//! # Invariants
//! 1. The referee stamps every record, by one clock, under one lock: the order of lines is the order of stamps.
//! 2. Moments are microseconds of the boot clock, which all processes of a machine share.
//! 3. A record is written before whoever asked for it is answered.

use std::io::{self, BufRead, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tenure_core::{ClaimId, Mode};

/// The version of the format that this program writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// Microseconds of the referee's clock.
pub type Micros = u64;

/// One life of a worker process: from its start to its end. A worker that is killed and started again is a new life.
pub type Life = u32;

/// One wish of a worker, from asking to the end of the hold.
pub type Op = u64;

/// The first line of a history: under which terms it came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "a file format with a version of its own")]
pub struct Header {
    /// The version of the format.
    pub tenure_history: u32,
    /// The version of the program that wrote it.
    pub program: String,
    /// The engine, as in its URLs.
    pub engine: String,
    /// What the engine said of itself, if it was a server of ours.
    pub server: Option<String>,
    /// What the run was asked to do to it.
    pub nemesis: Vec<String>,
    /// What the dice were thrown with.
    pub seed: u64,
    /// How many workers there were.
    pub workers: u32,
    /// The TTL of all claims.
    pub ttl: Micros,
    /// What the engine promises.
    pub promises: Promises,
    /// The keys, with how they are used.
    pub keys: Vec<KeyPlan>,
}

/// What the checkers have to know of an engine's facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "a file format with a version of its own")]
pub struct Promises {
    /// Whether waiters are granted in the order of arrival.
    pub arrival: bool,
    /// Whether a hold ends by a lease or a session that runs out.
    pub lease: bool,
    /// For how long an offer waits for its waiter.
    pub claim_window: Micros,
    /// How often a waiter looks again.
    pub refresh_every: Micros,
}

/// A key, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "a file format with a version of its own")]
pub struct KeyPlan {
    /// Its name.
    pub name: String,
    /// What it is used as.
    pub kind: KeyKind,
}

/// What a key is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(clippy::exhaustive_enums, reason = "a file format with a version of its own")]
pub enum KeyKind {
    /// A mutex.
    Mutex,
    /// A read/write lock.
    File,
    /// A semaphore of so many permits.
    Seats(u32),
}

/// Something that happened, with its stamp.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "a file format with a version of its own")]
pub struct Record(pub Micros, pub Event);

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums, reason = "a file format with a version of its own")]
#[allow(missing_docs, reason = "the events say what their fields are")]
pub enum Event {
    /// A worker's life begins.
    Born { life: Life, worker: u32 },
    /// Somebody is about to ask for a key.
    Ask(Ask),
    /// A claim has a place in the line.
    Joined { life: Life, claim: ClaimId },
    /// A wish was granted.
    Got(Got),
    /// A wish was not granted: the key was busy, or the patience over.
    Missed { op: Op },
    /// Whoever wished has dropped the wish.
    Quit { op: Op },
    /// The engine could not be asked.
    Failed { op: Op, why: String },
    /// A holder reads without entering: only users who forgo the better part of a fence do that.
    Read { op: Op },
    /// A holder enters the resource, before it reads.
    Enter(Act),
    /// A holder has looked, found that it holds, and is about to write.
    Checked { op: Op },
    /// A holder writes what it made of what it had read.
    Write(Act),
    /// A holder was told that its hold is lost; `told` is when, by its own stamp.
    Lost { op: Op, cause: String, until: Option<Micros>, told: Micros },
    /// A holder acts no more; it gives the hold up after this.
    Leave { op: Op, until: Option<Micros> },
    /// A release was answered, or the guard was dropped.
    Released { op: Op, how: Release },
    /// The engine has answered that a claim is out of the line.
    Withdrawn { life: Life, claim: ClaimId },
    /// Somebody who wanted to run at `from` ran only now: the machine is busy, or the process was stopped.
    Starved { life: Option<Life>, from: Micros },
    /// A fault begins.
    Fault(Fault),
    /// A fault has been made good.
    Healed { fault: u32 },
    /// A worker's life has ended.
    Dead { life: Life },
    /// A look at the line of a key, asked for at `asked`: its claims, which of them hold, and for how much longer.
    Line { key: usize, asked: Micros, places: Vec<(ClaimId, bool, Option<Micros>)> },
    /// No more faults come.
    Calm {},
    /// A life ends although some of its withdrawals were never answered.
    Undone { life: Life, withdrawals: usize },
    /// All workers have ended, and places have had their time to lapse; the keys that are still in use.
    Left { keys: Vec<String> },
}

/// A wish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "a file format with a version of its own")]
pub struct Ask {
    /// The referee's number of it.
    pub op: Op,
    /// Who wishes.
    pub life: Life,
    /// The number of the key.
    pub key: usize,
    /// How it is to be held.
    pub mode: Mode,
    /// Whether the line is joined when the key is busy.
    pub waits: bool,
    /// Whether the wish has a place of its own, not shared with others of its process.
    pub alone: bool,
    /// The longest hold that was asked for.
    pub max_hold: Option<Micros>,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "a file format with a version of its own")]
pub struct Got {
    /// The wish.
    pub op: Op,
    /// The claim that holds.
    pub claim: ClaimId,
    /// Its fencing token.
    pub token: u64,
    /// Which permit it is.
    pub slot: u32,
    /// Until when it holds unless it is renewed.
    pub until: Option<Micros>,
}

/// What a holder does to the resource, and how the resource answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "a file format with a version of its own")]
pub struct Act {
    /// The wish under whose hold it acts.
    pub op: Op,
    /// The token it shows.
    pub token: u64,
    /// Until when it then believes to hold.
    pub until: Option<Micros>,
    /// Whether the resource let it.
    pub accepted: bool,
    /// The fenced value: that which was read, of entering and of writing.
    pub value: u64,
    /// The same of a register that checks no tokens.
    pub plain: u64,
}

/// How a hold was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(clippy::exhaustive_enums, reason = "a file format with a version of its own")]
pub enum Release {
    /// It was ours, and is free.
    Cleanly,
    /// It had been lost before.
    Lost,
    /// The engine could not be told; the keeper goes on.
    Unanswered,
    /// The guard was dropped.
    Dropped,
}

/// Something that was done to workers or servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "a file format with a version of its own")]
pub struct Fault {
    /// Its number.
    pub fault: u32,
    /// What kind of fault it is, as in `--nemesis`.
    pub kind: String,
    /// Whom it hits; everybody, if nobody is named.
    pub life: Option<Life>,
    /// Whether the engine may forget what it has acknowledged.
    pub forgets: bool,
    /// What exactly, for people.
    pub detail: String,
}

/// A whole history.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "it is what a file has, and no more")]
pub struct History {
    /// Its first line.
    pub header: Header,
    /// The rest.
    pub records: Vec<Record>,
}

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A line is no record.
    #[error("line {line} is no record of a history: {why}")]
    Line {
        /// Which, from one.
        line: usize,
        /// Why.
        why: String,
    },
    /// It was written by a program of another time.
    #[error(
        "the history has version {found}, and this program reads version {VERSION}: use the tenure that wrote it"
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// There is nothing in it.
    #[error("the history is empty")]
    Empty,
}

impl History {
    /// Reads a file.
    ///
    /// # Errors
    /// When it is no history of this version. A last line that was cut off in the middle is left out.
    pub fn load(path: &Path) -> Result<Self, HistoryError> {
        let trouble = |source| HistoryError::Io { path: path.display().to_string(), source };
        let file = std::fs::File::open(path).map_err(trouble)?;
        Self::read(io::BufReader::new(file))
    }

    /// Reads lines; see [`History::load`].
    ///
    /// # Errors
    /// As there.
    pub fn read(mut lines: impl BufRead) -> Result<Self, HistoryError> {
        let mut header = None;
        let (mut records, mut text, mut line) = (Vec::new(), String::new(), 0);
        loop {
            text.clear();
            line += 1;
            let wrong = |why: String| HistoryError::Line { line, why };
            if lines.read_line(&mut text).map_err(|error| wrong(error.to_string()))? == 0 {
                break;
            }
            let whole = text.ends_with('\n');
            if header.is_none() {
                header = Some(read_header(&text)?);
                continue;
            }
            match serde_json::from_str(&text) {
                Ok(record) => records.push(record),
                // The writer was killed in the middle of it.
                Err(_) if !whole => break,
                Err(error) => return Err(wrong(error.to_string())),
            }
        }
        Ok(Self { header: header.ok_or(HistoryError::Empty)?, records })
    }

    /// Writes it as it would have been recorded.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        write_line(&mut to, &self.header)?;
        self.records.iter().try_for_each(|record| write_line(&mut to, record))
    }
}

/// The version comes first: of another version, nothing else may be as it is here.
fn read_header(text: &str) -> Result<Header, HistoryError> {
    #[derive(Deserialize)]
    struct Version {
        tenure_history: u32,
    }
    let wrong = |error: serde_json::Error| HistoryError::Line { line: 1, why: error.to_string() };
    let Version { tenure_history: found } = serde_json::from_str(text).map_err(wrong)?;
    if found != VERSION {
        return Err(HistoryError::Version { found });
    }
    serde_json::from_str(text).map_err(wrong)
}

/// Writes one value as a line of JSON.
pub(crate) fn write_line(mut to: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}
