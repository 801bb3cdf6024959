//! The marks of a gate in a file, shared by processes.
//!
//! Each decision is made under `flock` on the file itself, so the kernel frees it when a process ends. A file that is
//! replaced by renaming would need a second file to lock and a flush of the directory for each mark, so marks are
//! written in place, in two copies in turn: whatever a power cut does to one write, the other copy holds the mark
//! before it, and the token of the torn write was never accepted.
//!
//! # Layout
//! The file is [`FILE_LEN`] bytes long from the beginning, and sparse; numbers are little-endian.
//!
//! | where | what |
//! |---|---|
//! | block 0 | the header: name, version, number of slots, checksum |
//! | block `1 + 2g` | copy 0 of the marks of slots `64g` to `64g + 63` |
//! | block `2 + 2g` | copy 1 of the same |
//!
//! A block has 4096 bytes, so no write of one copy touches the disk sector of the other. A record has 64 bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `tnrfence` |
//! | 8..12 | the slot |
//! | 16..24 | the sequence number, from 1; record `n` is in copy `n mod 2` |
//! | 24..32 | the mark |
//! | 60..64 | CRC-32 of the bytes before it |
//!
//! All other bytes are zero. A record that is only zeros is blank.
//!
//! # Invariants
//! 1. A decision that accepts is made on a record that this process has flushed itself. A mark that was only read may
//!    be one that another process has written and not flushed, or failed to flush.
//!    So each process writes a mark that it meets for the first time once more, with the same bytes.
//! 2. A copy gets other bytes only when the other copy holds a flushed record, or when no token was ever accepted.
//! 3. A slot has accepted a token only if both of its copies have been written. So a torn copy 1 beside a blank copy 0
//!    is the first write of a slot, cut short, and every other pair without a whole record is damage.
//! 4. The header is flushed last, and never written again: a file that has it was made completely.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Fence, FenceError, FenceGate, FenceTrouble, verdict};
use crate::FencingToken;

const BLOCK_LEN: u64 = 4096;
const RECORD_LEN: usize = 64;
const RECORDS_PER_BLOCK: u32 = 64;
/// The header's block, and two blocks for every 64 slots.
const FILE_LEN: u64 = BLOCK_LEN * (1 + 2 * (FenceGate::SLOTS_MAX / RECORDS_PER_BLOCK) as u64);
const HEADER_NAME: &[u8; 16] = b"tenure fence\n\0\0\0";
const RECORD_NAME: &[u8; 8] = b"tnrfence";
const VERSION: u32 = 1;

/// The marks in an open file.
pub(super) struct FileMarks {
    path: PathBuf,
    file: File,
    /// The sequence number of the record of each slot that this process has flushed last.
    flushed: BTreeMap<u32, u64>,
}

