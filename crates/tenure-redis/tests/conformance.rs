//! The suite on a real server, one primary without persistence.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

use std::process::ExitCode;
use std::sync::Arc;

use tenure_conformance::{Hook, Site};
use tenure_redis::{Redis, RedisOptions};
use tenure_servers::redis::RedisServer;

/// A server of its own for each trial.
struct RedisSite(Arc<RedisServer>);

impl std::fmt::Debug for RedisSite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RedisSite").field(&self.0.port()).finish()
    }
}

impl Site for RedisSite {
    type Engine = Redis;

    async fn client(&self) -> Redis {
        let options = RedisOptions::from_url(&self.0.url()).expect("a URL of ours");
        Redis::open(&options).await.expect("a server of ours")
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

    async fn forget(&self) {
        assert_eq!(self.0.say("FLUSHALL").expect("a server of ours"), "+OK\r\n");
    }
}

fn main() -> ExitCode {
    tenure_conformance::run("redis", || async {
        RedisSite(Arc::new(RedisServer::start(&[]).expect("a server")))
    })
}
