//! The suite on a cluster of three primaries with a replica each.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure_conformance::{Hook, Site};
use tenure_redis::{Redis, RedisOptions};
use tenure_servers::redis::RedisCluster;

/// One cluster for all trials; their keys tell them apart.
#[derive(Debug)]
struct ClusterSite {
    cluster: Arc<Mutex<RedisCluster>>,
    url: String,
    trial: &'static str,
}

impl Site for ClusterSite {
    type Engine = Redis;

    async fn client(&self) -> Redis {
        let options = RedisOptions::from_url(&self.url).expect("a URL of ours");
        Redis::open(&options).await.expect("a cluster of ours")
    }

    fn can(&self, hook: Hook) -> Result<(), &'static str> {
        match hook {
            Hook::Vanish | Hook::Forget => Ok(()),
            _ => Err("the site does not know how"),
        }
    }

    /// A client whose connections have ended: only leases tell.
    async fn vanish(&self, client: Redis) {
        drop(client);
    }

    /// Every node forgets what this trial keeps there.
    async fn forget(&self) {
        let mut cluster = self.cluster.lock().expect("no trial panics with it");
        for node in cluster.nodes() {
            let ours = format!("tenure:{{conformance/*/{}/*", self.trial);
            let found = node.say(&format!("KEYS {ours}")).expect("a node of ours");
            for key in found.lines().filter(|line| line.starts_with("tenure:")) {
                // A replica forgets what its primary does.
                node.say(&format!("DEL {key}")).expect("a node of ours");
            }
        }
    }
}

fn main() -> ExitCode {
    let cluster = RedisCluster::start(Duration::from_secs(15), &[]).expect("a cluster");
    let url = cluster.url();
    let cluster = Arc::new(Mutex::new(cluster));
    let sites = Arc::clone(&cluster);
    tenure_conformance::run("redis", move || {
        let (cluster, url, trial) = (Arc::clone(&sites), url.clone(), tenure_conformance::trial_name());
        async move { ClusterSite { cluster, url, trial } }
    })
}