impl FileMarks {
    /// Opens the file, and makes it if it is missing or empty.
    pub(super) fn open(path: &Path) -> Result<Self, FenceTrouble> {
        let advice = "its directory must exist, and this user must be able to read and write both";
        // The program may change its working directory while the gate is open.
        let path = std::path::absolute(path)
            .map_err(|error| FenceTrouble::io(path, "find the place of", advice, error))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| FenceTrouble::io(&path, "open", advice, error))?;
        let mut marks = Self { path, file, flushed: BTreeMap::new() };
        if !marks.metadata()?.is_file() {
            return Err(FenceTrouble::foreign(&marks.path, "not a regular file"));
        }
        flock(&marks.file).map_err(|error| marks.lock_trouble(error))?;
        let made = marks.make_or_verify();
        marks.unlock();
        made.map(|()| marks)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until no other process decides, and looks whether this is still the file that the others use.
    pub(super) fn lock(&mut self) -> Result<(), FenceTrouble> {
        flock(&self.file).map_err(|error| self.lock_trouble(error))?;
        let ours = self.metadata()?;
        match fs::metadata(&self.path) {
            Ok(theirs) if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) => {}
            Ok(_) => return Err(FenceTrouble::replaced(&self.path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FenceTrouble::replaced(&self.path));
            }
            Err(error) => {
                let advice = "this user must be able to reach it by its path";
                return Err(FenceTrouble::io(&self.path, "look for", advice, error));
            }
        }
        self.verify_len(ours.len())
    }

    /// Lets the next process decide.
    pub(super) fn unlock(&mut self) {
        // It fails only for a descriptor that is not open, which an owned file is not. Were it to fail all the same,
        // the others would wait, and nobody would be let in.
        let _ = self.file.unlock();
    }

    /// Accepts the token and flushes the mark, or refuses it. The caller has the lock.
    pub(super) fn decide(&mut self, fence: Fence) -> Result<(), FenceError> {
        let Fence { slot, token } = fence;
        let newest = match self.read(slot)? {
            Pair::NeverUsed => {
                let first = Record { slot, sequence: 1, mark: token };
                self.write(first)?;
                return Ok(self.write(first.next(token))?);
            }
            Pair::Used { newest, other } => {
                verdict(fence, Some(newest.mark))?;
                // Nobody else can have flushed it for us: see invariant 1. With a torn copy beside it, it is the
                // record before the power cut, and must not be touched: see invariant 2.
                if other == Other::Whole && self.flushed.get(&slot) != Some(&newest.sequence) {
                    self.write(newest)?;
                }
                newest
            }
        };
        if token > newest.mark || self.flushed.get(&slot) != Some(&newest.sequence) || newest.sequence == 1 {
            self.write(newest.next(token))?;
        }
        Ok(())
    }

    /// The mark of a slot. The caller has the lock.
    pub(super) fn mark(&self, slot: u32) -> Result<Option<FencingToken>, FenceTrouble> {
        Ok(match self.read(slot)? {
            Pair::NeverUsed => None,
            Pair::Used { newest, .. } => Some(newest.mark),
        })
    }

    fn read(&self, slot: u32) -> Result<Pair, FenceTrouble> {
        let mut copies = [[0; RECORD_LEN]; 2];
        for (copy, bytes) in (0..).zip(&mut copies) {
            self.file.read_exact_at(bytes, offset(slot, copy)).map_err(|error| self.read_trouble(error))?;
        }
        pair(slot, &copies).ok_or_else(|| {
            FenceTrouble::damaged(&self.path, &format!("the mark of slot {slot} is lost in both copies"))
        })
    }

    /// Writes the record into its copy and has it on the disk.
    fn write(&mut self, record: Record) -> Result<(), FenceTrouble> {
        self.flushed.remove(&record.slot);
        let at = offset(record.slot, record.sequence % 2);
        self.file
            .write_all_at(&record.encode(), at)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| self.write_trouble(error))?;
        self.flushed.insert(record.slot, record.sequence);
        Ok(())
    }

    fn make_or_verify(&self) -> Result<(), FenceTrouble> {
        let len = self.metadata()?.len();
        if len == 0 || self.is_half_made(len)? {
            return self.make();
        }
        let mut found = [0; RECORD_LEN];
        let known = usize::try_from(len).unwrap_or(RECORD_LEN).min(RECORD_LEN);
        self.file.read_exact_at(&mut found[..known], 0).map_err(|error| self.read_trouble(error))?;
        let ours = header();
        if found == ours {
            return self.verify_len(len);
        }
        if found[..16] != ours[..16] {
            return Err(FenceTrouble::foreign(&self.path, "not a fence file"));
        }
        if checksum(&found) == found[60..] {
            return Err(FenceTrouble::foreign(&self.path, "a fence file of another version"));
        }
        Err(FenceTrouble::damaged(&self.path, "its header is not whole"))
    }

    /// Whether a power cut has ended [`make`](Self::make): some of the header is there, and nothing behind it.
    fn is_half_made(&self, len: u64) -> Result<bool, FenceTrouble> {
        if len != FILE_LEN {
            return Ok(false);
        }
        let mut bytes = vec![0; FILE_LEN as usize];
        self.file.read_exact_at(&mut bytes[..RECORD_LEN], 0).map_err(|error| self.read_trouble(error))?;
        if bytes[..RECORD_LEN] == header() {
            return Ok(false);
        }
        self.file.read_exact_at(&mut bytes, 0).map_err(|error| self.read_trouble(error))?;
        let (found, behind) = bytes.split_at(RECORD_LEN);
        let torn = found.iter().zip(header()).all(|(found, ours)| *found == 0 || *found == ours);
        Ok(torn && is_blank(behind))
    }

    fn make(&self) -> Result<(), FenceTrouble> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        self.file
            .set_len(FILE_LEN)
            .and_then(|()| self.file.sync_all())
            // Without this a power cut may forget the name of the file, and with it every mark.
            .and_then(|()| File::open(directory)?.sync_all())
            .and_then(|()| self.file.write_all_at(&header(), 0))
            .and_then(|()| self.file.sync_all())
            .map_err(|error| self.write_trouble(error))
    }

    fn verify_len(&self, len: u64) -> Result<(), FenceTrouble> {
        if len == FILE_LEN {
            return Ok(());
        }
        Err(FenceTrouble::damaged(&self.path, &format!("it has {len} bytes instead of {FILE_LEN}")))
    }

    fn metadata(&self) -> Result<Metadata, FenceTrouble> {
        self.file.metadata().map_err(|error| self.read_trouble(error))
    }

    fn lock_trouble(&self, error: io::Error) -> FenceTrouble {
        FenceTrouble::io(&self.path, "lock", "keep it on a local file system that supports flock", error)
    }

    fn read_trouble(&self, error: io::Error) -> FenceTrouble {
        FenceTrouble::io(&self.path, "read", "nobody is let in until it can be read", error)
    }

    fn write_trouble(&self, error: io::Error) -> FenceTrouble {
        FenceTrouble::io(
            &self.path,
            "write",
            "nobody is let in until its disk has room and takes writes",
            error,
        )
    }
}

