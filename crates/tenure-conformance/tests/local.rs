//! The suite on the local directory.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

use std::process::ExitCode;

use tempfile::TempDir;
use tenure_conformance::Site;
use tenure_local::{Local, LocalOptions};

/// A directory of its own for each trial.
#[derive(Debug)]
struct LocalSite(TempDir);

impl Site for LocalSite {
    type Engine = Local;

    /// Two instances are strangers to one another, also in one process.
    async fn client(&self) -> Local {
        Local::open(&LocalOptions::at(self.0.path().join("locks"))).expect("a directory of our own")
    }

    /// The kernel notices that nobody has the instance any more, as it does when a process ends.
    async fn vanish(&self, client: Local) {
        drop(client);
    }

    /// What was in the files of all lines is lost, as by a power cut before anything was on the disk.
    async fn forget(&self) {
        let lines = std::fs::read_dir(self.0.path().join("locks/keys")).expect("the engine's directory");
        for line in lines {
            let file = std::fs::File::options().write(true).open(line.expect("an entry").path());
            file.and_then(|file| file.set_len(0)).expect("a file of ours");
        }
    }
}

fn main() -> ExitCode {
    tenure_conformance::run("local", || async {
        LocalSite(tempfile::tempdir().expect("a temporary directory"))
    })
}
