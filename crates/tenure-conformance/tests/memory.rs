//! The suite on the reference engine.

use std::process::ExitCode;

use tenure_conformance::MemorySite;

fn main() -> ExitCode {
    tenure_conformance::run("memory", || async { MemorySite::default() })
}
