//! Running a proof: each step in turn, with its output as it comes, and one honest count at the end.
//!
//! # Invariants
//! 1. Every step counts: a gate as one, tests as many as they are, what is left out as skipped.
//! 2. A step that fails does not hide what the later ones would say: all steps run.
//! 3. Nothing is tried twice. A test that fails now and then is a bug.
//! 4. The last line is the count.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::steps::{self, Extent, Step, Tool, What};
use crate::tally::{Listener, Tally};
use crate::{cargo, root, servers, tidy};

/// For how long output may still come after a command has ended, before we believe that it left a process behind.
const AFTERMATH_MAX: Duration = Duration::from_secs(10);

/// Runs all steps, and prints the count.
pub(crate) fn prove(extent: Extent) -> ExitCode {
    let steps = steps::of(extent, &root());
    let started = now();
    let mut total = Tally::default();
    let mut failures = Vec::new();
    let all = steps.len();
    for (at, Step { name, what }) in (1..).zip(steps) {
        println!("\n[{at}/{all}] {name}");
        flush();
        let begun = now();
        let (tally, trouble) = run(what);
        println!("[{at}/{all}] {name}: {tally} ({:.1} s)", begun.elapsed().as_secs_f64());
        total += tally;
        failures.extend(trouble.map(|trouble| format!("{name}: {trouble}")));
    }
    println!("\nfinished after {:.0} s", started.elapsed().as_secs_f64());
    for failure in failures {
        println!("FAILED {failure}");
    }
    println!("{total}");
    flush();
    if total.is_proof() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const PASSED: Tally = Tally { passed: 1, failed: 0, skipped: 0 };
const FAILED: Tally = Tally { passed: 0, failed: 1, skipped: 0 };
const SKIPPED: Tally = Tally { passed: 0, failed: 0, skipped: 1 };

/// Fetches Valkey as well, and counts as skipped what needs it where it cannot be had.
fn with_valkey(mut tally: Tally) -> Tally {
    let program = std::env::current_exe().unwrap_or_default();
    let build = program.ancestors().nth(2).unwrap_or(&program);
    if let Err(why) = servers::fetch_valkey(build) {
        println!("skipped: the tests on Valkey, which cannot be had here ({why})");
        tally += SKIPPED;
    }
    tally
}

/// Runs one step, and says what went wrong.
fn run(what: What) -> (Tally, Option<String>) {
    match what {
        What::Tidy if tidy::check(&root()) => (PASSED, None),
        What::Tidy => (FAILED, Some("see the lines above".to_owned())),
        What::Servers => match servers::ensure(servers::ALL) {
            Ok(()) => (with_valkey(PASSED), None),
            Err(trouble) => (FAILED, Some(trouble)),
        },
        What::LeftOut(reason) => {
            println!("left out: {reason}");
            (SKIPPED, None)
        }
        What::Gate(command, tool) => match missing(tool).map_or_else(|| gate(command), Err) {
            Ok(()) => (PASSED, None),
            Err(trouble) => {
                println!("{trouble}");
                (FAILED, Some(trouble))
            }
        },
        What::Tests(command) => tests(command, std::io::stdout(), AFTERMATH_MAX),
    }
}

/// What to do about a tool that is missing.
fn missing(tool: Option<Tool>) -> Option<String> {
    let tool = tool?;
    let asked =
        cargo().args([tool.command, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = asked.is_ok_and(|status| status.success());
    (!there).then(|| format!("`cargo {}` does not work: {}", tool.command, tool.remedy))
}

fn gate(mut command: Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("cannot start {}: {error}", words(&command)))?;
    if status.success() { Ok(()) } else { Err(format!("{status} from {}", words(&command))) }
}

/// Runs tests and counts them while their output passes by.
fn tests(
    mut command: Command,
    shown: impl Write + Send + 'static,
    aftermath: Duration,
) -> (Tally, Option<String>) {
    let mut child = match command.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => return (FAILED, Some(format!("cannot start {}: {error}", words(&command)))),
    };
    let (heard, hears) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        // Not joined: a process that a test has left behind can keep the pipe open, and must not keep us.
        std::thread::spawn(move || pass_by(output, shown, &heard));
    }
    let ended = child.wait();
    let mut tally = Tally::default();
    let trouble = loop {
        match hears.recv_timeout(aftermath) {
            Ok(more) => tally += more,
            Err(mpsc::RecvTimeoutError::Disconnected) => break None,
            Err(mpsc::RecvTimeoutError::Timeout) => break Some("a test left a process behind".to_owned()),
        }
    };
    let trouble = trouble.or_else(|| match ended {
        Err(error) => Some(error.to_string()),
        Ok(status) if !status.success() => Some(format!("{status} from {}", words(&command))),
        Ok(_) if tally.passed + tally.failed == 0 => Some("no test ran".to_owned()),
        Ok(_) => None,
    });
    if trouble.is_some() && tally.failed == 0 {
        tally += FAILED;
    }
    (tally, trouble)
}

