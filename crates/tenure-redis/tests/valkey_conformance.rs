//! The suite on Valkey, where it could be had: each trial has a server of its own.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

use std::process::ExitCode;
use std::sync::Arc;

use tenure_conformance::{Hook, Site};
use tenure_redis::{Redis, RedisOptions};
use tenure_servers::redis::RedisServer;

#[derive(Debug)]
struct ValkeySite(Arc<RedisServer>);

impl Site for ValkeySite {
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

    async fn vanish(&self, client: Redis) {
        drop(client);
    }

    async fn forget(&self) {
        assert_eq!(self.0.say("FLUSHALL").expect("a server of ours"), "+OK\r\n");
    }
}

fn main() -> ExitCode {
    let Some(program) = RedisServer::valkey("the suite on Valkey") else { return ExitCode::SUCCESS };
    tenure_conformance::run("redis", move || {
        let program = program.clone();
        async move { ValkeySite(Arc::new(RedisServer::start_program(program, &[]).expect("a server"))) }
    })
}
