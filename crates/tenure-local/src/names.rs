//! The file name of a key, and the key of a file name.
//!
//! A key is any text; a file name has reserved characters, at most 255 bytes, and on some file systems no difference
//! between `A` and `a`. Two keys that met in one file would be one lock, so nothing is cut or folded: what is not
//! plainly safe is escaped, and what becomes too long is named by its hash.
//!
//! # Invariants
//! 1. Two keys have two names, also where case is folded: names have no upper-case letters.
//! 2. A name has at most 255 bytes, no `/`, no NUL, and does not begin with a dot.
//! 3. `~` stands only in hashed names, so that no plain name can be one; the file itself says which key it is of.

use sha2::{Digest, Sha256};
use tenure_core::Key;

/// The longest plain name, in bytes.
const PLAIN_LEN_MAX: usize = 200;
/// How much of a long name is kept in front of its hash, for people.
const PREFIX_LEN: usize = 120;

/// What a file name says of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// It is this key.
    Key(Key),
    /// It is a key too long to be spelled in the name; the file spells it.
    Hashed,
}

/// The name of the file that keeps the key.
pub(crate) fn file_name(key: &Key) -> String {
    let mut name = String::with_capacity(key.as_str().len() + 8);
    for (at, byte) in key.as_str().bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if at > 0 => name.push('.'),
            _ => {
                name.push('%');
                push_hex(&mut name, byte);
            }
        }
    }
    if name.len() > PLAIN_LEN_MAX {
        name.truncate(PREFIX_LEN);
        name.push('~');
        for byte in Sha256::digest(key.as_str()) {
            push_hex(&mut name, byte);
        }
    }
    name
}

/// What a file name says of its key; none when no key has this name.
pub(crate) fn named(name: &str) -> Option<Named> {
    if let Some((_, hash)) = name.split_once('~') {
        let hex = hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        return hex.then_some(Named::Hashed);
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
            bytes.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let key = Key::new(String::from_utf8(bytes).ok()?).ok()?;
    // Only one spelling of each key counts: `%61` is not `a`.
    (file_name(&key) == name).then_some(Named::Key(key))
}

fn push_hex(name: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    name.push(char::from(DIGITS[usize::from(byte >> 4)]));
    name.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> impl Strategy<Value = Key> {
        let text = prop_oneof!["[a-cA-C./%~_ -]{1,6}", "[a-zA-Z/.]{150,300}", "\\PC{1,60}", "[é%]{60,200}"];
        text.prop_filter_map("not a key", |text| Key::new(text).ok())
    }

    #[test]
    fn c114_names_are_readable_and_have_no_second_meaning() {
        let name = |key: &str| file_name(&Key::new(key).unwrap());
        assert_eq!(name("orders-42_x.y"), "orders-42_x.y");
        assert_eq!(name("orders/42"), "orders%2f42");
        assert_eq!(name("Orders"), "%4frders");
        assert_eq!(name(".."), "%2e.");
        assert_eq!(name("."), "%2e");
        assert_eq!(name("%2f"), "%252f");
        assert_eq!(name("a~b"), "a%7eb");
        for foreign in ["", ".", "..", "a/b", "A", "%61", "%2F", "%2", "%zz", "a b", "a~b", "FORMAT", "%00"] {
            assert_eq!(named(foreign), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn c114_distinct_keys_have_distinct_names_even_where_case_is_folded(a in keys(), b in keys()) {
            let (x, y) = (file_name(&a), file_name(&b));
            prop_assert_eq!(a == b, x.to_lowercase() == y.to_lowercase());
            prop_assert_eq!(a == b, x.to_uppercase() == y.to_uppercase());
        }

        #[test]
        fn c114_a_name_is_legal_and_reads_back(key in keys()) {
            let name = file_name(&key);
            prop_assert!(!name.is_empty() && name.len() <= 255 && !name.starts_with('.'));
            prop_assert!(!name.contains(['/', '\0']));
            let expected = if name.contains('~') { Named::Hashed } else { Named::Key(key) };
            prop_assert_eq!(named(&name), Some(expected));
        }

        #[test]
        fn c114_long_keys_that_differ_only_at_the_end_have_distinct_names(tail in 0u32..1_000) {
            let long = |tail| Key::new(format!("{}{tail}", "x".repeat(500))).unwrap();
            prop_assert_ne!(file_name(&long(tail)), file_name(&long(tail + 1)));
        }

        #[test]
        fn any_file_name_is_read_without_a_panic(name in "\\PC{0,80}") {
            let _ = named(&name);
        }
    }
}
