//! `tenure`: run a command under a distributed lock; see who holds one; break one; prove an engine.
//!
//! `main` only turns a result into an exit code. Each concern has its file: what was asked ([`args`]), the codes
//! ([`exit`]), the life of a command ([`run`], [`supervise`], [`child`], [`signals`], [`terminal`]), what operators
//! ask ([`status`], [`list`], [`break_`], [`migrate`]), what proves an engine (`verify`) and how all of it is said
//! ([`report`], [`view`]).

#![deny(unsafe_code)]

mod args;
mod break_;
mod child;
mod connect;
mod duration;
mod exit;
mod list;
mod migrate;
mod parent_death;
mod report;
mod run;
mod signals;
mod status;
mod supervise;
mod terminal;
mod values;
#[cfg(feature = "verify")]
mod verify;
mod view;
mod waiting;

use args::{Cli, Command};
use exit::{Code, Failure};
use report::Report;

fn main() {
    let (json, done) = match args::parse() {
        Ok(cli) => (cli.command.json(), work(cli)),
        Err(args::Refused::Shown(code)) => std::process::exit(code.number()),
        Err(args::Refused::Wrong(failure)) => (args::wants_json(), Err(failure)),
    };
    let code = done.unwrap_or_else(|failure| {
        Report::failed(json, &failure);
        failure.code
    });
    std::process::exit(code.number());
}

/// Does what was asked.
fn work(cli: Cli) -> Result<Code, Failure> {
    match cli.command {
        Command::Run(args) => on_one_thread(run::run(args)),
        Command::Status(args) => on_one_thread(status::status(args)),
        Command::List(args) => on_one_thread(list::list(args)),
        Command::Break(args) => on_one_thread(break_::break_(args)),
        Command::Migrate(args) => on_one_thread(migrate::migrate(args)),
        #[cfg(feature = "verify")]
        Command::Verify(args) => verify::verify(args),
        #[cfg(feature = "verify")]
        Command::VerifyWorker(args) => verify::verify_worker(&args),
    }
}

/// On one thread: a command that is run is the child of this one, and ends with it.
fn on_one_thread(work: impl Future<Output = Result<Code, Failure>>) -> Result<Code, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::internal(format!("cannot start: {error}")))?;
    runtime.block_on(work)
}
