//! What is written in a place and in a mark, and a line as it was read.
//!
//! A place's value is `tenure 1 <claim> <mode> <ttl> <token> <slot> <identity>`: the mode is `x`, `s` or `p` with the
//! limit; the TTL is in seconds; the token is `-` when it follows from the revisions of the place; the identity is
//! JSON. A mark's value is a number that is added to the revisions of its line to make tokens, nearly always zero.
//!
//! # Invariants
//! 1. Places stand in the order of their creation, which is that of etcd's log.
//! 2. The token of a place is written in it, or is its own last revision with the mark's number added.

use std::num::NonZeroU32;
use std::sync::Arc;

use tenure_core::engine::{Gone, Trouble, line};
use tenure_core::{Claim, ClaimId, Identity, Mode};

use crate::names::Names;
use crate::options::EtcdLayout;
use crate::rpc::KeyValue;

/// What the value of a place says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) claim: ClaimId,
    pub(crate) mode: Mode,
    /// The TTL, in seconds.
    pub(crate) ttl: u64,
    pub(crate) token: Option<u64>,
    pub(crate) slot: Option<u32>,
    pub(crate) identity: Option<Arc<Identity>>,
}

/// One place as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) key: Vec<u8>,
    pub(crate) created: i64,
    pub(crate) changed: i64,
    pub(crate) lease: i64,
    pub(crate) words: Words,
}

/// What is known of the tokens of a line beside its places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// What is added to a revision to make a token.
    pub(crate) base: u64,
    /// The revision at which it was written last; zero when there is none.
    pub(crate) changed: i64,
}

/// A line as it was read.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The revision of the store at that moment.
    pub(crate) revision: i64,
    pub(crate) places: Vec<Place>,
    /// How many places before these were not read.
    pub(crate) hidden: usize,
    pub(crate) mark: Mark,
}

const HEAD: &str = "tenure 1 ";

impl Words {
    /// What a place of this claim says.
    pub(crate) fn of(claim: &Claim, token: Option<u64>, slot: Option<u32>) -> Self {
        let (mode, identity) = (claim.mode, Some(Arc::clone(&claim.identity)));
        Self { claim: claim.id, mode, ttl: seconds_up(claim.term()), token, slot, identity }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let mode = match self.mode {
            Mode::Exclusive => "x".to_owned(),
            Mode::Shared => "s".to_owned(),
            Mode::Permit { limit } => format!("p{limit}"),
        };
        let optional =
            |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let (token, slot) = (optional(self.token), optional(self.slot.map(u64::from)));
        // An identity is three plain fields, which always have a JSON form.
        let identity = self.identity.as_deref().and_then(|identity| serde_json::to_string(identity).ok());
        let (claim, ttl, identity) = (self.claim, self.ttl, identity.unwrap_or_default());
        format!("{HEAD}{claim} {mode} {ttl} {token} {slot} {identity}").into_bytes()
    }

    fn read(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.strip_prefix(HEAD)?;
        let mut words = text.splitn(6, ' ');
        let claim = words.next()?.parse().ok()?;
        let mode = match words.next()? {
            "x" => Mode::Exclusive,
            "s" => Mode::Shared,
            permit => Mode::Permit { limit: permit.strip_prefix('p')?.parse::<NonZeroU32>().ok()? },
        };
        let ttl = words.next()?.parse().ok()?;
        let token = optional(words.next()?)?;
        let slot = optional(words.next()?)?.map(u32::try_from).transpose().ok()?;
        let identity = words.next().and_then(|identity| serde_json::from_str(identity).ok()).map(Arc::new);
        Some(Self { claim, mode, ttl, token, slot, identity })
    }
}

/// A number, or `-` for none.
fn optional(word: &str) -> Option<Option<u64>> {
    if word == "-" { Some(None) } else { word.parse().ok().map(Some) }
}

/// A duration in whole seconds, never less.
pub(crate) fn seconds_up(duration: std::time::Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

impl Place {
    /// From a key and its value; what others write in a layout that we share is an exclusive place.
    fn read(names: &Names, kv: KeyValue) -> Result<Self, Trouble> {
        let words = match (Words::read(&kv.value), names.layout()) {
            (Some(words), _) => words,
            (None, EtcdLayout::Concurrency) => Words {
                // A key that does not end in a lease still keeps its place in the line.
                claim: Names::stranger(&kv.key).unwrap_or(ClaimId::from_bits(kv.create_revision as u128)),
                mode: Mode::Exclusive,
                ttl: 0,
                token: None,
                slot: None,
                identity: None,
            },
            (None, EtcdLayout::Tenure) => {
                let key = String::from_utf8_lossy(&kv.key).into_owned();
                return Err(Trouble::foreign(format!(
                    "{key:?} was not written by this version of tenure: remove it, or use another root"
                )));
            }
        };
        let KeyValue { key, create_revision, mod_revision, lease, .. } = kv;
        Ok(Self { key, created: create_revision, changed: mod_revision, lease, words })
    }

    /// Its token, if it is granted; none when one has to be made first, because a younger place had a higher one.
    pub(crate) fn token(&self, mark: Mark) -> Option<u64> {
        match self.words.token {
            Some(token) => Some(token),
            None if self.changed < mark.changed => None,
            None => mark.token(self.changed),
        }
    }
}

impl Mark {
    pub(crate) fn read(kvs: &[KeyValue]) -> Result<Self, Trouble> {
        let Some(kv) = kvs.first() else { return Ok(Self::default()) };
        let base = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok());
        let base = base.ok_or_else(|| {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            Trouble::foreign(format!("{key:?} is no mark of tenure's: remove it, or use another root"))
        })?;
        Ok(Self { base, changed: kv.mod_revision })
    }

    /// The token that a write at this revision gives.
    pub(crate) fn token(self, revision: i64) -> Option<u64> {
        u64::try_from(revision).ok()?.checked_add(self.base)
    }
}

