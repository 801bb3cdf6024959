//! What was asked, read and checked before anything is touched.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tenure::{ClaimId, Key, Ttl};

use crate::duration;
use crate::exit::{Code, Failure, TABLE};
#[cfg(feature = "verify")]
use crate::verify::{Verify, VerifyWorker};
use crate::{values, view};

/// How much of a hostile argument an error repeats.
const MESSAGE_LEN_MAX: usize = 400;

#[derive(Debug, Parser)]
#[command(
    name = "tenure",
    version,
    about = "Run a command under a distributed lock; see who holds one; break one",
    after_help = concat!(
        "Without --at and TENURE_URL, locks are kept in a directory of this machine and user.\n",
        "`tenure run --help` lists the exit codes and has examples."
    ),
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command while holding a lock
    Run(Run),
    /// Show who holds a lock, and who waits
    Status(Status),
    /// List the locks in use
    List(List),
    /// Take a lock away from its holder
    Break(Break),
    /// Make the tables of an engine in a database
    Migrate(Migrate),
    /// Torture the locks of an engine, and judge what happened
    #[cfg(feature = "verify")]
    Verify(Verify),
    /// The life of a worker of `verify`
    #[cfg(feature = "verify")]
    #[command(hide = true)]
    VerifyWorker(VerifyWorker),
}

impl Command {
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Run(run) => run.json,
            Self::Status(status) => status.json,
            Self::List(list) => list.json,
            Self::Break(broken) => broken.json,
            Self::Migrate(_) => false,
            #[cfg(feature = "verify")]
            Self::Verify(verify) => verify.json,
            #[cfg(feature = "verify")]
            Self::VerifyWorker(_) => false,
        }
    }
}

const RUN_NOTES: &str = "\
Examples:
  tenure run nightly -- ./report.sh            wait for the turn, run, release
  tenure run -n nightly -- ./report.sh         give up at once when busy, and say who holds it
  tenure run -w 30 deploy -- make deploy       wait 30 seconds at most
  tenure run --slots 3 encode -- ffmpeg …      at most three at a time
  tenure run -s data -- ./read                 together with other readers
  tenure run --max-hold 1h nightly -c './extract | ./load'

The command's environment:
  TENURE_NAME      the name of the lock
  TENURE_TOKEN     the fencing token: pass it to what you write to
  TENURE_DEADLINE  until when the hold is certain as the command starts, in seconds since 1970:
                   the end of --max-hold, else of the first lease; unset when neither ends
  TENURE_SLOT      with --slots: which of the slots it is, from 0

Signals: HUP, INT, QUIT, TERM, USR1, USR2, WINCH, TSTP and CONT reach the command's whole group.
When tenure itself is killed with KILL, so is the command, and a local lock stays taken until
the last process that it started is gone.";

fn run_help() -> String {
    format!("{RUN_NOTES}\n\n{TABLE}")
}

#[derive(Args, Debug)]
#[command(
    after_help = run_help(),
    override_usage = "tenure run [OPTIONS] NAME -- COMMAND [ARG]…\n       tenure run [OPTIONS] NAME -c LINE"
)]
pub(crate) struct Run {
    /// Wait at most this long (seconds, or a duration such as 1m 30s; 0 is -n)
    #[arg(short = 'w', long = "wait", alias = "timeout", value_name = "SECS", value_parser = duration::parse)]
    #[arg(allow_hyphen_values = true)]
    pub(crate) wait: Option<Duration>,

    /// Do not wait
    #[arg(short = 'n', long = "nonblock", visible_alias = "nb", conflicts_with = "wait")]
    pub(crate) nonblock: bool,

    /// Exit with this code when busy or timed out, instead of 120 or 124
    #[arg(short = 'E', long = "conflict-exit-code", value_name = "CODE", allow_hyphen_values = true)]
    pub(crate) conflict_exit_code: Option<u8>,

    /// Hold together with others that are shared
    #[arg(short = 's', long, conflicts_with_all = ["exclusive", "slots"])]
    pub(crate) shared: bool,

    /// Hold alone (this is the default)
    #[arg(short = 'x', long, short_alias = 'e', conflicts_with = "slots")]
    pub(crate) exclusive: bool,

    /// Hold together with up to N - 1 others; all who use the name agree on N
    #[arg(long, value_name = "N", value_parser = values::slots, allow_hyphen_values = true)]
    pub(crate) slots: Option<u32>,

    /// How long the lock stays taken after a crash, where a lease decides; 50ms to 7d
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::ttl)]
    #[arg(allow_hyphen_values = true)]
    pub(crate) ttl: Ttl,

    /// The longest time the command may take: it is ended before, with TERM and then KILL
    #[arg(long, value_name = "DURATION", value_parser = values::max_hold, allow_hyphen_values = true)]
    pub(crate) max_hold: Option<Duration>,

    /// How long the command has between TERM and KILL
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    #[arg(allow_hyphen_values = true)]
    pub(crate) grace: Duration,

    /// Run a line of shell ($SHELL, else /bin/sh)
    #[arg(short = 'c', long = "command", value_name = "LINE", conflicts_with = "command")]
    pub(crate) line: Option<OsString>,

    /// Print events as JSON lines on stderr
    #[arg(long)]
    pub(crate) json: bool,

    /// Say what happens: for whom we wait, how long, what the token is
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,

    #[command(flatten)]
    pub(crate) engine: Engine,

    /// The name of the lock: up to 512 bytes of UTF-8, without control characters
    #[arg(value_name = "NAME", value_parser = values::name())]
    pub(crate) name: Key,

    /// The command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, required_unless_present = "line")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct Engine {
    /// The engine: local: (default), local:///directory; also from TENURE_URL
    #[arg(long, value_name = "URL")]
    pub(crate) at: Option<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct Status {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) engine: Engine,

    /// The name of the lock
    #[arg(value_name = "NAME", value_parser = values::name())]
    pub(crate) name: Key,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Print one JSON object per lock and line
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) engine: Engine,

    /// Only names that begin so
    #[arg(value_name = "PREFIX", value_parser = values::prefix())]
    pub(crate) prefix: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
