//! How keys, connections and clients are called on the server.
//!
//! A key lives in one hash, `tenure:{<name>}`. The braces are the hash tag of a cluster: `%`, `{` and `}` in the name
//! are written `%25`, `%7b` and `%7d`, so that the tag is always exactly the escaped name, and two names never meet.

use std::fmt::Write;

use tenure_core::{ClaimId, Key};

/// What the names of all lines begin with.
const PREFIX: &str = "tenure:{";

/// The hash of a key's line.
pub(crate) fn hash_of(key: &Key) -> String {
    let mut hash = String::with_capacity(PREFIX.len() + key.as_str().len() + 1);
    hash.push_str(PREFIX);
    escape_into(&mut hash, key.as_str());
    hash.push('}');
    hash
}

/// The key whose line is in this hash, if it is one of ours.
pub(crate) fn key_of(hash: &str) -> Option<Key> {
    let escaped = hash.strip_prefix(PREFIX)?.strip_suffix('}')?;
    let mut name = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find('%') {
        name.push_str(&rest[..at]);
        name.push(match rest.get(at..at + 3)? {
            "%25" => '%',
            "%7b" => '{',
            "%7d" => '}',
            _ => return None,
        });
        rest = &rest[at + 3..];
    }
    name.push_str(rest);
    Key::new(name).ok().filter(|key| hash_of(key) == hash)
}

/// A pattern for `SCAN` that finds the hashes of all keys with this prefix.
pub(crate) fn pattern_of(prefix: &str) -> String {
    let mut escaped = String::new();
    escape_into(&mut escaped, prefix);
    let mut pattern = PREFIX.to_owned();
    for c in escaped.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push_str("*}");
    pattern
}

/// The channel on which a connection is told of grants.
pub(crate) fn channel_of(connection: u64) -> String {
    let mut channel = String::with_capacity(26);
    // Writing to a string cannot fail.
    let _ = write!(channel, "tenure:to:{connection:016x}");
    channel
}

/// A claim as scripts are told of it: as it stands in a line whose first place it is, when it holds.
pub(crate) fn mine(claim: ClaimId) -> String {
    let mut mine = String::with_capacity(MINE);
    // Writing to a string cannot fail.
    let _ = write!(mine, " {claim} holds ");
    mine
}

/// How long that is; no words of a verb for many are as long, which is how the server tells a claim from them.
pub(crate) const MINE: usize = 40;

/// The claim in what [`mine`] gives.
pub(crate) fn claim_in(mine: &str) -> &str {
    mine.get(1..33).unwrap_or_default()
}

/// The string that says who a client is.
pub(crate) fn card_of(card: u64) -> String {
    format!("tenure:client:{card:016x}")
}

fn escape_into(out: &mut String, name: &str) {
    for c in name.chars() {
        match c {
            '%' => out.push_str("%25"),
            '{' => out.push_str("%7b"),
            '}' => out.push_str("%7d"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn c072_the_hash_tag_of_any_name_is_the_whole_name() {
        for (name, hash) in [
            ("orders/42", "tenure:{orders/42}"),
            ("{}", "tenure:{%7b%7d}"),
            ("}a{", "tenure:{%7da%7b}"),
            ("100%", "tenure:{100%25}"),
            ("ключ", "tenure:{ключ}"),
        ] {
            assert_eq!(hash_of(&Key::new(name).unwrap()), hash);
        }
        assert_eq!(key_of("tenure:{%7B}"), None, "not as we write it");
        assert_eq!(key_of("tenure:{%ж}"), None);
        assert_eq!(key_of("tenure:{}"), None);
    }

    proptest! {
        #[test]
        fn c114_every_name_reads_back_and_no_two_meet(name in "[a-c{}%7bd25*]{1,8}") {
            let key = Key::new(&name).unwrap();
            prop_assert_eq!(key_of(&hash_of(&key)), Some(key));
        }
    }
}
