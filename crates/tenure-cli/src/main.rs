//! `tenure`: run a command under a distributed lock; see who holds one; break one.
//!
//! `main` only turns a result into an exit code. Each concern has its file: what was asked ([`args`]), the codes
//! ([`exit`]), the life of a command ([`run`], [`supervise`], [`child`], [`signals`], [`terminal`]), what operators
//! ask ([`status`], [`list`], [`break_`], [`migrate`]) and how all of it is said ([`report`], [`view`]).

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

/// Does what was asked, on one thread: the command is the child of this one, and ends with it.
fn work(cli: Cli) -> Result<Code, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::internal(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        match cli.command {
            Command::Run(run) => run::run(run).await,
            Command::Status(status) => status::status(status).await,
            Command::List(list) => list::list(list).await,
            Command::Break(broken) => break_::break_(broken).await,
            Command::Migrate(migration) => migrate::migrate(migration).await,
        }
    })
}
