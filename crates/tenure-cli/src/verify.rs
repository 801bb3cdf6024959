//! `tenure verify`: proves the locks on the user's own engine.
//!
//! Its exit codes are not those of `tenure run`: no command's code passes through, so small numbers are free.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use tenure::Ttl;
use tenure_verify::history::History;
use tenure_verify::{Live, Options, Outcome, Verdict, VerifyError};

use crate::duration;
use crate::exit::{Code, Failure};
use crate::report::print;
use crate::values;

/// The flags of `tenure verify`.
#[derive(Args, Debug)]
#[command(after_help = "\
Workers lock, work and unlock under keys of their own, tenure-verify/…, and touch nothing else. Servers are only
harmed that were started for the run, with --own-servers. Without URL: the local engine, in a directory of its own.
Faults: kill, pause (workers), cut (the way to the server); with --own-servers: clock, restart, freeze, flush,
memory, failover.
Examples:
  tenure verify                                                  the local engine, for 20 seconds
  tenure verify redis://db:6379 --for 2m --nemesis kill,pause,cut --report out
  tenure verify redis: --own-servers 1 --for 10m --seed 7
  tenure verify --replay out/history.jsonl                       judge a history again

Exit codes:
  0      clean: no rule was broken, and enough happened to say so
  1      violated: a rule was broken
  2      unproven: the run itself failed, or too little happened
  3      the engine cannot be reached
  64     usage")]
pub(crate) struct Verify {
    /// The engine; not from TENURE_URL, so that nothing is tortured by accident
    #[arg(value_name = "URL")]
    pub(crate) url: Option<OsString>,

    /// For how long there are faults
    #[arg(long = "for", value_name = "DURATION", default_value = "20s", value_parser = duration::parse)]
    pub(crate) time: Duration,

    /// How many workers lock and unlock
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,

    /// How many keys they use: mutexes, read/write locks and semaphores in turn
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) keys: u32,

    /// What is done to them, separated by commas; none for nothing
    #[arg(long, value_name = "FAULTS", value_delimiter = ',', value_parser = nemesis)]
    pub(crate) nemesis: Option<Vec<Option<tenure_verify::Kind>>>,

    /// Repeats the schedule of faults of another run
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// The TTL of the locks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = values::ttl)]
    pub(crate) ttl: Ttl,

    /// Start so many servers of the engine that is named, such as redis:
    #[arg(long, value_name = "N")]
    pub(crate) own_servers: Option<u32>,

    /// Write the history, the verdict and a picture of the run into this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,

    /// Write the verdict as a record for --publish into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,

    /// Judge a recorded history again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "own_servers", "report", "nemesis"])]
    pub(crate) replay: Option<PathBuf>,

    /// Write reliability.md in this directory from the records in its directory reliability
    #[arg(long, value_name = "DIR", conflicts_with_all = ["url", "replay", "record"])]
    pub(crate) publish: Option<PathBuf>,

    /// Print the verdict as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a worker of `tenure verify` has to know.
#[derive(Args, Debug)]
pub(crate) struct VerifyWorker {
    pub(crate) socket: OsString,
    pub(crate) life: u32,
}

/// Runs it, or judges a history again, or writes the page about all runs that were kept.
pub(crate) fn verify(args: Verify) -> Result<Code, Failure> {
    if let Some(folder) = &args.publish {
        let page = tenure_verify::publish(folder).map_err(|error| trouble(error.to_string()))?;
        eprintln!("tenure: wrote {}", page.display());
        return Ok(Code::OK);
    }
    let outcome = match &args.replay {
        Some(path) => {
            let history = History::load(path).map_err(|error| trouble(error.to_string()))?;
            Outcome::of(history, path.clone())
        }
        None => run(&args)?,
    };
    if let Some(record) = &args.record {
        outcome
            .record(record)
            .map_err(|error| trouble(format!("cannot write {}: {error}", record.display())))?;
    }
    if args.json {
        let summary = serde_json::to_string(&outcome.summary());
        print(&format!("{}\n", summary.map_err(|error| Failure::internal(error.to_string()))?))?;
    } else {
        print(&outcome.to_string())?;
    }
    Ok(match outcome.verdict() {
        Verdict::Clean => Code::OK,
        Verdict::Violated => Code::VIOLATED,
        Verdict::Unproven => Code::UNPROVEN,
    })
}

fn run(args: &Verify) -> Result<Outcome, Failure> {
    let mut options = Options::new(args.time, worker()?);
    options.url = match &args.url {
        Some(url) => {
            Some(url.clone().into_string().map_err(|url| Failure::usage(format!("{url:?} is not UTF-8")))?)
        }
        None => None,
    };
    options.workers = args.workers;
    options.keys = args.keys;
    options.seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()));
    options.ttl = args.ttl.duration();
    options.own_servers = args.own_servers;
    options.report.clone_from(&args.report);
    options.nemesis = args.nemesis.as_ref().map(|kinds| kinds.iter().flatten().copied().collect());
    // The second one ends us as it would have done.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let taken = signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)));
        taken.map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
    }
    let shown = std::io::stderr().is_terminal();
    let mut progress = |micros: u64, live: &Live| tell(shown, micros, args.time.as_micros(), live);
    eprintln!("tenure: seed {}", options.seed);
    let outcome = tenure_verify::run(&options, &stop, &mut progress);
    if shown {
        eprintln!();
    }
    outcome.map_err(|error| match error {
        VerifyError::Usage(message) => Failure::usage(message),
        VerifyError::Unreachable(message) => Failure::new(Code::NOT_REACHED, message),
        error => trouble(error.to_string()),
    })
}

/// A line a second: over the last one on a terminal, below it in a file, where every tenth is enough.
fn tell(terminal: bool, micros: u64, of: u128, live: &Live) {
    let (seconds, of) = (micros / 1_000_000, of / 1_000_000);
    let line = format!(
        "{seconds} s of {of} s: {} grants, {} faults, {} losses, {} stale writes refused, {} exposures",
        live.grants, live.faults, live.losses, live.refused, live.exposures
    );
    if terminal {
        eprint!("\r\x1b[Ktenure: {line}");
    } else if seconds.is_multiple_of(10) {
        eprintln!("tenure: {line}");
    }
}

/// This program again, as a worker.
fn worker() -> Result<Vec<OsString>, Failure> {
    let program = std::env::current_exe();
    let program = program.map_err(|error| Failure::internal(format!("cannot find myself: {error}")))?;
    Ok(vec![program.into_os_string(), "verify-worker".into()])
}

/// The life of a worker process.
pub(crate) fn verify_worker(args: &VerifyWorker) -> Result<Code, Failure> {
    // A ^C is for the run, which ends its workers itself.
    let ignored = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, ignored)
        .map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
    tenure_verify::work_for(Path::new(&args.socket), args.life).map_err(Failure::internal)?;
    Ok(Code::OK)
}

fn trouble(message: impl Into<String>) -> Failure {
    Failure::new(Code::UNPROVEN, message)
}

/// A kind of fault, or none.
fn nemesis(text: &str) -> Result<Option<tenure_verify::Kind>, String> {
    if text == "none" { Ok(None) } else { text.trim().parse().map(Some) }
}
