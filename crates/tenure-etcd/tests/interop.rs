//! Locks that are shared with another client: `etcdctl lock`, which uses etcd's own `concurrency` package.
//!
//! Each side takes the lock as often as `TENURE_INTEROP` says, 100 times unless told otherwise. Under the lock each
//! writes to a journal without any fence: two lines for each hold, and whatever comes between them is an overlap.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use support::*;
use tenure_core::engine::{Attempt, Contender, Engine, EngineErrorKind, Standing, Stray, Withdrawn};
use tenure_core::{Mode, Tenure};
use tenure_etcd::Etcd;

fn rounds() -> usize {
    std::env::var("TENURE_INTEROP").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(100)
}

async fn shared(cluster: &EtcdCluster) -> Etcd {
    Etcd::open(&options(&format!("{}?layout=concurrency", cluster.url()))).await.unwrap()
}

/// A shell that takes the lock `k` so many times with `etcdctl lock`, each for two lines in the journal.
fn others(cluster: &EtcdCluster, rounds: usize, journal: &Path) -> tokio::process::Child {
    let hold = journal.with_extension("sh");
    std::fs::write(&hold, format!("echo in other >> {0}; echo out other >> {0}\n", journal.display()))
        .unwrap();
    let endpoint = format!("127.0.0.1:{}", cluster.port(0));
    let lock = format!("etcdctl --endpoints {endpoint} lock --ttl 30 k sh {}", hold.display());
    let script = format!("set -e; for n in $(seq {rounds}); do {lock}; done");
    let mut shell = tokio::process::Command::new("sh");
    shell
        .arg("-c")
        .arg(script)
        .env("ETCDCTL_API", "3")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn note(journal: &Path, line: &str) {
    let mut file = OpenOptions::new().append(true).open(journal).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// How often each side held; fails when two did at once.
fn read(journal: &Path) -> (usize, usize) {
    let text = std::fs::read_to_string(journal).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let (mut ours, mut theirs) = (0, 0);
    for hold in lines.chunks(2) {
        match hold {
            ["in tenure", "out tenure"] => ours += 1,
            ["in other", "out other"] => theirs += 1,
            _ => panic!("two held at once: {hold:?}"),
        }
    }
    (ours, theirs)
}

fn journal() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    File::create(&path).unwrap();
    (directory, path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenure_and_etcdctl_lock_never_hold_at_once() {
    let cluster = EtcdCluster::single().unwrap();
    let (_directory, journal) = journal();
    let rounds = rounds();
    let mut others = others(&cluster, rounds, &journal);
    let tenure = Tenure::new(shared(&cluster).await);
    let mut last = None;
    for _ in 0..rounds {
        let guard = tenure.lock("k").acquire().await.unwrap();
        assert!(Some(guard.token()) > last);
        last = Some(guard.token());
        note(&journal, "in tenure");
        tokio::task::yield_now().await;
        note(&journal, "out tenure");
        guard.release().await.unwrap();
    }
    // The others start a process for each lock; how long that takes is the machine's business.
    let limit = Duration::from_secs(60) + Duration::from_secs(2) * u32::try_from(rounds).unwrap();
    let ended = tokio::time::timeout(limit, others.wait()).await.unwrap().unwrap();
    assert!(ended.success());
    assert_eq!(read(&journal), (rounds, rounds));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_waits_for_the_other_and_is_seen_by_it() {
    let cluster = EtcdCluster::single().unwrap();
    let engine = shared(&cluster).await;
    let (_directory, journal) = journal();
    let wish = claim("k");
    let mut holder = engine.contend(wish.clone());
    let first = granted(&mut holder).await;
    let mut others = others(&cluster, 1, &journal);
    eventually("the other waits", async || places(&engine, "k").await == 2).await;
    let line = engine.inspect(&key("k")).await.unwrap();
    assert_eq!(line.places[0].claim, wish.id);
    assert_eq!((line.places[1].standing, line.places[1].mode), (Standing::Waits, Mode::Exclusive));
    assert_eq!(engine.keys("", None, 9).await.unwrap(), [key("k")]);
    assert_eq!(std::fs::read_to_string(&journal).unwrap(), "");
    let mut waiter = engine.contend(claim("k"));
    assert_eq!(waits(&mut waiter).await.ahead, 2);
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    // The other was before us, is granted, and leaves.
    let second = granted_at_last(&mut waiter).await;
    assert!(second.tokens.first > first.tokens.first);
    assert_eq!(read(&journal), (0, 1));
    assert!(in_time("it ends", others.wait()).await.unwrap().success());
    // Its key is named as theirs are, by its lease, and is empty for nobody.
    let keys = cluster.etcdctl(0, &["get", "--prefix", "k/", "--keys-only"]).unwrap();
    assert_eq!(keys.lines().filter(|line| !line.is_empty()).count(), 1, "{keys}");
    waiter.withdraw(Stray::Impossible).await.unwrap();
    let left = cluster.etcdctl(0, &["get", "--prefix", "", "--keys-only"]).unwrap();
    assert_eq!(left.trim(), "", "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_breaks_the_lock_of_another_client() {
    let cluster = EtcdCluster::single().unwrap();
    let engine = shared(&cluster).await;
    let endpoint = format!("127.0.0.1:{}", cluster.port(0));
    let mut other = tokio::process::Command::new("etcdctl");
    other.args(["--endpoints", &endpoint, "lock", "k"]).env("ETCDCTL_API", "3").stdout(Stdio::null());
    let _other = other.kill_on_drop(true).spawn().unwrap();
    eventually("the other holds", async || places(&engine, "k").await == 1).await;
    let theirs = engine.inspect(&key("k")).await.unwrap().places.remove(0);
    assert!(matches!(theirs.standing, Standing::Holds { .. }));
    let mut waiter = engine.contend(claim("k"));
    waits(&mut waiter).await;
    assert_eq!(engine.evict(&key("k"), theirs.claim).await.unwrap(), Withdrawn::Held);
    granted_at_last(&mut waiter).await;
    waiter.withdraw(Stray::Impossible).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_exclusive_locks_can_be_shared_with_others() {
    let cluster = EtcdCluster::single().unwrap();
    let engine = shared(&cluster).await;
    for mode in [Mode::Shared, Mode::Permit { limit: std::num::NonZeroU32::MIN }] {
        let mut wish = claim("k");
        wish.mode = mode;
        let error = engine.contend(wish).attempt().await.unwrap_err();
        assert_eq!(error.kind(), EngineErrorKind::Unsupported, "{error}");
    }
    let mut hasty = engine.contend(only_try("k"));
    granted(&mut hasty).await;
    assert!(matches!(engine.contend(only_try("k")).attempt().await, Ok(Attempt::Busy(_))));
    assert_eq!(places(&engine, "k").await, 1);
    // A withdrawal that knows nothing of the place finds it.
    hasty.withdraw(Stray::Impossible).await.unwrap();
    let wish = claim("k");
    granted(&mut engine.contend(wish.clone())).await;
    assert_eq!(
        shared(&cluster).await.contend(wish).withdraw(Stray::Impossible).await.unwrap(),
        Withdrawn::Held
    );
    assert_eq!(places(&engine, "k").await, 0);
}
