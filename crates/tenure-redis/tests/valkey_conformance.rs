//! The suite on Valkey, where it could be had.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

#[path = "support/site.rs"]
mod site;

use std::process::ExitCode;
use std::sync::Arc;

use site::RedisSite;
use tenure_servers::redis::RedisServer;

fn main() -> ExitCode {
    let Some(program) = RedisServer::valkey("the suite on Valkey") else { return ExitCode::SUCCESS };
    tenure_conformance::run("redis", move || {
        let program = program.clone();
        async move { RedisSite(Arc::new(RedisServer::start_program(program, &[]).expect("a server"))) }
    })
}
