//! Other clients of ZooKeeper take the same locks: Curator, and kazoo where it can be had.
//!
//! Each side says in a journal, which no lock guards, when it begins and when it ends. The journal is a file that is
//! only appended to, so that its order is the order in which things happened.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Trial};
use tenure_core::{Fairness, Guard, Tenure};
use tenure_servers::zookeeper::ZookeeperEnsemble;
use tenure_servers::{Child, Program, until};
use tenure_zookeeper::{Layout, Zookeeper, ZookeeperOptions};

/// How often each side takes the lock.
const ROUNDS: usize = 1_000;

/// Which locks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mutex,
    ReadersAndWriters,
}

fn main() -> ExitCode {
    let curator = |name: &str, kind: Kind| {
        let word = if kind == Kind::Mutex { "mutex" } else { "rw" };
        Trial::test(name, move || {
            take_turns(kind, &|hosts, journal| curator_peer(hosts, journal, word));
            Ok(())
        })
    };
    let trials = vec![
        curator("curator_and_tenure_exclude_each_other", Kind::Mutex),
        curator("readers_and_writers_of_curator_and_tenure_exclude_each_other", Kind::ReadersAndWriters),
        Trial::ignorable_test("kazoo_and_tenure_exclude_each_other", || match kazoo() {
            Err(why) => Ok(Completion::ignored_with(why)),
            Ok(python) => {
                take_turns(Kind::Mutex, &|hosts, journal| kazoo_peer(&python, hosts, journal));
                Ok(Completion::Completed)
            }
        }),
    ];
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn curator_peer(hosts: &str, journal: &Path, word: &str) -> Program {
    let jars = [
        "curator-client",
        "curator-framework",
        "curator-recipes",
        "zookeeper",
        "guava",
        "slf4j-api",
        "slf4j-nop",
    ];
    let jars: Vec<_> = jars.iter().map(|jar| format!("/usr/share/java/{jar}.jar")).collect();
    let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/CuratorPeer.java");
    let program =
        Program::new("java", "default-jdk-headless").args(["-Xmx128m", "-cp", &jars.join(":"), peer]);
    program.args([hosts, "/peers/k"]).arg(journal).args([&ROUNDS.to_string(), word])
}

fn kazoo_peer(python: &Path, hosts: &str, journal: &Path) -> Program {
    let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/kazoo_peer.py");
    let program = Program::new(python, "python3-venv").arg(peer);
    program.args([hosts, "/peers/k"]).arg(journal).arg(ROUNDS.to_string())
}

/// A Python that has kazoo, made once; or why there is none.
fn kazoo() -> Result<PathBuf, String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kazoo");
    let python = home.join("bin/python");
    let has_it = || Program::new(&python, "python3-venv").args(["-c", "import kazoo"]).run();
    if python.exists() && has_it().is_ok() {
        return Ok(python);
    }
    let made = Program::new("python3", "python3-venv").args(["-m", "venv"]).arg(&home).run();
    made.map_err(|error| format!("no environment for kazoo can be made: {error}"))?;
    let install = ["-m", "pip", "install", "--quiet", "kazoo==2.11.0"];
    let installed = Program::new(&python, "python3-venv").args(install).run();
    installed.map_err(|error| {
        format!("kazoo cannot be had: {}", error.to_string().lines().last().unwrap_or(""))
    })?;
    Ok(python)
}

/// Lets a peer and two tasks of ours take the same lock, and judges what the journal says.
fn take_turns(kind: Kind, peer: &dyn Fn(&str, &Path) -> Program) {
    let ensemble = ZookeeperEnsemble::single(&[]).expect("a server");
    let place = tempfile::tempdir().expect("a directory");
    let journal = place.path().join("journal");
    File::create(&journal).expect("a journal");
    let mut peer: Child =
        peer(&ensemble.hosts(), &journal).start(&place.path().join("peer.log")).expect("a peer");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let layout = if kind == Kind::Mutex { Layout::Curator } else { Layout::CuratorReadWrite };
        let options = ZookeeperOptions::new(ensemble.hosts()).with_layout(layout);
        let tenure = Tenure::new(Zookeeper::open(&options).await.expect("a server of ours"));
        until_begun(&journal).await;
        let tasks =
            ["one", "two"].map(|who| tokio::spawn(take_ours(tenure.clone(), kind, who, journal.clone())));
        for task in tasks {
            task.await.expect("it takes its turns");
        }
    });
    let ended = until(|| peer.ended().is_some());
    assert!(ended && peer.ended().is_some_and(|status| status.success()), "the peer: {}", peer.said());
    judge(&std::fs::read_to_string(&journal).expect("a journal"), kind);
}

/// Both sides are to be at it at once, and a virtual machine takes its time to start.
async fn until_begun(journal: &Path) {
    for _ in 0..3_000 {
        if std::fs::metadata(journal).is_ok_and(|journal| journal.len() > 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the peer does not begin");
}

async fn take_ours(tenure: Tenure, kind: Kind, who: &'static str, journal: PathBuf) {
    let mut journal = File::options().append(true).open(journal).unwrap();
    for round in 0..ROUNDS / 2 {
        let reads = kind == Kind::ReadersAndWriters && round % 3 != 0;
        let lock = match kind {
            Kind::Mutex => tenure.lock("peers/k"),
            Kind::ReadersAndWriters if reads => tenure.rw_lock("peers/k").read(),
            Kind::ReadersAndWriters => tenure.rw_lock("peers/k").write(),
        };
        // Each time anew in the line, so that the peer is met as often as possible.
        let guard: Guard = lock.fairness(Fairness::StrictFifo).acquire().await.unwrap();
        let mode = if reads { 'r' } else { 'w' };
        journal.write_all(format!("begin {mode} {who}\n").as_bytes()).unwrap();
        journal.write_all(format!("end {mode} {who}\n").as_bytes()).unwrap();
        guard.release().await.unwrap();
    }
}

/// Nobody is inside with a writer, everybody has had all turns, and the two sides really took turns.
fn judge(journal: &str, kind: Kind) {
    let (mut readers, mut writer, mut turns, mut changes, mut last) = (0_usize, None, 0_usize, 0_usize, "");
    for line in journal.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [what, mode, who] = words[..] else { panic!("a torn line: {line:?}") };
        match (what, mode) {
            ("begin", "w") => {
                assert_eq!((readers, writer), (0, None), "{who} writes beside somebody");
                writer = Some(who);
            }
            ("begin", _) => {
                assert_eq!(writer, None, "{who} reads beside a writer");
                readers += 1;
            }
            ("end", "w") => assert_eq!(writer.take(), Some(who)),
            _ => readers -= 1,
        }
        if what == "begin" {
            let ours = who == "one" || who == "two";
            turns += 1;
            changes += usize::from(ours != (last == "one" || last == "two"));
            last = who;
        }
    }
    assert_eq!(turns, 2 * ROUNDS);
    assert!(changes > ROUNDS / 10, "only {changes} changes between the two sides in {turns} turns: {kind:?}");
}
