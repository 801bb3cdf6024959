//! One server for each trial of the suite.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tenure_conformance::Site;
use tenure_redis::{Redis, RedisOptions};
use tenure_servers::redis::RedisServer;

/// A server of its own for each trial.
pub(crate) struct RedisSite(pub(crate) Arc<RedisServer>);

impl fmt::Debug for RedisSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisSite").field(&self.0.port()).finish()
    }
}

impl Site for RedisSite {
    type Engine = Redis;

    async fn client(&self) -> Redis {
        let options = RedisOptions::from_url(&self.0.url()).expect("a URL of ours");
        let options = options.with_response_timeout(Duration::from_secs(10));
        let options = options.with_connect_timeout(Duration::from_secs(20));
        Redis::open(&options).await.expect("a server of ours")
    }

    /// A client whose connections have ended: only leases tell.
    async fn vanish(&self, client: Redis) {
        drop(client);
    }

    async fn forget(&self) {
        assert_eq!(self.0.say("FLUSHALL").expect("a server of ours"), "+OK\r\n");
    }
}
