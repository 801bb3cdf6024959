//! The suite on a real server, one primary without persistence.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

#[path = "support/site.rs"]
mod site;

use std::process::ExitCode;
use std::sync::Arc;

use site::RedisSite;
use tenure_servers::redis::RedisServer;

fn main() -> ExitCode {
    tenure_conformance::run("redis", || async {
        RedisSite(Arc::new(RedisServer::start(&[]).expect("a server")))
    })
}
