//! A claim: one wish to hold a key.
//!
//! The claim's id is chosen before the first byte is sent, and every verb names it. That is what makes a lost reply
//! harmless: whoever asks again asks for the same place, and whoever gives up withdraws exactly what it asked for.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{FencingToken, Key, Ttl};

/// The name of a claim: 128 random bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClaimId(u128);

impl ClaimId {
    /// An id from its bits.
    #[must_use]
    pub fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The bits of the id.
    #[must_use]
    pub fn bits(self) -> u128 {
        self.0
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClaimId({self})")
    }
}

impl From<ClaimId> for String {
    fn from(id: ClaimId) -> Self {
        id.to_string()
    }
}

impl FromStr for ClaimId {
    type Err = ClaimIdError;

    fn from_str(text: &str) -> Result<Self, ClaimIdError> {
        let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let bits = if hex { u128::from_str_radix(text, 16).ok() } else { None };
        bits.map(Self).ok_or_else(|| ClaimIdError { given: text.chars().take(64).collect() })
    }
}

impl TryFrom<String> for ClaimId {
    type Error = ClaimIdError;

    fn try_from(text: String) -> Result<Self, ClaimIdError> {
        text.parse()
    }
}

/// A text that is not a claim id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a claim id: it has 32 hexadecimal digits, as `tenure status` prints them")]
pub struct ClaimIdError {
    given: String,
}

/// How a place shares its key with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(
    clippy::exhaustive_enums,
    reason = "a fourth mode would change the rule of the line, and every engine"
)]
pub enum Mode {
    /// Alone: a mutex, or the writer of a read/write lock.
    Exclusive,
    /// Together with other shared places: a reader.
    Shared,
    /// Together with other permits, up to `limit` of them: a semaphore.
    Permit {
        /// How many permits may be held at once; all live places of a key agree on it.
        limit: NonZeroU32,
    },
}

impl Mode {
    /// The agreed limit, of a permit.
    #[must_use]
    pub fn limit(self) -> Option<NonZeroU32> {
        match self {
            Self::Permit { limit } => Some(limit),
            Self::Exclusive | Self::Shared => None,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive => f.write_str("exclusive"),
            Self::Shared => f.write_str("shared"),
            Self::Permit { limit } => write!(f, "permit of {limit}"),
        }
    }
}

/// What an attempt does when the key cannot be had at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "there is no third way to meet a busy key")]
pub enum IfBusy {
    /// Join the line and wait for the turn.
    Join,
    /// Leave nothing behind.
    Leave,
}

/// Who claims: what an operator wants to read at three in the morning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The host's name.
    pub host: String,
    /// The process id on that host.
    pub pid: u32,
    /// The command of the process, shortened to [`Identity::COMMAND_LEN_MAX`] bytes.
    pub command: String,
}

impl Identity {
    /// The longest command that is kept, in bytes.
    pub const COMMAND_LEN_MAX: usize = 200;

    /// This process: host name, process id and command line.
    #[must_use]
    pub fn of_this_process() -> Arc<Self> {
        static SELF: OnceLock<Arc<Identity>> = OnceLock::new();
        Arc::clone(SELF.get_or_init(|| {
            let command: Vec<_> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
            Arc::new(Self::with_command(&command.join(" ")))
        }))
    }

    /// This process, in the name of `command`.
    #[must_use]
    pub fn with_command(command: &str) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut end = command.len().min(Self::COMMAND_LEN_MAX);
        while !command.is_char_boundary(end) {
            end -= 1;
        }
        // A command is printed on terminals: what could steer one is not kept.
        let command = command[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { host, pid: std::process::id(), command }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}, pid {}", self.command, self.host, self.pid)
    }
}

/// One wish to hold a key, as an engine sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// What is claimed.
    pub key: Key,
    /// The name of the claim, chosen before the first request.
    pub id: ClaimId,
    /// How the place shares the key.
    pub mode: Mode,
    /// For how long the holder counts on a hold that is not renewed.
    pub ttl: Ttl,
    /// For how much longer the engine keeps the key taken after a hold that ended without a release.
    pub quarantine: Duration,
    /// What to do when the key is busy.
    pub if_busy: IfBusy,
    /// How many spare tokens a grant should reserve for handovers inside the process.
    pub spare_tokens: u32,
    /// The highest token that this client has seen for the key.
    pub floor: Option<FencingToken>,
    /// Who claims.
    pub identity: Arc<Identity>,
}

impl Claim {
    /// An exclusive claim with the default TTL, that joins the line.
    #[must_use]
    pub fn new(key: Key, id: ClaimId) -> Self {
        Self {
            key,
            id,
            mode: Mode::Exclusive,
            ttl: Ttl::default(),
            quarantine: Duration::ZERO,
            if_busy: IfBusy::Join,
            spare_tokens: 0,
            floor: None,
            identity: Identity::of_this_process(),
        }
    }

    /// What the engine is asked for: the TTL with the quarantine behind it.
    #[must_use]
    pub fn term(&self) -> Duration {
        self.ttl.duration().saturating_add(self.quarantine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_id_reads_back_what_it_writes() {
        let id = ClaimId::from_bits(0x00ff_0000_0000_0000_0000_0000_0000_0001);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1", &"g".repeat(32), &"0".repeat(33), "+0000000000000000000000000000000"] {
            assert!(bad.parse::<ClaimId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_long_or_hostile_command_is_kept_short_and_printable() {
        let identity = Identity::with_command(&format!("echo \u{1b}[2J\r\n{}", "ж".repeat(200)));
        assert!(identity.command.len() <= Identity::COMMAND_LEN_MAX);
        assert!(!identity.command.chars().any(char::is_control));
        assert_eq!(identity.pid, std::process::id());
    }
}
