//! Lost, late and repeated messages, dead connections and dead runtimes, on a real server.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use futures_executor::block_on;
use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Gone, Renewal, Restamp, Retry, Stray, Validity,
    Wake, Withdrawn,
};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{Tenure, blocking};
use tenure_redis::Redis;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_holds_renews_restamps_and_leaves_by_one_command_each() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let mut holder = redis.contend(claim("k"));
    let grant = granted(&mut holder).await;
    assert_eq!(grant.validity, Validity::Lease(Duration::from_secs(30)));
    assert_eq!(granted(&mut holder).await, grant, "an attempt never makes a second place");
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
    let Ok(Restamp::Fresh(fresh)) = holder.restamp().await else { panic!() };
    assert!(fresh.first > grant.tokens.last());
    server.say("CONFIG RESETSTAT").unwrap();
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    let next = granted(&mut redis.contend(claim("k"))).await;
    assert!(next.tokens.first > fresh.last());
    let stats = server.say("INFO commandstats").unwrap();
    for (command, calls) in [("evalsha", 2), ("time", 2), ("hget", 2), ("hset", 2)] {
        assert!(stats.contains(&format!("cmdstat_{command}:calls={calls},")), "{command}: {stats}");
    }
    assert!(!stats.contains("pexpireat"), "a key that is used again is not timed again: {stats}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_hands_the_grant_to_the_next_and_tells_it() {
    let server = RedisServer::start(&[]).unwrap();
    let (one, two) = (open(&server).await, open(&server).await);
    let (mut holder, mut waiter) = (one.contend(claim("k")), two.contend(claim("k")));
    let first = granted(&mut holder).await;
    let waiting = waits(&mut waiter).await;
    assert_eq!((waiting.ahead, waiting.last_token), (1, first.tokens.last().get()));
    holder.withdraw(Stray::Impossible).await.unwrap();
    let Wake::Granted(grant) = in_time("the grant comes", waiter.changed()).await.unwrap() else { panic!() };
    assert!(grant.tokens.first.get() > waiting.last_token);
    assert!(matches!(waiter.changed().await, Ok(Wake::Granted(_))), "a wake is a level");
    assert_eq!(waiter.renew().await.unwrap(), Renewal::Renewed(Validity::Lease(Duration::from_secs(30))));
    assert_eq!(granted(&mut waiter).await.tokens, grant.tokens);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c026_a_lost_reply_does_not_block_its_own_claim() {
    let server = RedisServer::start(&[]).unwrap();
    let proxy = Proxy::before(server.port(), Proxy::resp).unwrap();
    let redis = Redis::open(&options(&url_of(&proxy))).await.unwrap();
    let mut contender = redis.contend(claim("k"));
    // The first attempt of a connection shows who we are as well; this is about one request.
    granted(&mut redis.contend(claim("other"))).await;
    redis.inspect(&key("other")).await.unwrap();
    proxy.next(Side::Replies, |_| true, Trick::CutBefore);
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth));
    let grant = granted(&mut contender).await;
    let line = open(&server).await.inspect(&key("k")).await.unwrap();
    assert_eq!(line.places.len(), 1);
    assert_eq!(line.last_token, Some(grant.tokens.first), "it was applied once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c029_an_attempt_that_arrives_after_its_withdrawal_is_refused() {
    let server = RedisServer::start(&[]).unwrap();
    let proxy = Proxy::before(server.port(), Proxy::resp).unwrap();
    let (late, direct) = (Redis::open(&options(&url_of(&proxy))).await.unwrap(), open(&server).await);
    let wish = claim("k");
    let mut contender = late.contend(wish.clone());
    proxy.hold(Side::Requests, true);
    let attempt = tokio::spawn(async move { contender.attempt().await });
    assert!(proxy.wait_for_events(1));
    assert_eq!(direct.contend(wish).withdraw(Stray::Possible).await.unwrap(), Withdrawn::Absent);
    proxy.hold(Side::Requests, false);
    assert!(matches!(attempt.await.unwrap(), Ok(Attempt::Gone(Gone::Withdrawn))));
    assert_eq!(places(&direct, "k").await, 0);
    granted(&mut direct.contend(claim("k"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c030_an_answer_for_another_claim_ends_the_connection() {
    let server = RedisServer::start(&[]).unwrap();
    let proxy = Proxy::before(server.port(), Proxy::resp).unwrap();
    let redis = Redis::open(&options(&url_of(&proxy))).await.unwrap();
    let wish = claim("k");
    let (id, other) = (wish.id.to_string(), claim("k").id.to_string());
    let (from, to) = (id.into_bytes(), other.into_bytes());
    let names_it = from.clone();
    let matches = move |frame: &[u8]| frame.windows(names_it.len()).any(|window| window == names_it);
    proxy.next(Side::Replies, matches, Trick::Replace { from, to });
    let mut contender = redis.contend(wish);
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Protocol, Effect::Unknown, Retry::Useless));
    // The next request goes over another connection.
    granted(&mut contender).await;
    until("the connection is given up", || {
        server.say("CLIENT LIST").unwrap().matches("name=tenure").count() == 1
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c031_c032_a_repeated_withdrawal_hits_nobody_else() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let (mut first, mut second) = (redis.contend(claim("k")), redis.contend(claim("k")));
    granted(&mut first).await;
    assert_eq!(first.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    let grant = granted(&mut second).await;
    assert_eq!(first.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
    assert_eq!(first.withdraw(Stray::Possible).await.unwrap(), Withdrawn::Absent);
    assert_eq!(granted(&mut second).await, grant);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_has_certainly_no_effect_and_a_silent_server_an_unknown_one() {
    let mut server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let mut contender = redis.contend(claim("k"));
    granted(&mut contender).await;
    server.process().freeze();
    let start = SystemClock.now();
    let error = contender.renew().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth));
    assert!(SystemClock.now().since(start) < Duration::from_secs(2), "the wait is bounded");
    server.process().thaw();
    assert!(matches!(contender.renew().await, Ok(Renewal::Renewed(_))), "over a new connection");
    server.kill();
    // The first notices that the connection is gone, or that the next one is refused.
    let _ = contender.renew().await;
    let error = contender.renew().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c049_c058_tokens_rise_although_a_restarted_server_has_forgotten_all() {
    let mut server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let mut holder = redis.contend(claim("k"));
    let before = granted(&mut holder).await;
    server.restart().unwrap();
    until("it is reached again", || {
        block_on(async { matches!(holder.renew().await, Ok(Renewal::Gone(Gone::Absent))) })
    });
    let after = granted(&mut redis.contend(claim("k"))).await;
    assert!(after.tokens.first > before.tokens.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c071_scripts_are_found_again_however_often_they_are_forgotten() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    for n in 0..200 {
        if n % 3 == 0 {
            server.say("SCRIPT FLUSH").unwrap();
        }
        let mut contender = redis.contend(claim("k"));
        granted(&mut contender).await;
        assert!(matches!(contender.renew().await, Ok(Renewal::Renewed(_))));
        assert_eq!(contender.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c103_a_waiter_whose_connection_is_killed_looks_again_and_is_woken() {
    let server = RedisServer::start(&[]).unwrap();
    let (one, two) = (open(&server).await, open(&server).await);
    let (mut holder, mut waiter) = (one.contend(claim("k")), two.contend(claim("k")));
    granted(&mut holder).await;
    for _ in 0..5 {
        waits(&mut waiter).await;
        server.say("CLIENT KILL TYPE pubsub").unwrap();
        server.say("CLIENT KILL TYPE normal").unwrap();
        assert_eq!(in_time("it looks again", waiter.changed()).await.unwrap(), Wake::LookAgain);
    }
    waits(&mut waiter).await;
    until("the holder is back", || block_on(holder.renew()).is_ok());
    holder.withdraw(Stray::Impossible).await.unwrap();
    assert!(matches!(in_time("the grant comes", waiter.changed()).await, Ok(Wake::Granted(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c107_a_release_wakes_one_of_a_thousand_by_the_same_commands_as_one_of_two() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let mut cost = Vec::new();
    for waiters in [2, 1_000] {
        let name = format!("k{waiters}");
        let mut holder = redis.contend(claim(&name));
        granted(&mut holder).await;
        let mut line: Vec<_> = (0..waiters).map(|_| redis.contend(claim(&name))).collect();
        for waiter in &mut line {
            waits(waiter).await;
        }
        server.say("CONFIG RESETSTAT").unwrap();
        holder.withdraw(Stray::Impossible).await.unwrap();
        assert!(matches!(in_time("the grant comes", line[0].changed()).await, Ok(Wake::Granted(_))));
        let stats = server.say("INFO commandstats").unwrap();
        let calls = |line: &str| line.split("calls=").nth(1)?.split(',').next()?.parse::<u32>().ok();
        let ours = stats.lines().filter(|line| !line.contains("config") && !line.contains("quit"));
        cost.push(ours.filter_map(calls).sum::<u32>());
        assert!(stats.contains("cmdstat_publish:calls=1,"), "{stats}");
    }
    assert_eq!(cost[0], cost[1]);
}

#[test]
fn runtimes_may_come_and_go_and_callers_need_none() {
    let server = RedisServer::start(&[]).unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let redis = first.block_on(open(&server));
    let mut holder = redis.contend(claim("k"));
    first.block_on(granted(&mut holder));
    let mut waiter = redis.contend(claim("k"));
    first.block_on(waits(&mut waiter));
    drop(first);
    assert_eq!(block_on(waiter.changed()).unwrap(), Wake::LookAgain, "its connection has ended");
    let second = runtime();
    assert!(matches!(second.block_on(holder.renew()), Ok(Renewal::Renewed(_))));
    // Without a runtime.
    block_on(waits(&mut waiter));
    assert_eq!(second.block_on(holder.withdraw(Stray::Impossible)).unwrap(), Withdrawn::Held);
    assert!(matches!(block_on(waiter.changed()), Ok(Wake::Granted(_))));
    drop((redis, holder, waiter, second));
    until("nothing is left open", || !server.say("CLIENT LIST").unwrap().contains("name=tenure"));
}

#[test]
fn the_blocking_face_works_without_a_runtime() {
    let server = RedisServer::start(&[]).unwrap();
    let tenure = blocking::Tenure::from(Tenure::new(block_on(open(&server))));
    let guard = tenure.lock("k").acquire().unwrap();
    std::thread::scope(|threads| {
        let other = threads.spawn(|| tenure.lock("k").acquire().unwrap().release().unwrap());
        guard.check().unwrap();
        guard.release().unwrap();
        other.join().unwrap();
    });
}
