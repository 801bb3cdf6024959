use super::*;
use proptest::prelude::*;

const BOOT: u128 = 7;

fn key() -> Key {
    Key::new("orders/42").unwrap()
}

fn ledgers(len: std::ops::Range<usize>) -> impl Strategy<Value = Ledger<MemberId>> {
    let token = (1u64..1 << 52, 0u32..9)
        .prop_map(|(first, spare)| TokenBlock { first: FencingToken::new(first).unwrap(), spare });
    let state =
        (0u8..3, token, any::<u32>(), any::<u64>()).prop_map(|(kind, tokens, slot, ends)| match kind {
            0 => State::Waiting { expires: ends },
            1 => State::Offered { tokens, slot, lapses: ends },
            _ => State::Held { tokens, slot, expires: ends },
        });
    let mode = (0u8..3, 1u32..9).prop_map(|(kind, limit)| match kind {
        0 => Mode::Exclusive,
        1 => Mode::Shared,
        _ => Mode::Permit { limit: NonZeroU32::new(limit).unwrap() },
    });
    let place = (any::<(u128, u128, u64, u32, u64, u64)>(), mode, state).prop_map(
        |((claim, tag, term, spare, floor, since), mode, state)| {
            let (claim, tag) = (ClaimId::from_bits(claim), MemberId::from_bits(tag));
            Place { claim, mode, term, spare, floor, state, since, tag }
        },
    );
    let tombstone = any::<(u128, bool, u64)>().prop_map(|(claim, evicted, expires)| Tombstone {
        claim: ClaimId::from_bits(claim),
        evicted,
        expires,
    });
    (1u64..1 << 52, prop::collection::vec(place, len), prop::collection::vec(tombstone, 0..3))
        .prop_map(|(last_token, places, tombstones)| Ledger { last_token, places, tombstones })
}

/// A file in memory, which can lose power after any byte.
#[derive(Clone, Default)]
struct Disk(Vec<u8>);

impl Disk {
    fn read(&self, boot: u128) -> Result<Option<Ledger<MemberId>>, Unreadable> {
        if self.0.is_empty() {
            return Ok(None);
        }
        self.stored(boot).map(|stored| Some(stored.ledger))
    }

