//! The bytes of a key's file: two slots, written in turn, and room for long lines behind them.
//!
//! A process can be killed between any two instructions, and a machine can lose power while the disk writes. So the
//! last good state is never overwritten: page 0 has two slots, and a change goes to the one that is not current. A
//! short line lies inside its slot, and a change is one small write; a long one lies behind page 0, where it never
//! touches the current one, and is written before the slot that points to it. Renaming a fresh file over the old one
//! would do as well, but several times slower, and would break the rule that a key's file is never replaced.
//!
//! # Invariants
//! 1. The slot with the highest sequence number whose checksums are right is the state.
//! 2. A write touches neither the current slot nor the current body.
//! 3. A file whose slots are both damaged is refused: empty would mean free, and could let two in. The one exception
//!    is a file of an earlier boot: all its places have died, so its last token is all that is needed of it.
//! 4. A state takes up room for the next one, so that a release needs none.

use std::borrow::Cow;
use std::num::NonZeroU32;

use tenure_core::engine::ledger::{Ledger, Place, State, Tombstone};
use tenure_core::{ClaimId, FencingToken, Key, Mode, TokenBlock};

use crate::member_id::MemberId;

/// Page 0, which has the slots.
pub(crate) const PAGE: usize = 4096;
/// One slot.
pub(crate) const SLOT: usize = PAGE / 2;
/// The header of a slot.
const HEADER: usize = 64;
/// The longest body that lies inside its slot.
pub(crate) const INLINE_MAX: usize = SLOT - HEADER;
/// The longest body: more than forty thousand places.
pub(crate) const BODY_MAX: usize = 4 << 20;

const MAGIC: &[u8; 8] = b"TENURE01";
const PLACE: usize = 96;
const TOMBSTONE: usize = 32;

/// The start of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    seq: u64,
    last_token: u64,
    /// The boot in which it was written; zero when unknown.
    boot: u128,
    /// Where the body begins; zero when it lies inside the slot.
    body_at: u32,
    body_len: u32,
    body_crc: u32,
}

/// The state that a file has.
#[derive(Debug)]
pub(crate) struct Stored<'a> {
    current: Current,
    last_token: u64,
    /// Which key the file is of, and its line; none after a recovery.
    pub(crate) key: Option<Key>,
    pub(crate) ledger: Ledger<MemberId>,
    body: Cow<'a, [u8]>,
}

/// Where the state lies.
#[derive(Clone, Copy, Debug)]
struct Current {
    slot: usize,
    seq: u64,
    body_at: u32,
    body_len: u32,
}

/// Why a file has no state.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// It was never a file of ours, or is of another version.
    NotOurs,
    /// Both slots are damaged.
    Damaged,
    /// The body could not be read.
    System(rustix::io::Errno),
}

/// A state as it is to be written.
#[derive(Debug)]
pub(crate) struct Write {
    /// Where the bytes of page 0 go.
    pub(crate) at: u64,
    /// The slot, with the body when it is short; all of page 0 the first time.
    pub(crate) bytes: Vec<u8>,
    /// Where a long body goes, which must be written first.
    pub(crate) body_at: Option<u64>,
    /// How long the file must be before, so that this state and the next have room.
    pub(crate) room: u64,
}

/// Reads the state of a file from its page 0; `overflow` reads what lies behind.
pub(crate) fn read<'a>(
    page: &'a [u8],
    boot: u128,
    overflow: &mut dyn FnMut(u32, u32) -> Result<Vec<u8>, rustix::io::Errno>,
) -> Result<Stored<'a>, Unreadable> {
    let mut slots: Vec<_> = [0, 1]
        .into_iter()
        .filter_map(|slot| Some((slot, Header::decode(page.get(slot * SLOT..)?.get(..HEADER)?)?)))
        .collect();
    slots.sort_unstable_by_key(|(_, header)| std::cmp::Reverse(header.seq));
    // A newer slot whose body is damaged was never reported; but a token in it is passed over all the same.
    let last_token = slots.iter().map(|(_, header)| header.last_token).max().unwrap_or(0);
    for (slot, header) in &slots {
        let body = match header.body_at {
            0 => page
                .get(slot * SLOT + HEADER..)
                .and_then(|rest| rest.get(..header.body_len as usize))
                .map(Cow::from),
            at if header.body_len as usize <= BODY_MAX => {
                Some(Cow::from(overflow(at, header.body_len).map_err(Unreadable::System)?))
            }
            _ => None,
        };
        let Some(body) = body.filter(|body| crc32fast::hash(body) == header.body_crc) else { continue };
        let Some((key, mut ledger)) = decode_body(&body) else { continue };
        ledger.last_token = last_token;
        if header.is_of_earlier_boot(boot) {
            // Their deadlines are by a clock that has begun anew, and no attempt outlives a boot.
            ledger.tombstones.clear();
        }
        return Ok(Stored { current: header.current(*slot), last_token, key: Some(key), ledger, body });
    }
    match slots.first() {
        Some((slot, header)) if slots.iter().all(|(_, header)| header.is_of_earlier_boot(boot)) => {
            let ledger = Ledger { last_token, ..Ledger::default() };
            Ok(Stored {
                current: header.current(*slot),
                last_token,
                key: None,
                ledger,
                body: Cow::from(&[][..]),
            })
        }
        Some(_) => Err(Unreadable::Damaged),
        None if [0, SLOT].iter().any(|at| page.get(*at..).is_some_and(|slot| slot.starts_with(MAGIC))) => {
            Err(Unreadable::Damaged)
        }
        None => Err(Unreadable::NotOurs),
    }
}

