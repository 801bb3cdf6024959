//! Counting what ran, from the words of the test runners themselves.
//!
//! A count that is kept beside the tests drifts from them. So the last word of each test binary is read while it
//! passes by; `libtest` and `libtest-mimic` speak it alike.

use std::fmt;
use std::ops::AddAssign;

/// What ran, and how it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// Whether something ran and nothing failed.
    pub(crate) fn is_proof(self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Finds the last words of test binaries in a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    pub(crate) heard: Tally,
    line: Vec<u8>,
}

impl Listener {
    /// Hears the next bytes, wherever they were cut.
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                if let Some(tally) = std::str::from_utf8(&self.line).ok().and_then(last_word) {
                    self.heard += tally;
                }
                self.line.clear();
            } else {
                self.line.push(*byte);
            }
        }
    }
}

/// The counts of a line like `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; …`.
/// What was filtered out did not run, so it counts as skipped.
fn last_word(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |name: &str| {
        let of = |part: &str| part.trim().strip_suffix(name)?.trim_end().parse::<u64>().ok();
        counts.split(';').find_map(of)
    };
    let skipped = count("ignored").unwrap_or(0) + count("filtered out").unwrap_or(0);
    Some(Tally { passed: count("passed")?, failed: count("failed")?, skipped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_test_binaries_are_added_up_however_they_are_cut() {
        let stream = "running 3 tests\ntest a ... ok\n\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s\n\n\
            running 2 tests\n\
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.2s\n";
        let expected = Tally { passed: 4, failed: 1, skipped: 3 };
        for cut in 0..stream.len() {
            let mut listener = Listener::default();
            listener.hear(&stream.as_bytes()[..cut]);
            listener.hear(&stream.as_bytes()[cut..]);
            assert_eq!(listener.heard, expected);
        }
    }

    #[test]
    fn other_lines_count_for_nothing() {
        for line in [
            "test result: ok",
            "test a ... ok",
            "  test result: ok. 1 passed; 0 failed",
            "3 passed; 0 failed",
        ] {
            assert_eq!(last_word(line), None, "{line}");
        }
    }

    #[test]
    fn a_run_of_nothing_and_a_run_with_a_failure_prove_nothing() {
        assert!(!Tally::default().is_proof());
        assert!(!Tally { passed: 9, failed: 1, skipped: 0 }.is_proof());
        assert!(Tally { passed: 1, failed: 0, skipped: 5 }.is_proof());
        assert_eq!(Tally { passed: 1, failed: 0, skipped: 5 }.to_string(), "1 passed, 0 failed, 5 skipped");
    }
}
