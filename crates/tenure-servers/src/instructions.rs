//! Counts the instructions that a program executes, which are nearly the same on every machine and under every load.
//!
//! The counter is valgrind's cachegrind, which runs a program some fifty times slower. What the kernel does is not
//! counted.

use crate::Program;

impl Program {
    /// The same program with its instructions counted: when it has ended, [`instructions`] reads the number from what
    /// it said.
    #[must_use]
    pub fn counted(self) -> Self {
        let counter =
            ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", "--log-fd=1"];
        self.under(Program::new("valgrind", "valgrind").args(counter))
    }
}

/// How many instructions a program has executed that was started [`Program::counted`] and has ended; none before, when
/// it has not said so yet.
#[must_use]
pub fn instructions(said: &str) -> Option<u64> {
    // "==123== I refs:        1,234,567", with a blank more or less between versions.
    let count =
        said.lines().find_map(|line| line.split_once("refs:").filter(|(who, _)| who.contains(" I ")))?.1;
    count.trim().replace(',', "").parse().ok()
}
