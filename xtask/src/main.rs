//! The project's own commands: what people and the CI run, and nothing else.
//!
//! `cargo xtask test` is the whole proof, on a laptop and in the CI alike, so that neither can pass what the other
//! would refuse. It uses the standard library only, because it is built before anything can be checked.

#![forbid(unsafe_code)]

mod cases;
mod proof;
mod reliability;
mod servers;
mod steps;
mod tally;
mod tidy;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test            the whole proof: style, lints, docs, every test, every example
  test --quick    the inner loop: style, lints, and the tests that take no more than moments
  cases           which tests show which case of the catalogue of failures
  tidy            the style that no other tool checks
  docs            the reference, as HTML
  reliability [--for D] [ENGINE]…
                  runs `tenure verify` on every engine that is named, or on all, keeps the records in
                  docs/reliability, and writes docs/reliability.md
  bench [ARGS]    the benches; see `cargo xtask bench --help`
  sim [--seed N] [--seeds N]
                  the simulation: one seed, or many";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["test"] => proof::prove(steps::Extent::Whole),
        ["test", "--quick"] => proof::prove(steps::Extent::Quick),
        ["cases"] => cases::print(&root()),
        ["tidy"] => tidy(),
        ["docs"] => pass_on(&mut steps::docs()),
        ["reliability", rest @ ..] => reliability::measure(rest),
        ["bench", rest @ ..] => {
            pass_on(cargo().args(["run", "--release", "-p", "tenure-bench", "--"]).args(rest))
        }
        ["sim", rest @ ..] => {
            let simulate = ["run", "--release", "-p", "tenure-conformance", "--bin", "simulate", "--"];
            pass_on(cargo().args(simulate).args(rest))
        }
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn tidy() -> ExitCode {
    if tidy::check(&root()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a command in our place; its exit code is ours.
fn pass_on(command: &mut Command) -> ExitCode {
    match command.status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("cannot start {command:?}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The cargo that runs us, in the root of the repository.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // What it said of our package to us is not for what it builds next: some build scripts read it, and all that stands
    // on them would be built anew in turns with what is built by hand.
    for (name, _) in std::env::vars_os() {
        let of_our_package = name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if of_our_package {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// The root of the repository. Cargo says where this package is to what it runs; where it was compiled may be another
/// clone, when two share a folder of builds.
fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().unwrap_or(&here).to_owned()
}