impl Stored<'_> {
    /// Whether writing this body and token would change nothing.
    pub(crate) fn is(&self, body: &[u8], last_token: u64) -> bool {
        self.last_token == last_token && *self.body == *body
    }
}

/// How to write a state after `before`, none when the line is too long.
pub(crate) fn write(before: Option<&Stored<'_>>, body: &[u8], last_token: u64, boot: u128) -> Option<Write> {
    if body.len() > BODY_MAX {
        return None;
    }
    let current = before.map(|before| before.current);
    let (slot, seq) = current.map_or((0, 1), |current| (1 - current.slot, current.seq + 1));
    let is_inline = body.len() <= INLINE_MAX;
    let body_at = if is_inline { 0 } else { body_place(current?.long_body(), body.len()) };
    // Fits: a body is at most BODY_MAX, and lies before 4 * BODY_MAX.
    let (at, len) = (body_at as u32, body.len() as u32);
    let header =
        Header { seq, last_token, boot, body_at: at, body_len: len, body_crc: crc32fast::hash(body) };
    let mut bytes =
        Vec::with_capacity(if current.is_none() { PAGE } else { HEADER + body.len().min(INLINE_MAX) });
    bytes.extend_from_slice(&header.encode());
    if is_inline {
        bytes.extend_from_slice(body);
    }
    if current.is_none() {
        bytes.resize(PAGE, 0);
    }
    let next = body_place(Some((body_at, body.len())), body.len());
    let room = if is_inline { 0 } else { body_at.max(next) + body.len() };
    let body_at = (!is_inline).then_some(body_at as u64);
    Some(Write { at: (slot * SLOT) as u64, bytes, body_at, room: room as u64 })
}

/// Where a long body goes so that it does not touch the current one.
fn body_place(current: Option<(usize, usize)>, len: usize) -> usize {
    match current {
        Some((at, current_len)) if at < PAGE + len => (at + current_len).next_multiple_of(PAGE),
        _ => PAGE,
    }
}

impl Current {
    fn long_body(self) -> Option<(usize, usize)> {
        (self.body_at != 0).then_some((self.body_at as usize, self.body_len as usize))
    }
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.last_token.to_le_bytes());
        out.extend_from_slice(&self.boot.to_le_bytes());
        for word in [self.body_at, self.body_len, self.body_crc, 0, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        let mut header = [0; HEADER];
        header.copy_from_slice(&out);
        header
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (rest, crc) = bytes.split_at_checked(HEADER - 4)?;
        if !rest.starts_with(MAGIC) || crc != crc32fast::hash(rest).to_le_bytes() {
            return None;
        }
        let mut rest = Reader(&rest[MAGIC.len()..]);
        Some(Self {
            seq: rest.u64()?,
            last_token: rest.u64()?,
            boot: rest.u128()?,
            body_at: rest.u32()?,
            body_len: rest.u32()?,
            body_crc: rest.u32()?,
        })
    }

    fn current(&self, slot: usize) -> Current {
        Current { slot, seq: self.seq, body_at: self.body_at, body_len: self.body_len }
    }

    /// Only when both boots are known: where they are not, a place may be of a living process.
    fn is_of_earlier_boot(&self, boot: u128) -> bool {
        self.boot != 0 && boot != 0 && self.boot != boot
    }
}

