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
