//! The name of a member, and of its files.

use std::ffi::CStr;

/// The name of a member: 128 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MemberId(u128);

impl MemberId {
    pub(crate) fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u128 {
        self.0
    }

    /// The name of its file.
    pub(crate) fn file(self) -> String {
        format!("{:032x}", self.0)
    }

    /// The name of its socket.
    pub(crate) fn socket(self) -> String {
        format!("{:032x}.sock", self.0)
    }

    /// The member whose file or socket has this name.
    pub(crate) fn of_name(name: &CStr) -> Option<Self> {
        let name = name.to_str().ok()?;
        let hex = name.strip_suffix(".sock").unwrap_or(name);
        let is_hex = hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then(|| u128::from_str_radix(hex, 16).ok().map(Self))?
    }
}
