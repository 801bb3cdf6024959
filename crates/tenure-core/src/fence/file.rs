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
mod tests {
    use super::*;
    use crate::fence::FenceTroubleKind;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    fn token(number: u64) -> FencingToken {
        FencingToken::new(number).unwrap()
    }

    fn record(slot: u32, sequence: u64, mark: u64) -> [u8; RECORD_LEN] {
        Record { slot, sequence, mark: token(mark) }.encode()
    }

    struct Place {
        directory: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap() }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("fence")
        }

        fn gate(&self) -> FenceGate {
            FenceGate::open(self.path()).unwrap()
        }

        fn put(&self, at: u64, bytes: &[u8]) {
            OpenOptions::new().write(true).open(self.path()).unwrap().write_all_at(bytes, at).unwrap();
        }

        fn kind(&self) -> FenceTroubleKind {
            FenceGate::open(self.path()).unwrap_err().trouble().unwrap().kind()
        }
    }

    fn is_stale(gate: &FenceGate, fence: impl Into<Fence>) -> bool {
        gate.check(fence).is_err_and(|error| error.stale().is_some())
    }

    fn trouble(gate: &FenceGate, fence: impl Into<Fence>) -> FenceTroubleKind {
        gate.check(fence).unwrap_err().trouble().unwrap().kind()
    }

    #[test]
    fn marks_survive_the_end_of_the_gate() {
        let place = Place::new();
        for number in [33, 34, 40, 41] {
            let gate = place.gate();
            gate.enter(token(number)).unwrap();
            gate.enter(Fence { slot: 4095, token: token(number + 100) }).unwrap();
            assert!(is_stale(&place.gate(), token(number - 1)));
            assert!(is_stale(&place.gate(), Fence { slot: 4095, token: token(number + 99) }));
            place.gate().check(token(number)).unwrap();
            assert_eq!(gate.mark(4095).unwrap(), Some(token(number + 100)));
            assert_eq!(gate.mark(64).unwrap(), None);
        }
    }

    #[test]
    fn every_record_has_a_place_of_its_own_and_copies_share_no_block() {
        let mut places = std::collections::BTreeSet::new();
        for slot in 0..FenceGate::SLOTS_MAX {
            for copy in 0..2 {
                let at = offset(slot, copy);
                assert!(at >= BLOCK_LEN && at + RECORD_LEN as u64 <= FILE_LEN && places.insert(at));
            }
            assert_ne!(offset(slot, 0) / BLOCK_LEN, offset(slot, 1) / BLOCK_LEN);
        }
    }

    #[test]
    fn a_raise_torn_at_every_byte_leaves_the_old_mark_or_the_new_one() {
        let place = Place::new();
        place.gate().enter(token(33)).unwrap(); // Sequence numbers 1 and 2.
        place.gate().enter(token(34)).unwrap(); // 3, in copy 1.
        let (old, new) = (record(0, 2, 33), record(0, 4, 35));
        for cut in 0..=RECORD_LEN {
            let head_first = [&new[..cut], &old[cut..]].concat();
            let tail_first = [&old[..cut], &new[cut..]].concat();
            let zeroed = [&new[..cut], &vec![0; RECORD_LEN - cut]].concat();
            for torn in [head_first, tail_first, zeroed] {
                place.put(offset(0, 1), &record(0, 3, 34));
                place.put(offset(0, 0), &torn);
                let gate = place.gate();
                let mark = gate.mark(0).unwrap().unwrap();
                assert_eq!(mark == token(35), torn == new, "cut at {cut}");
                assert!(mark == token(34) || mark == token(35), "cut at {cut}");
                assert!(is_stale(&gate, token(33)), "cut at {cut}");
                gate.check(token(35)).unwrap();
                assert!(is_stale(&place.gate(), token(34)), "cut at {cut}");
            }
        }
    }

    #[test]
    fn the_first_use_of_a_slot_torn_at_every_byte_is_neither_trouble_nor_a_mark_that_nobody_offered() {
        let place = Place::new();
        drop(place.gate());
        let (first, second) = (record(7, 1, 34), record(7, 2, 34));
        for cut in 0..=RECORD_LEN {
            let torn = |whole: &[u8; 64]| [&whole[..cut], &vec![0; RECORD_LEN - cut]].concat();
            for (copy_1, copy_0) in [(torn(&first), vec![0; 64]), (first.to_vec(), torn(&second))] {
                place.put(offset(7, 1), &copy_1);
                place.put(offset(7, 0), &copy_0);
                let gate = place.gate();
                let mark = gate.mark(7).unwrap();
                assert!(mark.is_none_or(|mark| mark == token(34)), "cut at {cut}");
                gate.enter(Fence { slot: 7, token: token(34) }).unwrap();
                assert!(is_stale(&place.gate(), Fence { slot: 7, token: token(33) }), "cut at {cut}");
                let mut copies = [[0; RECORD_LEN]; 2];
                let file = File::open(place.path()).unwrap();
                file.read_exact_at(&mut copies[0], offset(7, 0)).unwrap();
                file.read_exact_at(&mut copies[1], offset(7, 1)).unwrap();
                assert!(!is_blank(&copies[0]) && !is_blank(&copies[1]), "both copies are written at {cut}");
            }
        }
    }

    #[test]
    fn making_the_file_torn_at_every_byte_gives_a_fresh_gate() {
        for cut in 0..=RECORD_LEN {
            let place = Place::new();
            File::create(place.path()).unwrap().set_len(FILE_LEN).unwrap();
            place.put(0, &header()[..cut]);
            let gate = place.gate();
            assert_eq!(gate.mark(0).unwrap(), None);
            gate.enter(token(5)).unwrap();
            assert!(is_stale(&place.gate(), token(4)));
        }
    }

    #[test]
    fn a_slot_whose_copies_are_both_damaged_lets_nobody_in_and_is_left_as_it_is() {
        let place = Place::new();
        let gate = place.gate();
        gate.enter(token(33)).unwrap();
        gate.enter(Fence { slot: 1, token: token(9) }).unwrap();
        for copies in [
            [[0xff; RECORD_LEN]; 2],
            [[0xff; RECORD_LEN], [0; RECORD_LEN]],
            [record(1, 2, 33), record(1, 3, 33)], // Those of another slot.
            [record(0, 3, 33), record(0, 2, 33)], // Each in the place of the other.
            [record(0, 4, 33), record(0, 7, 34)], // Not in turn.
            [record(0, 4, 34), record(0, 5, 33)], // A mark that falls.
        ] {
            place.put(offset(0, 0), &copies[0]);
            place.put(offset(0, 1), &copies[1]);
            let before = fs::read(place.path()).unwrap();
            assert_eq!(trouble(&gate, token(99)), FenceTroubleKind::Damaged);
            assert_eq!(trouble(&place.gate(), token(99)), FenceTroubleKind::Damaged);
            assert!(gate.mark(0).is_err());
            assert!(fs::read(place.path()).unwrap() == before);
        }
        assert!(is_stale(&gate, Fence { slot: 1, token: token(8) }), "the other slots still work");
        gate.check(Fence { slot: 1, token: token(9) }).unwrap();
    }

    #[test]
    fn a_mark_that_this_process_has_not_flushed_is_written_before_it_is_accepted() {
        let place = Place::new();
        place.gate().enter(token(33)).unwrap();
        let mut marks = FileMarks::open(&place.path()).unwrap();
        marks.lock().unwrap();
        assert_eq!(marks.flushed.get(&0), None);
        marks.decide(token(33).into()).unwrap();
        assert_eq!(marks.flushed.get(&0), Some(&2));
        assert!(marks.decide(token(32).into()).is_err());
        marks.decide(token(34).into()).unwrap();
        assert_eq!(marks.flushed.get(&0), Some(&3));
    }

    #[test]
    fn a_foreign_file_is_a_typed_error_and_is_left_as_it_is() {
        let mut other_version = header();
        other_version[16] = 2;
        let sum = checksum(&other_version);
        other_version[60..].copy_from_slice(&sum);
        let zeros = vec![0; FILE_LEN as usize - 1];
        let mut marks_without_header = vec![0; FILE_LEN as usize];
        marks_without_header[BLOCK_LEN as usize] = 1;
        for bytes in [&b"x"[..], &[b'#'; 5000], &other_version, &zeros, &marks_without_header] {
            let place = Place::new();
            fs::write(place.path(), bytes).unwrap();
            assert_eq!(place.kind(), FenceTroubleKind::Foreign);
            assert!(fs::read(place.path()).unwrap() == bytes);
        }
        let place = Place::new();
        fs::create_dir(place.path()).unwrap();
        assert_eq!(place.kind(), FenceTroubleKind::Io);
        assert_eq!(
            FenceGate::open("/dev/null").unwrap_err().trouble().unwrap().kind(),
            FenceTroubleKind::Foreign
        );
    }

    #[test]
    fn a_truncated_or_broken_fence_file_is_not_taken_for_a_fresh_one() {
        for len in 1..FILE_LEN.min(200) {
            let place = Place::new();
            let gate = place.gate();
            fs::OpenOptions::new().write(true).open(place.path()).unwrap().set_len(len).unwrap();
            assert_eq!(trouble(&gate, token(99)), FenceTroubleKind::Damaged);
            assert!(matches!(place.kind(), FenceTroubleKind::Damaged | FenceTroubleKind::Foreign));
        }
        let place = Place::new();
        place.gate().enter(token(1)).unwrap();
        place.put(40, b"?");
        assert_eq!(place.kind(), FenceTroubleKind::Damaged);
    }

    #[test]
    fn an_empty_file_is_a_fresh_gate_and_a_new_one_is_for_its_owner_only() {
        let place = Place::new();
        File::create(place.path()).unwrap();
        assert_eq!(place.gate().mark(0).unwrap(), None);
        let place = Place::new();
        drop(place.gate());
        assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_deleted_or_replaced_under_an_open_gate_lets_nobody_in() {
        let place = Place::new();
        let gate = place.gate();
        gate.enter(token(33)).unwrap();
        fs::rename(place.path(), place.directory.path().join("aside")).unwrap();
        assert_eq!(trouble(&gate, token(34)), FenceTroubleKind::Replaced);
        place.gate().enter(token(1)).unwrap();
        assert_eq!(trouble(&gate, token(34)), FenceTroubleKind::Replaced);
        fs::rename(place.directory.path().join("aside"), place.path()).unwrap();
        gate.check(token(34)).unwrap();
    }

    #[test]
    fn a_path_that_cannot_be_written_is_an_error_that_names_it() {
        let place = Place::new();
        File::create(place.path()).unwrap();
        let mut paths = vec![place.directory.path().join("missing/fence"), place.path().join("fence")];
        if cfg!(target_os = "linux") {
            paths.push("/sys/fence".into()); // Also root cannot write there.
        }
        for path in paths {
            let error = FenceGate::open(&path).unwrap_err();
            let trouble = error.trouble().unwrap();
            assert_eq!((trouble.kind(), trouble.path()), (FenceTroubleKind::Io, Some(&*path)));
            assert!(error.to_string().contains(path.to_str().unwrap()));
            assert!(std::error::Error::source(&error).is_some());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn two_gates_on_one_path_in_two_threads_agree(
            offers in prop::collection::vec(prop::collection::vec(1u64..12, 1..12), 2),
        ) {
            let place = Place::new();
            let written = Mutex::new(Vec::new());
            std::thread::scope(|scope| {
                for offers in &offers {
                    let (gate, written) = (place.gate(), &written);
                    scope.spawn(move || {
                        for number in offers {
                            let write = || written.lock().unwrap().push(*number);
                            match gate.write(token(*number), write) {
                                Ok(()) => {}
                                Err(error) => assert!(error.stale().unwrap().mark > token(*number)),
                            }
                        }
                    });
                }
            });
            let written = written.into_inner().unwrap();
            prop_assert!(written.is_sorted(), "a stale write passed: {:?}", written);
            let highest = offers.iter().flatten().max().map(|number| token(*number));
            prop_assert_eq!(place.gate().mark(0).unwrap(), highest);
        }
    }
}
