//! How lines, places, tombstones and marks are called.
//!
//! | Key | What it is |
//! |---|---|
//! | `<root>/line/<name>⇥<lease in hex>` | a place; its value says whose it is and what it wants |
//! | `<root>/gone/<name>⇥<claim>` | a tombstone |
//! | `<root>/mark/<name>` | the last token that was given to a place younger than another |
//! | `<name>/<lease in hex>` | a place in the layout of etcd's `concurrency` package |
//!
//! The tabulator after a name cannot be in a name, so no line is part of another, and keys sort as names.
//!
//! A place is named by the lease that its claim has for holding, not by its claim: the next claim that has this lease
//! has a place of the same name. etcd remembers each name that was ever used until its history is compacted, and
//! whoever reads a line passes by all that it remembers.

use tenure_core::{ClaimId, Key};

use crate::options::EtcdLayout;

/// What keys begin with, and the layout of lines.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    root: String,
    layout: EtcdLayout,
}

/// A half-open range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

impl Span {
    /// All keys with this prefix, which must not be empty and end below 255.
    fn of_prefix(prefix: Vec<u8>) -> Self {
        let mut end = prefix.clone();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Self { first: prefix, end }
    }
}

impl Names {
    pub(crate) fn new(root: &str, layout: EtcdLayout) -> Self {
        Self { root: root.to_owned(), layout }
    }

    pub(crate) fn layout(&self) -> EtcdLayout {
        self.layout
    }

    /// All places of a key.
    pub(crate) fn line(&self, key: &Key) -> Span {
        Span::of_prefix(match self.layout {
            EtcdLayout::Tenure => format!("{}/line/{key}\t", self.root).into_bytes(),
            EtcdLayout::Concurrency => format!("{key}/").into_bytes(),
        })
    }

    /// The place of a claim that is to hold by this lease.
    pub(crate) fn place(&self, key: &Key, lease: i64) -> Vec<u8> {
        match self.layout {
            EtcdLayout::Tenure => format!("{}/line/{key}\t{lease:x}", self.root).into_bytes(),
            EtcdLayout::Concurrency => format!("{key}/{lease:x}").into_bytes(),
        }
    }

    pub(crate) fn grave(&self, key: &Key, claim: ClaimId) -> Vec<u8> {
        format!("{}/gone/{key}\t{claim}", self.root).into_bytes()
    }

    pub(crate) fn mark(&self, key: &Key) -> Vec<u8> {
        format!("{}/mark/{key}", self.root).into_bytes()
    }

    /// All places of all keys that begin with `prefix` and come after `after`.
    pub(crate) fn lines(&self, prefix: &str, after: Option<&Key>) -> Span {
        let prefix = match self.layout {
            EtcdLayout::Tenure => format!("{}/line/{prefix}", self.root).into_bytes(),
            EtcdLayout::Concurrency => prefix.as_bytes().to_vec(),
        };
        // An empty prefix stands for all keys: etcd writes that as a range from and to a zero byte.
        let mut span =
            if prefix.is_empty() { Span { first: vec![0], end: vec![0] } } else { Span::of_prefix(prefix) };
        if let Some(after) = after {
            span.first = span.first.max(self.line(after).end);
        }
        span
    }

    /// The name whose line has this place; none for what is no place.
    pub(crate) fn key_of(&self, place: &[u8]) -> Option<Key> {
        let place = std::str::from_utf8(place).ok()?;
        let (name, _) = match self.layout {
            EtcdLayout::Tenure => {
                place.strip_prefix(&*self.root)?.strip_prefix("/line/")?.rsplit_once('\t')?
            }
            EtcdLayout::Concurrency => place.rsplit_once('/')?,
        };
        Key::new(name).ok()
    }

    /// A name for whoever has a place in the layout of others, made from the lease.
    pub(crate) fn stranger(place: &[u8]) -> Option<ClaimId> {
        let place = std::str::from_utf8(place).ok()?;
        u128::from_str_radix(place.rsplit_once('/')?.1, 16).ok().map(ClaimId::from_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(layout: EtcdLayout) -> Names {
        Names::new("tenure", layout)
    }

    #[test]
    fn a_place_is_called_as_the_documentation_says() {
        let (key, claim) = (Key::new("orders/42").unwrap(), ClaimId::from_bits(7));
        let ours = names(EtcdLayout::Tenure);
        let id = "00000000000000000000000000000007";
        assert_eq!(ours.place(&key, 0x2ab), b"tenure/line/orders/42\t2ab");
        assert_eq!(ours.grave(&key, claim), format!("tenure/gone/orders/42\t{id}").into_bytes());
        assert_eq!(ours.mark(&key), b"tenure/mark/orders/42");
        let theirs = names(EtcdLayout::Concurrency);
        assert_eq!(theirs.place(&key, 0x2ab), b"orders/42/2ab");
        assert_eq!(Names::stranger(b"orders/42/2ab"), Some(ClaimId::from_bits(0x2ab)));
        assert_eq!(theirs.key_of(b"orders/42/2ab"), Some(key));
    }

    proptest! {
        #[test]
        fn c114_no_line_is_part_of_another_and_keys_sort_as_names(a in "[a-c/ %é]{1,6}", b in "[a-c/ %é]{1,6}") {
            let (one, two) = (Key::new(&a).unwrap(), Key::new(&b).unwrap());
            let ours = names(EtcdLayout::Tenure);
            let (first, second) = (ours.place(&one, 1), ours.place(&two, 1));
            prop_assert_eq!(ours.key_of(&first), Some(one.clone()));
            prop_assert_eq!(first.cmp(&second), one.cmp(&two));
            let span = ours.line(&one);
            prop_assert_eq!(span.first <= second && second < span.end, one == two);
        }
    }
}