    fn stored(&self, boot: u128) -> Result<Stored<'_>, Unreadable> {
        read(&self.0[..self.0.len().min(PAGE)], boot, &mut |at, len| {
            Ok(self.0.get(at as usize..).and_then(|rest| rest.get(..len as usize)).unwrap_or(&[]).to_vec())
        })
    }

    fn writes(&self, ledger: &Ledger<MemberId>) -> Vec<(u64, Vec<u8>)> {
        let mut body = Vec::new();
        encode_body(&key(), ledger, &mut body);
        let before = (!self.0.is_empty()).then(|| self.stored(BOOT).unwrap());
        let write = write(before.as_ref(), &body, ledger.last_token, BOOT).unwrap();
        let mut writes = Vec::new();
        if let Some(at) = write.body_at {
            writes.push((at, body));
        }
        writes.push((write.at, write.bytes));
        writes
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let (at, end) = (at as usize, at as usize + bytes.len());
        self.0.resize(self.0.len().max(end), 0);
        self.0[at..end].copy_from_slice(bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn c099_a_write_torn_at_any_byte_leaves_the_state_before_it(
        first in ledgers(0..2), line in prop::collection::vec(ledgers(0..60), 1..6),
    ) {
        let mut disk = Disk::default();
        for (at, bytes) in disk.writes(&first) {
            disk.put(at, &bytes);
        }
        let mut before = first;
        for mut after in line {
            let last_token = before.last_token;
            after.last_token = after.last_token.max(last_token);
            for (at, bytes) in disk.writes(&after) {
                for torn in 0..bytes.len() {
                    let mut cut = disk.clone();
                    cut.put(at, &bytes[..torn]);
                    let mut found = cut.read(BOOT).unwrap().unwrap();
                    // A token that was never reported may be passed over; none is given out again.
                    prop_assert!([last_token, after.last_token].contains(&found.last_token));
                    found.last_token = after.last_token;
                    before.last_token = after.last_token;
                    prop_assert!(found == before || found == after, "torn at {torn}");
                }
                disk.put(at, &bytes);
            }
            prop_assert_eq!(disk.read(BOOT).unwrap().unwrap(), after.clone());
            before = after;
        }
    }
}

proptest! {
    #[test]
    fn c099_a_damaged_file_is_an_error_or_a_state_that_was_written(
        one in ledgers(0..3), two in ledgers(0..40), at in 0usize..8_192, byte in any::<u8>(), cut in 0usize..8_192,
    ) {
        let mut disk = Disk::default();
        for ledger in [&one, &two] {
            for (at, bytes) in disk.writes(ledger) {
                disk.put(at, &bytes);
            }
        }
        let mut newest = two;
        newest.last_token = newest.last_token.max(one.last_token);
        if let Some(hit) = disk.0.get_mut(at) {
            *hit = byte;
        }
        if let Ok(Some(found)) = disk.read(BOOT) {
            prop_assert!(found.places == newest.places || found.places == one.places);
        }
        disk.0.truncate(cut);
        if let Ok(Some(found)) = disk.read(BOOT) {
            prop_assert!(found.places == newest.places || found.places == one.places);
        }
    }

    #[test]
    fn c099_garbage_is_refused_without_a_panic(garbage in prop::collection::vec(any::<u8>(), 1..5_000)) {
        let disk = Disk(garbage.clone());
        prop_assert!(matches!(disk.read(BOOT), Err(Unreadable::NotOurs)));
        let _ = decode_body(&garbage);
    }

    #[test]
    fn a_body_reads_back_what_it_writes(ledger in ledgers(0..50)) {
        let mut body = Vec::new();
        encode_body(&key(), &ledger, &mut body);
        let (stored_key, mut found) = decode_body(&body).unwrap();
        found.last_token = ledger.last_token;
        prop_assert_eq!((stored_key, found), (key(), ledger));
    }

    #[test]
    fn c100_a_state_has_taken_the_room_of_every_shorter_one_after_it(
        first in INLINE_MAX + 1..100_000, shrinks in prop::collection::vec(0usize..30_000, 0..8),
    ) {
        let mut current = Current { slot: 0, seq: 1, body_at: 0, body_len: 0 };
        let (mut room, mut len) = (0, first);
        for shrink in std::iter::once(0).chain(shrinks) {
            len = len.saturating_sub(shrink);
            let stored = Stored {
                current, last_token: 0, key: None, ledger: Ledger::default(), body: Cow::from(&[][..]),
            };
            let write = write(Some(&stored), &vec![0; len], 0, BOOT).unwrap();
            room = if room == 0 { write.room } else { prop_assert!(write.room <= room); room };
            let at = write.body_at.unwrap_or(0) as usize;
            if let (Some((old, old_len)), true) = (current.long_body(), at != 0) {
                prop_assert!(at >= old + old_len || at + len <= old);
            }
            let (slot, seq) = (1 - current.slot, current.seq + 1);
            current = Current { slot, seq, body_at: at as u32, body_len: len as u32 };
        }
    }
}

#[test]
fn c099_after_a_power_cut_a_damaged_line_leaves_its_last_token() {
    let mut disk = Disk::default();
    let ledger = Ledger { last_token: 41, ..Ledger::default() };
    for (at, bytes) in disk.writes(&ledger) {
        disk.put(at, &bytes);
    }
    disk.0[HEADER] ^= 1;
    assert!(matches!(disk.read(BOOT), Err(Unreadable::Damaged)));
    assert!(matches!(disk.read(0), Err(Unreadable::Damaged)), "an unknown boot proves nothing");
    assert_eq!(disk.read(BOOT + 1).unwrap(), Some(ledger));
}
