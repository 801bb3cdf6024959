//! Servers that all trials of the suite share; their keys tell them apart.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tenure_conformance::Site;
use tenure_redis::{Redis, RedisOptions};
use tenure_servers::redis::RedisServer;

/// Does something with every server.
pub(crate) type OnEach = Arc<dyn Fn(&dyn Fn(&RedisServer)) + Send + Sync>;

/// What one trial has of servers that are shared.
pub(crate) struct SharedSite {
    url: String,
    on_each: OnEach,
    trial: &'static str,
}

impl SharedSite {
    /// A trial's part of the servers at a URL.
    pub(crate) fn new(url: &str, on_each: &OnEach) -> Self {
        Self { url: url.to_owned(), on_each: Arc::clone(on_each), trial: tenure_conformance::trial_name() }
    }
}

impl fmt::Debug for SharedSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedSite").field(&self.url).finish()
    }
}

impl Site for SharedSite {
    type Engine = Redis;

    async fn client(&self) -> Redis {
        let options = RedisOptions::from_url(&self.url).expect("a URL of ours");
        let options = options.with_response_timeout(Duration::from_secs(10));
        let options = options.with_connect_timeout(Duration::from_secs(20));
        Redis::open(&options).await.expect("a server of ours")
    }

    /// A client whose connections have ended: only leases tell.
    async fn vanish(&self, client: Redis) {
        drop(client);
    }

    /// Every server forgets what this trial keeps there; a replica, what its primary does.
    async fn forget(&self) {
        (self.on_each)(&|server| {
            let ours = format!("KEYS tenure:{{conformance/*/{}/*", self.trial);
            let found = server.say(&ours).expect("a server of ours");
            for key in found.lines().filter(|line| line.starts_with("tenure:")) {
                server.say(&format!("DEL {key}")).expect("a server of ours");
            }
        });
    }
}
