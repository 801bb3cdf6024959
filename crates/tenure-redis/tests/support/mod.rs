//! What the tests share: servers, a proxy that misbehaves, claims, and waits with a limit.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::expect_used,
    reason = "a part of tests, each of which uses its own"
)]

use std::future::Future;
use std::time::Duration;

use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineError, EngineErrorKind, Grant, Retry, Waiting,
};
use tenure_core::{Claim, ClaimId, IfBusy, Key, Ttl};
use tenure_redis::{Redis, RedisContender, RedisOptions};

pub use tenure_servers::redis::{RedisServer, say};
pub use tenure_servers::{Certificates, LIMIT, Proxy, Side, Trick, free_ports};

pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

pub fn claim(name: &str) -> Claim {
    let mut claim = Claim::new(key(name), ClaimId::from_bits(rand::random()));
    claim.ttl = Ttl::new(Duration::from_secs(30)).unwrap();
    claim
}

pub fn only_try(name: &str) -> Claim {
    let mut claim = claim(name);
    claim.if_busy = IfBusy::Leave;
    claim
}

pub fn options(url: &str) -> RedisOptions {
    RedisOptions::from_url(url).unwrap().with_response_timeout(Duration::from_millis(500))
}

pub async fn open(server: &RedisServer) -> Redis {
    Redis::open(&options(&server.url())).await.unwrap()
}

pub async fn refused(url: &str) -> EngineError {
    Redis::open(&options(url)).await.unwrap_err()
}

pub async fn granted(contender: &mut RedisContender) -> Grant {
    match contender.attempt().await.unwrap() {
        Attempt::Granted(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

pub async fn waits(contender: &mut RedisContender) -> Waiting {
    match contender.attempt().await.unwrap() {
        Attempt::Waiting(waiting) => waiting,
        other => panic!("does not wait: {other:?}"),
    }
}

pub async fn places(redis: &Redis, name: &str) -> usize {
    redis.inspect(&key(name)).await.unwrap().places.len()
}

pub fn axes(error: &EngineError) -> (EngineErrorKind, Effect, Retry) {
    (error.kind(), error.effect(), error.retry())
}

/// What a limited time must be enough for.
pub async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(done) => done,
        Err(_) => panic!("never: {what}"),
    }
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