/// What the two copies of a slot say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pair {
    /// No token was ever accepted.
    NeverUsed,
    /// The newest whole record, and what is in the other copy.
    Used { newest: Record, other: Other },
}

/// The copy beside the newest whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// An older record, or nothing yet.
    Whole,
    /// A write that was cut short.
    Torn,
}

/// One copy of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    slot: u32,
    sequence: u64,
    mark: FencingToken,
}

impl Record {
    fn next(self, mark: FencingToken) -> Self {
        Self { sequence: self.sequence + 1, mark, ..self }
    }

    fn encode(self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        bytes[0..8].copy_from_slice(RECORD_NAME);
        bytes[8..12].copy_from_slice(&self.slot.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.mark.get().to_le_bytes());
        let sum = checksum(&bytes);
        bytes[60..].copy_from_slice(&sum);
        bytes
    }

    /// The record in these bytes, none if they are not exactly what was written for this slot and copy.
    fn decode(slot: u32, copy: u64, bytes: &[u8; RECORD_LEN]) -> Option<Self> {
        let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let record = Self { slot, sequence: number(16)?, mark: FencingToken::new(number(24)?)? };
        let fits = record.sequence > 0 && record.sequence < u64::MAX && record.sequence % 2 == copy;
        (fits && record.encode() == *bytes).then_some(record)
    }
}

/// The verdict over the two copies of a slot, none if its mark is lost.
fn pair(slot: u32, copies: &[[u8; RECORD_LEN]; 2]) -> Option<Pair> {
    let blank = [is_blank(&copies[0]), is_blank(&copies[1])];
    let other = |copy: usize| if blank[copy] { Other::Whole } else { Other::Torn };
    match (Record::decode(slot, 0, &copies[0]), Record::decode(slot, 1, &copies[1])) {
        (Some(even), Some(odd)) => {
            let (older, newest) = if even.sequence < odd.sequence { (even, odd) } else { (odd, even) };
            let in_turn = newest.sequence - older.sequence == 1 && older.mark <= newest.mark;
            in_turn.then_some(Pair::Used { newest, other: Other::Whole })
        }
        (Some(newest), None) => Some(Pair::Used { newest, other: other(1) }),
        (None, Some(newest)) => Some(Pair::Used { newest, other: other(0) }),
        (None, None) => blank[0].then_some(Pair::NeverUsed),
    }
}

fn offset(slot: u32, copy: u64) -> u64 {
    let (group, place) = (u64::from(slot / RECORDS_PER_BLOCK), u64::from(slot % RECORDS_PER_BLOCK));
    BLOCK_LEN * (1 + 2 * group + copy) + place * RECORD_LEN as u64
}

fn header() -> [u8; RECORD_LEN] {
    let mut bytes = [0; RECORD_LEN];
    bytes[0..16].copy_from_slice(HEADER_NAME);
    bytes[16..20].copy_from_slice(&VERSION.to_le_bytes());
    bytes[20..24].copy_from_slice(&FenceGate::SLOTS_MAX.to_le_bytes());
    let sum = checksum(&bytes);
    bytes[60..].copy_from_slice(&sum);
    bytes
}

fn checksum(bytes: &[u8; RECORD_LEN]) -> [u8; 4] {
    crc32fast::hash(&bytes[..60]).to_le_bytes()
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Waits for the lock, over any number of signals: a signal is not a reason to refuse a holder.
fn flock(file: &File) -> io::Result<()> {
    loop {
        match file.lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests;
