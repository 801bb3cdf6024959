//! What only some machines let a test try. Where it cannot be tried, the test says why and does not count as passed.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use support::Bench;

fn main() -> ExitCode {
    let name = "a_full_disk_is_refused_and_works_again_with_room";
    let trials = vec![Trial::ignorable_test(name, a_full_disk_is_refused_and_works_again_with_room)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn a_full_disk_is_refused_and_works_again_with_room() -> Result<Completion, Failed> {
    let bench = Bench::new();
    let disk = bench.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = |program: &str, arguments: &[&str]| {
        let done = std::process::Command::new(program).args(arguments).arg(&disk).output();
        done.is_ok_and(|done| done.status.success())
    };
    if !mount("mount", &["-t", "tmpfs", "-o", "size=128k,mode=755", "none"]) {
        return Ok(Completion::ignored_with("only root can mount a small disk"));
    }
    let url = format!("local://{}", disk.join("locks").display());
    let run = ["run", "--at", &url, "-n", "a", "-c", "echo ran"];
    let first = bench.end_of(run);
    // As much as there is room for.
    let full = std::fs::write(disk.join("fill"), vec![1; 1 << 20]);
    let refused = bench.end_of(run);
    let again = std::fs::remove_file(disk.join("fill")).map(|()| bench.end_of(run));
    assert!(mount("umount", &[]), "the small disk is still mounted");
    assert_eq!((first.code, full.is_err()), (Some(0), true), "{first:?}");
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("make room") && refused.stdout.is_empty(), "{refused:?}");
    refused.with_code(123);
    again.unwrap().with_code(0);
    Ok(Completion::Completed)
}
