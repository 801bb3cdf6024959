//! Clocks that a test can set: a small library in C that is loaded before everything else of a program.
//!
//! It answers the program's questions for the time with offsets that the test changes while the program runs. So a
//! server's clock can be set, and a machine can seem to have been suspended, although the machine's own clocks go on.
//! Programs that ask the kernel without the C library (such as Go's) do not notice.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Program, ServerError};

/// The clocks of programs that are started under it.
#[derive(Debug)]
pub struct ClockShim {
    directory: TempDir,
    offsets: Mutex<Offsets>,
    page: File,
}

/// How far each clock is from the machine's, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Offsets {
    day: i64,
    monotonic: i64,
    boot: i64,
}

/// Which way a clock is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "time has two directions")]
pub enum Step {
    /// Later.
    Forward(Duration),
    /// Earlier.
    Back(Duration),
}

impl ClockShim {
    /// Clocks that are right, for now.
    ///
    /// # Errors
    /// When there is no C compiler, or it fails.
    pub fn new() -> Result<Self, ServerError> {
        let directory = tempfile::tempdir().map_err(ServerError::step("make a directory"))?;
        let source = directory.path().join("clock_shim.c");
        std::fs::write(&source, include_str!("clock_shim.c")).map_err(ServerError::step("write the shim"))?;
        let compile = Program::new("cc", "gcc").args(["-O2", "-shared", "-fPIC", "-o"]);
        compile.arg(directory.path().join(LIBRARY)).arg(source).run()?;
        let page =
            File::create(directory.path().join(PAGE)).map_err(ServerError::step("write the clocks"))?;
        // Programs of other users are to read it, too: some servers refuse to run as root.
        open_up(&directory).map_err(ServerError::step("open the shim to all users"))?;
        let shim = Self { directory, offsets: Mutex::default(), page };
        shim.change(|_| {})?;
        Ok(shim)
    }

    /// The same, or none when this machine has no C compiler; then says on standard error which test is skipped.
    ///
    /// # Errors
    /// When there is a compiler and it fails.
    pub fn unless_missing(test: &str) -> Result<Option<Self>, ServerError> {
        match Self::new() {
            Err(missing @ ServerError::Missing { .. }) => {
                eprintln!("{test}: skipped, {missing}");
                Ok(None)
            }
            shim => shim.map(Some),
        }
    }

    /// The program, by these clocks.
    #[must_use]
    pub fn around(&self, program: Program) -> Program {
        self.variables().into_iter().fold(program, |program, (name, value)| program.env(name, value))
    }

    /// What a program needs in its environment to go by these clocks.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, OsString); 2] {
        [("LD_PRELOAD", self.path(LIBRARY).into()), ("TENURE_CLOCK_OFFSETS", self.path(PAGE).into())]
    }

    /// Sets the clock of the day, as an operator or a time server does.
    ///
    /// # Errors
    /// When the shared page cannot be written.
    pub fn step(&self, step: Step) -> Result<(), ServerError> {
        let nanos = match step {
            Step::Forward(by) => nanos(by),
            Step::Back(by) => -nanos(by),
        };
        self.change(|offsets| offsets.day = offsets.day.saturating_add(nanos))
    }

    /// The machine seems to have been suspended: the monotonic clock has stood still, the two others have not.
    ///
    /// # Errors
    /// When the shared page cannot be written.
    pub fn suspend(&self, duration: Duration) -> Result<(), ServerError> {
        self.change(|offsets| {
            offsets.day = offsets.day.saturating_add(nanos(duration));
            offsets.boot = offsets.boot.saturating_add(nanos(duration));
        })
    }

    fn change(&self, change: impl FnOnce(&mut Offsets)) -> Result<(), ServerError> {
        let mut offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut offsets);
        let bytes = [offsets.day, offsets.monotonic, offsets.boot].map(i64::to_ne_bytes).concat();
        self.page.write_all_at(&bytes, 0).map_err(ServerError::step("set the clocks"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

const LIBRARY: &str = "clock_shim.so";
const PAGE: &str = "offsets";

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn open_up(directory: &TempDir) -> std::io::Result<()> {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    set_permissions(directory.path(), Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_goes_by_the_clocks_that_the_test_has_set() {
        let Some(shim) = ClockShim::unless_missing("the clock shim").unwrap() else { return };
        let year = |shim: &ClockShim| {
            let mut date = std::process::Command::new("date");
            let output = date.arg("+%Y").envs(shim.variables()).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<i64>().unwrap()
        };
        let now = year(&shim);
        let decade = Duration::from_secs(3653 * 24 * 3600);
        shim.step(Step::Forward(decade)).unwrap();
        assert_eq!(year(&shim), now + 10);
        shim.step(Step::Back(decade * 2)).unwrap();
        assert_eq!(year(&shim), now - 10);
        shim.suspend(decade).unwrap();
        assert!((now - 1..=now + 1).contains(&year(&shim)));
    }
}