/// The line of a key as bytes.
pub(crate) fn encode_body(key: &Key, ledger: &Ledger<MemberId>, out: &mut Vec<u8>) {
    let Ledger { last_token: _, places, tombstones } = ledger;
    out.clear();
    out.reserve(16 + key.as_str().len() + places.len() * PLACE + tombstones.len() * TOMBSTONE);
    // Fits: a key has at most 512 bytes.
    out.extend_from_slice(&(key.as_str().len() as u32).to_le_bytes());
    out.extend_from_slice(key.as_str().as_bytes());
    out.extend_from_slice(&(places.len() as u32).to_le_bytes());
    for place in places {
        encode_place(place, out);
    }
    out.extend_from_slice(&(tombstones.len() as u32).to_le_bytes());
    for tombstone in tombstones {
        out.extend_from_slice(&tombstone.claim.bits().to_le_bytes());
        out.extend_from_slice(&u64::from(tombstone.evicted).to_le_bytes());
        out.extend_from_slice(&tombstone.expires.to_le_bytes());
    }
}

fn encode_place(place: &Place<MemberId>, out: &mut Vec<u8>) {
    let (mode, limit) = match place.mode {
        Mode::Exclusive => (0u16, 0),
        Mode::Shared => (1, 0),
        Mode::Permit { limit } => (2, limit.get()),
    };
    let (state, tokens, slot, ends) = match place.state {
        State::Waiting { expires } => (0u16, None, 0, expires),
        State::Offered { tokens, slot, lapses } => (1, Some(tokens), slot, lapses),
        State::Held { tokens, slot, expires } => (2, Some(tokens), slot, expires),
    };
    let (first, spare) = tokens.map_or((0, 0), |tokens| (tokens.first.get(), tokens.spare));
    out.extend_from_slice(&place.claim.bits().to_le_bytes());
    out.extend_from_slice(&place.tag.bits().to_le_bytes());
    out.extend_from_slice(&mode.to_le_bytes());
    out.extend_from_slice(&state.to_le_bytes());
    for word in [limit, place.spare, slot, spare, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for long in [place.term, place.floor, first, ends, place.since] {
        out.extend_from_slice(&long.to_le_bytes());
    }
}

/// The line that bytes stand for; none when they stand for none.
fn decode_body(bytes: &[u8]) -> Option<(Key, Ledger<MemberId>)> {
    let mut rest = Reader(bytes);
    let key_len = rest.u32()?;
    let key = Key::new(std::str::from_utf8(rest.bytes(key_len as usize)?).ok()?).ok()?;
    let places = rest.list(PLACE, |rest| {
        let (claim, tag) = (ClaimId::from_bits(rest.u128()?), MemberId::from_bits(rest.u128()?));
        let kinds = rest.u32()?;
        let (limit, spare, slot, token_spare) = (rest.u32()?, rest.u32()?, rest.u32()?, rest.u32()?);
        let _reserved = rest.u32()?;
        let (term, floor, first, ends, since) =
            (rest.u64()?, rest.u64()?, rest.u64()?, rest.u64()?, rest.u64()?);
        let mode = match kinds & 0xffff {
            0 => Mode::Exclusive,
            1 => Mode::Shared,
            2 => Mode::Permit { limit: NonZeroU32::new(limit)? },
            _ => return None,
        };
        let tokens = FencingToken::new(first).map(|first| TokenBlock { first, spare: token_spare });
        let state = match kinds >> 16 {
            0 => State::Waiting { expires: ends },
            1 => State::Offered { tokens: tokens?, slot, lapses: ends },
            2 => State::Held { tokens: tokens?, slot, expires: ends },
            _ => return None,
        };
        Some(Place { claim, mode, term, spare, floor, state, since, tag })
    })?;
    let tombstones = rest.list(TOMBSTONE, |rest| {
        let claim = ClaimId::from_bits(rest.u128()?);
        Some(Tombstone { claim, evicted: rest.u64()? != 0, expires: rest.u64()? })
    })?;
    rest.0.is_empty().then_some((key, Ledger { last_token: 0, places, tombstones }))
}

/// What is still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    /// As many items as the count says, if there can be so many.
    fn list<T>(&mut self, item_len: usize, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()? as usize;
        if count.checked_mul(item_len)? > self.0.len() {
            return None;
        }
        (0..count).map(|_| item(self)).collect()
    }
}

#[cfg(test)]
mod tests;
