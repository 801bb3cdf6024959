//! The exit codes, all of them, and the failures that end in one.
//!
//! The command's own code passes through, so ours must not be mistaken for one. They are in the range in which
//! `timeout`, `env` and `xargs` speak of themselves (120 to 127), and 124 means a time limit, as there. `flock`'s 1
//! would be indistinguishable from the most common failure of a command; who wants it says `-E 1`.

use std::fmt;

use tenure::{Error, ErrorKind};

/// What `tenure` exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(u8);

impl Code {
    /// All is well.
    pub(crate) const OK: Self = Self(0);
    /// `break` was asked not to.
    pub(crate) const DECLINED: Self = Self(1);
    /// `verify` found a rule broken.
    #[cfg(feature = "verify")]
    pub(crate) const VIOLATED: Self = Self(1);
    /// `verify` could not prove anything.
    #[cfg(feature = "verify")]
    pub(crate) const UNPROVEN: Self = Self(2);
    /// `verify` cannot reach the engine.
    #[cfg(feature = "verify")]
    pub(crate) const NOT_REACHED: Self = Self(3);
    /// The command line, a name, a duration or a URL cannot be right (`EX_USAGE`).
    pub(crate) const USAGE: Self = Self(64);
    /// Somebody else holds the lock, and `-n` was given. `-E` changes it.
    pub(crate) const BUSY: Self = Self(120);
    /// The hold was lost or reached `--max-hold`, and the command was ended.
    pub(crate) const LOST: Self = Self(121);
    /// The engine cannot be reached: who holds the lock is unknown.
    pub(crate) const UNREACHABLE: Self = Self(122);
    /// The engine was reached, and refuses.
    pub(crate) const REFUSED: Self = Self(123);
    /// The time of `-w` was over. `-E` changes it.
    pub(crate) const TIMED_OUT: Self = Self(124);
    /// `tenure` itself failed.
    pub(crate) const INTERNAL: Self = Self(125);
    /// The command cannot be executed.
    pub(crate) const NOT_EXECUTABLE: Self = Self(126);
    /// The command does not exist.
    pub(crate) const NOT_FOUND: Self = Self(127);

    /// The code that a command exited with, or that the user chose.
    pub(crate) fn of(number: u8) -> Self {
        Self(number)
    }

    /// The code of an end by a signal, as shells have it.
    pub(crate) fn of_signal(signal: i32) -> Self {
        Self(u8::try_from(signal).unwrap_or(0).saturating_add(128))
    }

    pub(crate) fn number(self) -> i32 {
        i32::from(self.0)
    }
}

/// The table for `--help`.
pub(crate) const TABLE: &str = "\
Exit codes:
  0-255  the command's own code; 128+n when signal n ended it
  64     usage: a flag, name, duration or URL cannot be right
  120    busy: somebody else holds it (-n)            [-E changes it]
  121    lost: the hold ended early, the command was killed
  122    engine unreachable: nothing was run
  123    engine refused: no permission, other limit, foreign or damaged file, full disk
  124    timed out: not acquired within -w            [-E changes it]
  125    tenure itself failed
  126    the command cannot be executed
  127    the command was not found";

/// Why `tenure` did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::USAGE, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::INTERNAL, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The code of a library error.
pub(crate) fn code_of(error: &Error) -> Code {
    match error.kind() {
        ErrorKind::InvalidName
        | ErrorKind::InvalidDuration
        | ErrorKind::InvalidLimit
        | ErrorKind::InvalidUrl => Code::USAGE,
        ErrorKind::Unreachable => Code::UNREACHABLE,
        ErrorKind::Denied
        | ErrorKind::LimitMismatch { .. }
        | ErrorKind::Foreign
        | ErrorKind::Full
        | ErrorKind::Unsupported
        | ErrorKind::Evicted => Code::REFUSED,
        _ => Code::INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_ours_is_distinct_and_in_the_table() {
        let ours = [
            Code::USAGE,
            Code::BUSY,
            Code::LOST,
            Code::UNREACHABLE,
            Code::REFUSED,
            Code::TIMED_OUT,
            Code::INTERNAL,
            Code::NOT_EXECUTABLE,
            Code::NOT_FOUND,
        ];
        for (index, code) in ours.iter().enumerate() {
            assert!(!ours[..index].contains(code));
            assert!(TABLE.lines().any(|line| line.trim_start().starts_with(&code.number().to_string())));
        }
    }

    #[test]
    fn a_signal_is_128_and_its_number() {
        assert_eq!(Code::of_signal(15).number(), 143);
        assert_eq!(Code::of_signal(64).number(), 192);
    }
}
