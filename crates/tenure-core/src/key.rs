//! The name of what is locked.
//!
//! A key is checked once, where it enters, so that no engine has to think about hostile names again: an engine only
//! has to map a key to its own space without two keys meeting (each engine page says how).
//!
//! # Invariants
//! 1. A key has 1 to [`Key::LEN_MAX`] bytes of UTF-8.
//! 2. A key has no control characters: a name must be safe to print on an operator's terminal, in a log line and in
//!    an environment variable. `/`, `..`, `{}`, `%` and spaces are ordinary characters.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What is locked: a name of 1 to 512 bytes of UTF-8 without control characters.
///
/// ```
/// use tenure_core::Key;
///
/// let key: Key = "orders/42".parse()?;
/// assert_eq!(key.as_str(), "orders/42");
/// assert!("".parse::<Key>().is_err());
/// # Ok::<(), tenure_core::KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The longest key, in bytes.
    pub const LEN_MAX: usize = 512;

    /// Checks a name and makes it a key.
    ///
    /// # Errors
    /// [`KeyError`] says which rule the name breaks, and where.
    pub fn new(name: impl AsRef<str>) -> Result<Self, KeyError> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(KeyError::Empty);
        }
        if name.len() > Self::LEN_MAX {
            return Err(KeyError::TooLong { len: name.len() });
        }
        if let Some((at, control)) = name.char_indices().find(|(_, c)| c.is_control()) {
            return Err(KeyError::Control { name: name.to_owned(), at, control });
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(name: &str) -> Result<Self, KeyError> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Key {
    type Error = KeyError;

    fn try_from(name: &str) -> Result<Self, KeyError> {
        Self::new(name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

/// Why a name cannot be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The name has no characters.
    #[error("a lock name cannot be empty: give it at least one character")]
    Empty,
    /// The name is longer than [`Key::LEN_MAX`].
    #[error("a lock name has at most 512 bytes, this one has {len}: shorten it, or lock a hash of it")]
    TooLong {
        /// How many bytes it has.
        len: usize,
    },
    /// The name has a control character.
    #[error("lock name {name:?} has the control character {control:?} at byte {at}: remove it")]
    Control {
        /// The name as given.
        name: String,
        /// The byte at which the character begins.
        at: usize,
        /// The character.
        control: char,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c114_hostile_names_are_keys_or_typed_errors() {
        for fine in ["a", "orders/42", "..", "/", "{}", "a b", "%2f", "ключ", "🔒", "-rf", "*"] {
            assert_eq!(Key::new(fine).map(|k| k.as_str().to_owned()), Ok(fine.to_owned()));
        }
        assert_eq!(Key::new(""), Err(KeyError::Empty));
        assert_eq!(Key::new("x".repeat(512)).map(|k| k.as_str().len()), Ok(512));
        assert_eq!(Key::new("x".repeat(65_536)), Err(KeyError::TooLong { len: 65_536 }));
        for (name, at, control) in [("a\0b", 1, '\0'), ("a\r\nb", 1, '\r'), ("ab\u{1b}[2J", 2, '\u{1b}')] {
            assert_eq!(Key::new(name), Err(KeyError::Control { name: name.to_owned(), at, control }));
        }
    }
}
