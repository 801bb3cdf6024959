//! Servers whose clock is set while locks are held.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::engine::{Attempt, Contender, Engine, Gone, Renewal, Stray};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{Ttl, engine::Grant};
use tenure_redis::{Redis, RedisContender, RedisFenceError};
use tenure_servers::{ClockShim, Step};

/// A server whose clock can be set, or none on a machine without a C compiler.
fn adjustable(test: &str) -> Option<(ClockShim, RedisServer)> {
    let shim = ClockShim::unless_missing(test).unwrap()?;
    let server = RedisServer::start_program(shim.around(RedisServer::program()), &[]).unwrap();
    Some((shim, server))
}

fn contend(redis: &Redis, name: &str, ttl: Duration) -> RedisContender {
    let mut claim = claim(name);
    claim.ttl = Ttl::new(ttl).unwrap();
    redis.contend(claim)
}

async fn granted_at_last(contender: &mut RedisContender) -> Grant {
    let granted = async {
        loop {
            match contender.attempt().await.unwrap() {
                Attempt::Granted(grant) => return grant,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    in_time("it is granted", granted).await
}

#[tokio::test]
async fn c017_a_server_whose_clock_is_set_forward_ends_leases_and_the_fence_refuses_the_loser() {
    let Some((shim, server)) = adjustable("c017") else { return };
    let redis = open(&server).await;
    let thirty = Duration::from_secs(30);
    let (mut first, mut second) = (contend(&redis, "k", thirty), contend(&redis, "k", thirty));
    let old = granted(&mut first).await;
    shim.step(Step::Forward(thirty * 2)).unwrap();
    // The server believes that the lease is over: two may think that they hold, and only the token tells.
    let new = granted(&mut second).await;
    assert!(new.tokens.first > old.tokens.last());
    let fence = redis.fence("{data}:fence");
    fence.enter(new.tokens.first, 0).await.unwrap();
    let stale = fence.set(old.tokens.first, 0, "{data}", b"late").await.unwrap_err();
    assert!(matches!(stale, RedisFenceError::Stale(_)), "{stale}");
    assert_eq!(first.renew().await.unwrap(), Renewal::Gone(Gone::Absent), "the loser learns of it");
}

#[tokio::test]
async fn c018_a_server_whose_clock_is_set_back_keeps_a_dead_holder_for_the_step_and_no_longer() {
    let Some((shim, server)) = adjustable("c018") else { return };
    let redis = open(&server).await;
    let (ttl, step) = (Duration::from_secs(1), Duration::from_secs(4));
    let mut abandoned = contend(&redis, "k", ttl);
    let old = granted(&mut abandoned).await;
    shim.step(Step::Back(step)).unwrap();
    let since = SystemClock.now();
    // A holder that lives renews, which counts from the server's new time.
    let mut living = contend(&redis, "other", ttl);
    granted(&mut living).await;
    shim.step(Step::Back(step)).unwrap();
    assert!(matches!(living.renew().await.unwrap(), Renewal::Renewed(_)));
    let mut next = contend(&redis, "k", ttl);
    let new = granted_at_last(&mut next).await;
    assert!(SystemClock.now().since(since) >= ttl, "the key is taken for longer than the lease");
    assert!(new.tokens.first > old.tokens.last(), "tokens rise although the clock has gone back");
}

#[tokio::test]
async fn c018_tokens_rise_over_a_clock_that_is_set_back_and_a_key_that_is_forgotten() {
    let Some((shim, server)) = adjustable("c018") else { return };
    let redis = open(&server).await;
    let mut holder = contend(&redis, "k", Duration::from_secs(5));
    let before = granted(&mut holder).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    server.say("FLUSHALL").unwrap();
    shim.step(Step::Back(Duration::from_secs(3600))).unwrap();
    // Data lost and clock set back: only what the client has seen is left.
    let mut informed = claim("k");
    informed.floor = Some(before.tokens.last());
    assert!(granted(&mut redis.contend(informed)).await.tokens.first > before.tokens.last());
}

#[tokio::test]
async fn c081_names_that_are_used_once_are_gone_within_the_documented_time() {
    const NAMES: usize = 20_000;
    let Some((shim, server)) = adjustable("c081") else { return };
    let redis = open(&server).await;
    let size = |server: &RedisServer| server.say("DBSIZE").unwrap().trim()[1..].parse::<usize>().unwrap();
    let memory = |server: &RedisServer| {
        let info = server.say("INFO memory").unwrap();
        info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<usize>().ok()).unwrap()
    };
    let base = memory(&server);
    let use_once = |n: usize| {
        let mut contender = contend(&redis, &format!("once/{n}"), Duration::from_secs(5));
        async move {
            granted(&mut contender).await;
            contender.withdraw(Stray::Impossible).await.unwrap();
        }
    };
    for from in (0..NAMES).step_by(500) {
        futures_util::future::join_all((from..from + 500).map(use_once)).await;
    }
    assert!(size(&server) >= NAMES);
    let full = memory(&server) - base;
    // An hour later, as docs/engines/redis.md says, and the day of a card besides.
    shim.step(Step::Forward(Duration::from_secs(25 * 3600))).unwrap();
    until("the server has cleared up", || size(&server) == 0);
    let left = memory(&server).saturating_sub(base);
    assert!(left < full / 4, "{left} bytes of {full} are left");
}