The present holders are broken, each after a question, unless told otherwise. A broken holder is told and killed by
its `tenure run`; its fencing token is below that of the next holder, so a resource that checks tokens refuses it.
Examples:
  tenure break nightly
  tenure break --yes nightly
  tenure break --claim 0f3a… nightly           one place, holding or waiting, as `tenure status` shows it")]
pub(crate) struct Break {
    /// Do not ask
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,

    /// Break this claim, whether it holds or waits
    #[arg(long, value_name = "ID", conflicts_with = "all", value_parser = values::claim)]
    pub(crate) claim: Option<ClaimId>,

    /// Break all of the line, those that wait as well
    #[arg(long)]
    pub(crate) all: bool,

    /// Print one JSON object per broken place on stdout
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) engine: Engine,

    /// The name of the lock
    #[arg(value_name = "NAME", value_parser = values::name())]
    pub(crate) name: Key,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Makes the tables and functions that PostgreSQL, MariaDB and MySQL need, and changes nothing where they are. It is done
once for each database, by somebody who may create tables; --print is for a migration tool of your own.
Examples:
  tenure migrate --at postgres://admin@db/app
  tenure migrate --at postgres://admin@db/app?schema=locks --print > 0042_locks.sql")]
pub(crate) struct Migrate {
    /// Print the SQL instead of running it
    #[arg(long)]
    pub(crate) print: bool,

    #[command(flatten)]
    pub(crate) engine: Engine,
}

/// Why there is nothing to do.
pub(crate) enum Refused {
    /// Help or the version was asked for, and shown.
    Shown(Code),
    /// The command line cannot be right.
    Wrong(Failure),
}

/// Reads the command line.
pub(crate) fn parse() -> Result<Cli, Refused> {
    Cli::try_parse().map_err(|error| {
        if error.use_stderr()
            && error.kind() != clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        {
            return Refused::Wrong(Failure::usage(one_line(&error.render().to_string())));
        }
        // A reader that went away has seen enough.
        let _ = error.print();
        Refused::Shown(if error.use_stderr() { Code::USAGE } else { Code::OK })
    })
}

/// Whether `--json` stands before the command, when the rest could not be read.
pub(crate) fn wants_json() -> bool {
    std::env::args_os().take_while(|argument| argument != "--").any(|argument| argument == "--json")
}

/// The error of clap as one line, without its usage and tips.
fn one_line(rendered: &str) -> String {
    let about = rendered.split("\n\n").next().unwrap_or(rendered);
    let about = about.strip_prefix("error: ").unwrap_or(about);
    let words: Vec<_> = about.split_whitespace().collect();
    let line = view::clean(&words.join(" "));
    let line = match line.char_indices().nth(MESSAGE_LEN_MAX) {
        Some((end, _)) => format!("{}… {}", &line[..end], tail(&line)),
        None => line,
    };
    format!("{line} (see --help)")
}

/// The end of a long line, which says what was wrong with its value.
fn tail(line: &str) -> &str {
    let start = line.char_indices().rev().nth(160).map_or(0, |(at, _)| at);
    &line[start..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn read(line: &[&str]) -> Result<Run, String> {
        match Cli::try_parse_from([&["tenure", "run"], line].concat()) {
            Ok(Cli { command: Command::Run(run) }) => Ok(run),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(one_line(&error.render().to_string())),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_after_the_command_are_the_commands() {
        for line in [
            &["-n", "nightly", "--", "grep", "-n", "--json", "x"][..],
            &["nightly", "-n", "--", "grep", "-n", "--json", "x"],
            &["-n", "nightly", "grep", "-n", "--json", "x"],
        ] {
            let run = read(line).unwrap();
            assert_eq!(run.command, ["grep", "-n", "--json", "x"], "{line:?}");
            assert!(run.nonblock && !run.json, "{line:?}");
        }
    }

    #[test]
    fn a_misspelt_flag_is_not_taken_for_the_command() {
        assert!(read(&["nightly", "--nonblok", "--", "true"]).unwrap_err().contains("--nonblok"));
    }

    #[test]
    fn flags_of_flock_are_understood() {
        let run = read(&["-e", "--nb", "-E", "0", "nightly", "-c", "exit 3"]).unwrap();
        assert!(run.exclusive && run.nonblock);
        assert_eq!((run.conflict_exit_code, run.line), (Some(0), Some("exit 3".into())));
        assert_eq!(
            read(&["--timeout", ".5", "a", "--", "b"]).unwrap().wait,
            Some(Duration::from_millis(500))
        );
    }

    #[test]
    fn what_contradicts_itself_is_refused_in_one_line() {
        for line in [
            &["-s", "-x", "a", "--", "b"][..],
            &["-s", "--slots", "2", "a", "--", "b"],
            &["-x", "--slots", "2", "a", "--", "b"],
            &["-n", "-w", "2", "a", "--", "b"],
            &["a", "-c", "b", "--", "c"],
            &["a"],
            &["a", "--"],
            &[],
        ] {
            let error = read(line).unwrap_err();
            assert!(!error.contains('\n'), "{line:?}: {error}");
        }
    }
}
