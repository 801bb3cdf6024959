//! The suite on a quorum of five real servers, without persistence, which all trials share: each has a numbered
//! database of its own.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tenure_conformance::Site;
use tenure_redis::{Redlock, RedlockOptions};
use tenure_servers::redis::RedisServer;

/// More than there are trials.
const DATABASES: &str = "512";

/// The servers, and how many databases of theirs are taken.
struct Servers {
    nodes: Vec<RedisServer>,
    taken: AtomicUsize,
}

/// One database on each of the servers.
struct RedlockSite {
    servers: Arc<Servers>,
    database: usize,
}

impl fmt::Debug for RedlockSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedlockSite").field(&self.database).finish()
    }
}

impl Site for RedlockSite {
    type Engine = Redlock;

    async fn client(&self) -> Redlock {
        let node = |node: &RedisServer| format!("{}/{}", node.url(), self.database);
        let nodes: Vec<_> = self.servers.nodes.iter().map(node).collect();
        let url = format!("redlock:{}?allow=young", nodes.join(","));
        let options = RedlockOptions::from_url(&url).expect("a URL of ours");
        Redlock::open(&options).await.expect("servers of ours")
    }

    /// A client whose connections have ended: only leases tell.
    async fn vanish(&self, client: Redlock) {
        drop(client);
    }

    async fn forget(&self) {
        let select = ["SELECT", &self.database.to_string()];
        for node in &self.servers.nodes {
            let said = node.say_all(&[select.to_vec(), vec!["FLUSHDB"]]).expect("a server of ours");
            assert_eq!(said, "+OK\r\n+OK\r\n");
        }
    }
}

fn main() -> ExitCode {
    let start = || RedisServer::start(&["--databases", DATABASES]).expect("a server");
    let nodes = (0..5).map(|_| start()).collect();
    let servers = Arc::new(Servers { nodes, taken: AtomicUsize::new(0) });
    tenure_conformance::run("redlock", move || {
        let servers = Arc::clone(&servers);
        let database = servers.taken.fetch_add(1, Ordering::Relaxed);
        async move { RedlockSite { servers, database } }
    })
}
