//! ZooKeeper on this machine: one server that does not wait for its disk.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tenure_servers::zookeeper::ZookeeperEnsemble;
use zookeeper_client::{Acls, Client as Library, CreateMode, Error, LockClient, LockOptions, LockPrefix};

use super::{Client, Counter, EVERYWHERE, Engine, Entrant, STRICTLY, Site};
use crate::clock::cpu_of;
use crate::crew::tasks;
use crate::locks::Lock;
use crate::peers::{curator, python};

pub(crate) const ENGINE: Engine = Engine {
    name: "zookeeper",
    start: || Ok(Box::new(Zookeeper { ensemble: ZookeeperEnsemble::single(&[])?, before: 0.0 })),
    entrants: &[
        Entrant::here(
            "raw",
            "an ephemeral node is made and deleted, on the client that we use; asks again without a pause",
            &["w1", "w2", "w3"],
            tasks::<Raw>,
        )
        .anchors(&["w1", "w2", "w3"]),
        Entrant::tenure(EVERYWHERE),
        Entrant::strict(STRICTLY),
        Entrant::here(
            "zookeeper-client",
            "`Client::lock` of the crate zookeeper-client 0.11, with the names of Curator",
            &["w1", "w2", "w3"],
            tasks::<Recipe>,
        ),
        Entrant::peer(
            "kazoo",
            "Python: kazoo 2.11, `Lock`, its defaults; threads",
            &["w1", "w2", "w3", "w4"],
            || python("kazoo_lock.py"),
        ),
        Entrant::peer(
            "Curator",
            "Java: Curator 5.4 of Debian, `InterProcessMutex`; threads, after 200 cycles to warm up",
            &["w1", "w2", "w3", "w4"],
            curator,
        ),
    ],
};

/// As long as no session of anybody ends during a run.
const SESSION: Duration = Duration::from_secs(30);

struct Zookeeper {
    ensemble: ZookeeperEnsemble,
    /// Processor time when the counting began.
    before: f64,
}

impl Zookeeper {
    fn cpu(&mut self) -> f64 {
        let server = self.ensemble.servers().first_mut().map(|server| server.process().pid());
        server.and_then(cpu_of).unwrap_or(0.0)
    }
}

impl Site for Zookeeper {
    fn url(&self) -> String {
        format!("{}?allow=longer-terms", self.ensemble.url())
    }

    fn address(&self) -> String {
        self.ensemble.hosts()
    }

    fn begin(&mut self, _closely: bool) -> Result<()> {
        self.before = self.cpu();
        Ok(())
    }

    fn end(&mut self) -> Result<Vec<Counter>> {
        let count = self.cpu() - self.before;
        Ok(vec![Counter { per_cycle: "server us/cycle", per_second: "server us/s", count }])
    }
}

async fn connect(at: &str) -> Result<Library> {
    Ok(Library::connector().with_session_timeout(SESSION).connect(at).await?)
}

/// A name of one node.
fn flat(key: &str) -> String {
    format!("/{}", key.replace('/', "-"))
}

/// The bare cycle: a node that is there or not. No line, no token, no watch.
struct Raw(Library);

#[derive(Clone)]
struct RawLock {
    client: Library,
    node: Arc<str>,
}

impl Client for Raw {
    type Lock = RawLock;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(connect(at).await?))
    }

    fn lock(&self, key: &str, _ttl: Duration) -> RawLock {
        RawLock { client: self.0.clone(), node: flat(key).into() }
    }
}

impl Lock for RawLock {
    type Guard = Self;

    async fn lock(&self) -> Result<Self> {
        let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        // Ends when whoever has the key gives it back.
        loop {
            match self.client.create(&self.node, b"", &options).await {
                Ok(_) => return Ok(self.clone()),
                Err(Error::NodeExists) => {}
                Err(error) => bail!(error),
            }
        }
    }

    async fn unlock(guard: Self) -> Result<()> {
        Ok(guard.client.delete(&guard.node, None).await?)
    }
}

/// The recipe of the client library.
struct Recipe(Library);

#[derive(Clone)]
struct RecipeLock {
    client: Library,
    folder: Arc<str>,
}

impl Client for Recipe {
    type Lock = RecipeLock;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(connect(at).await?))
    }

    fn lock(&self, key: &str, _ttl: Duration) -> RecipeLock {
        RecipeLock { client: self.0.clone(), folder: flat(key).into() }
    }
}

impl Lock for RecipeLock {
    type Guard = (Library, String);

    async fn lock(&self) -> Result<Self::Guard> {
        let folders = CreateMode::Container.with_acls(Acls::anyone_all());
        let options = LockOptions::new(Acls::anyone_all()).with_ancestor_options(folders)?;
        let lock = self.client.lock(LockPrefix::new_curator(&self.folder, "lock-")?, b"", options).await?;
        let node = lock.lock_path().to_owned();
        // Its own release is not waited for, and would be paid by whoever comes next.
        std::mem::forget::<LockClient<'_>>(lock);
        Ok((self.client.clone(), node))
    }

    async fn unlock((client, node): Self::Guard) -> Result<()> {
        Ok(client.delete(&node, None).await?)
    }
}
