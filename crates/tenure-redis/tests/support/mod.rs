//! What the tests share: servers, a proxy that misbehaves, claims, and waits with a limit.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::expect_used,
    reason = "a part of tests, each of which uses its own"
)]

use std::time::Duration;

use tenure_core::engine::{Contender, Engine, EngineError};
use tenure_redis::{Redis, RedisOptions};

pub use tenure_conformance::tools::*;
pub use tenure_servers::redis::{RedisServer, say};
pub use tenure_servers::{Certificates, LIMIT, Proxy, Side, Trick, free_ports, mentions};

pub fn options(url: &str) -> RedisOptions {
    RedisOptions::from_url(url).unwrap().with_response_timeout(Duration::from_millis(500))
}

pub async fn open(server: &RedisServer) -> Redis {
    at_last("a server of ours lets us in", async || Redis::open(&options(&server.url())).await).await
}

pub async fn refused(url: &str) -> EngineError {
    Redis::open(&options(url)).await.unwrap_err()
}

/// Looks until it is so, within a limit.
pub fn until(what: &str, is_so: impl FnMut() -> bool) {
    assert!(tenure_servers::until(is_so), "never: {what}");
}

/// Tries to get one key after another that begins with `name` until it is an error, within a limit.
pub async fn until_refused(what: &str, redis: &Redis, name: &str) {
    let refused = async {
        let mut names = (0_u64..).map(|n| format!("{name}/{n}"));
        while redis.contend(only_try(&names.next().unwrap())).attempt().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time(what, refused).await;
}

pub fn url_of(proxy: &Proxy) -> String {
    format!("redis://127.0.0.1:{}", proxy.port())
}