impl View {
    /// From all places in any order.
    pub(crate) fn read(
        names: &Names,
        revision: i64,
        places: Vec<KeyValue>,
        mark: &[KeyValue],
    ) -> Result<Self, Trouble> {
        let mut places =
            places.into_iter().map(|kv| Place::read(names, kv)).collect::<Result<Vec<_>, _>>()?;
        places.sort_unstable_by_key(|place| place.created);
        Ok(Self { revision, places, hidden: 0, mark: Mark::read(mark)? })
    }

    pub(crate) fn position(&self, claim: ClaimId) -> Option<usize> {
        self.places.iter().position(|place| place.words.claim == claim)
    }

    /// The place that was created at this revision.
    pub(crate) fn created_at(&self, revision: i64) -> Option<usize> {
        self.places.iter().position(|place| place.created == revision)
    }

    pub(crate) fn modes(&self) -> Vec<Mode> {
        self.places.iter().map(|place| place.words.mode).collect()
    }

    /// How many places at the head of the line are granted.
    pub(crate) fn granted(&self) -> usize {
        line::granted(self.places.iter().map(|place| place.words.mode))
    }

    /// The highest token of the line, or when nobody holds what no token has reached.
    pub(crate) fn last_token(&self) -> u64 {
        let granted = self.places.iter().take(self.granted());
        let tokens =
            granted.map(|place| place.token(self.mark).or(self.mark.token(place.changed)).unwrap_or(0));
        let marked = if self.mark.changed > 0 { self.mark.token(self.mark.changed) } else { None };
        match tokens.chain(marked).max() {
            Some(token) if !self.places.is_empty() => token,
            _ => self.mark.token(self.revision).unwrap_or(0),
        }
    }

    /// The lowest permit that no other place has.
    pub(crate) fn free_slot(&self, me: ClaimId) -> u32 {
        let others = self.places.iter().filter(|place| place.words.claim != me);
        let mut taken: Vec<_> = others.filter_map(|place| place.words.slot).collect();
        taken.sort_unstable();
        taken.iter().fold(0, |free, slot| if *slot == free { free + 1 } else { free })
    }
}

/// Whether this is the value of a place of a claim.
pub(crate) fn is_of(value: &[u8], claim: ClaimId) -> bool {
    Words::read(value).is_some_and(|words| words.claim == claim)
}

/// The token that is written in a place, if one is.
pub(crate) fn token_in(value: &[u8]) -> Option<u64> {
    Words::read(value)?.token
}

/// What a tombstone says.
pub(crate) fn gone(graves: &[KeyValue]) -> Option<Gone> {
    graves.first().map(|grave| if grave.value == EVICTED { Gone::Evicted } else { Gone::Withdrawn })
}

/// The values of tombstones.
pub(crate) const EVICTED: &[u8] = b"evicted";
pub(crate) const WITHDRAWN: &[u8] = b"withdrawn";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_a_place_says_reads_back(
            claim in any::<u128>(), kind in 0u8..3, limit in 1u32.., ttl in any::<u64>(),
            token in prop::option::of(any::<u64>()), slot in prop::option::of(any::<u32>()), command in "\\PC{0,20}",
        ) {
            let mode = match kind {
                0 => Mode::Exclusive,
                1 => Mode::Shared,
                _ => Mode::Permit { limit: NonZeroU32::new(limit).unwrap() },
            };
            let identity = Some(Arc::new(Identity::with_command(&command)));
            let words = Words { claim: ClaimId::from_bits(claim), mode, ttl, token, slot, identity };
            prop_assert_eq!(Words::read(&words.write()), Some(words));
        }
    }

    #[test]
    fn what_others_write_is_a_place_only_in_a_layout_that_is_shared() {
        let kv = |key: &[u8]| KeyValue {
            key: key.to_vec(),
            create_revision: 5,
            mod_revision: 5,
            ..Default::default()
        };
        let theirs = Names::new("tenure", EtcdLayout::Concurrency);
        let place = Place::read(&theirs, kv(b"k/2ab")).unwrap();
        assert_eq!((place.words.claim, place.words.mode), (ClaimId::from_bits(0x2ab), Mode::Exclusive));
        let ours = Names::new("tenure", EtcdLayout::Tenure);
        let refused = Place::read(&ours, kv(b"tenure/line/k\tx")).unwrap_err();
        assert_eq!(refused.kind, tenure_core::engine::EngineErrorKind::Foreign);
    }

    #[test]
    fn a_place_that_is_older_than_the_mark_needs_a_token_of_its_own() {
        let ours = Names::new("tenure", EtcdLayout::Tenure);
        let claim = Claim::new(tenure_core::Key::new("k").unwrap(), ClaimId::from_bits(1));
        let value = Words::of(&claim, None, None).write();
        let key = ours.place(&claim.key, 1);
        let kv = KeyValue { key, value, create_revision: 11, mod_revision: 11, ..Default::default() };
        let place = Place::read(&ours, kv).unwrap();
        assert_eq!(place.token(Mark::default()), Some(11));
        assert_eq!(place.token(Mark { base: 100, changed: 4 }), Some(111));
        assert_eq!(place.token(Mark { base: 0, changed: 20 }), None);
    }
}