/// Copies output as it comes, and reports what its lines count.
fn pass_by(mut output: impl Read, mut shown: impl Write, heard: &mpsc::Sender<Tally>) {
    let mut listener = Listener::default();
    let mut bytes = [0; 8192];
    while let Ok(read @ 1..) = output.read(&mut bytes) {
        // Who closed our output does not want to see it; the count goes on.
        let _ = shown.write_all(&bytes[..read]).and_then(|()| shown.flush());
        listener.hear(&bytes[..read]);
        if heard.send(std::mem::take(&mut listener.heard)).is_err() {
            return;
        }
    }
}

/// A command as one would type it.
fn words(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = [program].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn flush() {
    // Who closed our output does not want to see it; the exit code still counts.
    let _ = std::io::stdout().flush();
}

#[allow(clippy::disallowed_methods, reason = "shown to people, decides nothing")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'";

    /// Shows nothing: whoever counts us would count it, too.
    fn shell(script: &str) -> (Tally, Option<String>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        tests(command, std::io::sink(), Duration::from_millis(500))
    }

    #[test]
    fn what_ran_is_what_counts() {
        assert_eq!(shell(&format!("{TWO}; {TWO}")), (Tally { passed: 4, failed: 0, skipped: 0 }, None));
    }

    #[test]
    fn a_command_that_fails_without_a_failed_test_counts_as_one() {
        let (tally, trouble) = shell(&format!("{TWO}; exit 101"));
        assert_eq!(tally, Tally { passed: 2, failed: 1, skipped: 0 });
        assert!(trouble.is_some());
    }

    #[test]
    fn a_failed_test_is_not_counted_twice() {
        let failed = "echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out'";
        let (tally, trouble) = shell(&format!("{failed}; exit 101"));
        assert_eq!(tally, Tally { passed: 1, failed: 1, skipped: 0 });
        assert!(trouble.is_some());
    }

    #[test]
    fn a_run_of_nothing_fails() {
        assert_eq!(shell("true").0, FAILED);
        assert_eq!(tests(Command::new("/does/not/exist"), std::io::sink(), Duration::ZERO).0, FAILED);
    }

    #[test]
    fn a_process_that_a_test_left_behind_is_noticed_and_does_not_keep_us() {
        let (tally, trouble) = shell(&format!("sleep 5 & {TWO}"));
        assert_eq!(tally, Tally { passed: 2, failed: 1, skipped: 0 });
        assert_eq!(trouble.as_deref(), Some("a test left a process behind"));
    }

    #[test]
    fn a_missing_tool_is_named_with_its_remedy() {
        let tool = Tool { command: "no-such-subcommand", remedy: "install it" };
        assert_eq!(
            missing(Some(tool)).as_deref(),
            Some("`cargo no-such-subcommand` does not work: install it")
        );
        assert_eq!(missing(None), None);
    }
}
