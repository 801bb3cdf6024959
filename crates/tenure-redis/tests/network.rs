//! Holds and waits over networks that are cut, narrow, half open or crowded, and on servers that are full of clients.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::future::join_all;
use support::*;
use tenure_core::engine::{Contender, Engine, Stray};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{ErrorKind, Guard, LossCause, Released, Tenure};
use tenure_redis::Redis;

/// A server behind a proxy, and a client of it.
async fn behind_a_proxy() -> (RedisServer, Proxy, Tenure) {
    let server = RedisServer::start(&[]).unwrap();
    let proxy = Proxy::before(server.port(), Proxy::resp).unwrap();
    let tenure = Tenure::new(Redis::open(&options(&url_of(&proxy))).await.unwrap());
    (server, proxy, tenure)
}

/// How many connections of ours the server has.
fn connections(server: &RedisServer) -> usize {
    server.say("CLIENT LIST").unwrap().matches("name=tenure").count()
}

/// A number that the server tells of itself.
fn told(server: &RedisServer, section: &str, name: &str) -> u64 {
    let info = server.say(&format!("INFO {section}")).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|number| number.trim().parse().ok()).unwrap()
}

/// Waits until a hold is renewed once more.
async fn renewed_again(guard: &Guard) {
    let until = guard.until_moment().unwrap();
    let longer = async {
        while guard.until_moment().unwrap() == until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time("it is renewed again", longer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c007_c008_c078_holds_on_a_half_open_server_are_lost_at_their_deadlines_each_by_itself() {
    let (_server, proxy, tenure) = behind_a_proxy().await;
    let ttls = [2, 3].map(Duration::from_secs);
    let guards = join_all(ttls.map(|ttl| {
        let lock = tenure.lock(format!("k{ttl:?}")).ttl(ttl);
        async move { lock.acquire().await.unwrap() }
    }))
    .await;
    proxy.half_open(true);
    for guard in &guards {
        let until = guard.until_moment().unwrap();
        assert_eq!(in_time("it is lost", guard.lost()).await.cause, LossCause::Expired);
        assert!(SystemClock.now().reached(until), "it is not lost before its deadline");
        assert!(!guard.is_held());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c009_c011_a_cut_that_is_shorter_than_the_ttl_costs_no_hold_and_renewals_go_on() {
    let (_server, proxy, tenure) = behind_a_proxy().await;
    let ttl = Duration::from_secs(6);
    let guard = tenure.lock("k").ttl(ttl).acquire().await.unwrap();
    proxy.refuse(true);
    proxy.cut();
    // Over a third of the TTL: a renewal has failed.
    tokio::time::sleep(ttl * 2 / 5).await;
    proxy.refuse(false);
    renewed_again(&guard).await;
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c041_a_server_that_is_gone_is_an_error_and_not_a_busy_key() {
    let mut server = RedisServer::start(&[]).unwrap();
    let tenure = Tenure::new(open(&server).await);
    server.kill();
    let lock = tenure.lock("k").ttl(Duration::from_millis(500));
    for error in [lock.try_acquire().await.unwrap_err(), lock.acquire().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c076_a_server_that_takes_no_more_clients_lets_holders_renew_and_release() {
    let server = RedisServer::start(&[]).unwrap();
    let tenure = Tenure::new(open(&server).await);
    let guard = tenure.lock("k").ttl(Duration::from_secs(3)).acquire().await.unwrap();
    until("the keeper has its connection", || connections(&server) == 2);
    // One for us to say so.
    server.say("CONFIG SET maxclients 3").unwrap();
    let _crowd = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let refused = async { while Redis::open(&options(&server.url())).await.is_ok() {} };
    in_time("nobody else gets in", refused).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(guard.is_held(), "{:?}", guard.check());
    assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c077_a_login_that_is_revoked_keeps_the_hold_to_its_deadline_and_no_longer() {
    let server = RedisServer::start(&[]).unwrap();
    server.say("ACL SETUSER app on >pw ~* &* +@all").unwrap();
    let url = server.url().replace("redis://", "redis://app:pw@");
    let tenure = Tenure::new(Redis::open(&options(&url)).await.unwrap());
    let guard = tenure.lock("k").ttl(Duration::from_secs(2)).acquire().await.unwrap();
    // Kills its connections as well.
    server.say("ACL DELUSER app").unwrap();
    assert!(guard.is_held());
    let until = guard.until_moment().unwrap();
    assert_eq!(in_time("it is lost", guard.lost()).await.cause, LossCause::Expired);
    assert!(SystemClock.now().reached(until));
    let error = tenure.lock("k").acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c079_many_claims_come_back_to_a_restarted_server_over_few_connections() {
    let mut server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let mut line: Vec<_> = (0..300).map(|n| redis.contend(claim(&format!("k{}", n % 100)))).collect();
    for contender in &mut line {
        contender.attempt().await.unwrap();
    }
    server.restart().unwrap();
    let before = told(&server, "stats", "total_connections_received");
    let come_back = join_all(line.iter_mut().map(async |contender| {
        // Each goes on asking as long as it takes.
        while contender.attempt().await.is_err() {}
    }));
    in_time("all are back", come_back).await;
    let came = told(&server, "stats", "total_connections_received") - before;
    // Ours, that of the look, and some that were made while the server was starting.
    assert!(came <= 8, "{came} connections for one client");
    assert_eq!(connections(&server), 1);
    assert_eq!(redis.keys("k", None, 1_000).await.unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c080_a_narrow_network_does_not_lose_a_hold() {
    let (server, proxy, tenure) = behind_a_proxy().await;
    let ttl = Duration::from_secs(6);
    let guard = tenure.lock("k").ttl(ttl).acquire().await.unwrap();
    // The scripts are loaded when a connection is made; that is not what this is about.
    until("the keeper has its connection", || connections(&server) == 2);
    renewed_again(&guard).await;
    for side in [Side::Requests, Side::Replies] {
        proxy.bandwidth(side, NonZeroU32::new(10_000));
    }
    let since = SystemClock.now();
    while SystemClock.now().since(since) < ttl * 3 / 2 {
        // Others wait meanwhile, over the same narrow way.
        let outcome = tenure.lock("k").wait_for(Duration::from_millis(300)).await.unwrap();
        assert!(outcome.is_busy());
        assert!(guard.is_held(), "{:?}", guard.check());
    }
    assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c031_a_release_that_the_network_repeats_hits_nobody_else() {
    let (server, proxy, _tenure) = behind_a_proxy().await;
    let redis = Redis::open(&options(&url_of(&proxy))).await.unwrap();
    let (mut first, mut second) = (redis.contend(claim("k")), redis.contend(claim("k")));
    granted(&mut first).await;
    waits(&mut second).await;
    // The second copy arrives after the key has gone to the next. Its answer is one too many, and ends the connection.
    proxy.next(Side::Requests, mentions(b"impossible"), Trick::Duplicate);
    let _ = first.withdraw(Stray::Impossible).await;
    let direct = open(&server).await;
    let line = direct.inspect(&key("k")).await.unwrap();
    assert_eq!(line.places.len(), 1, "{line:?}");
    assert_eq!(granted(&mut second).await.tokens.first, line.last_token.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c070_an_error_that_only_the_network_makes_is_judged_by_the_same_table() {
    let (_server, proxy, _tenure) = behind_a_proxy().await;
    let redis = Redis::open(&options(&url_of(&proxy))).await.unwrap();
    granted(&mut redis.contend(claim("other"))).await;
    let mut contender = redis.contend(claim("k"));
    proxy.next(
        Side::Requests,
        mentions("EVALSHA"),
        Trick::Answer(b"-LOADING Redis is loading the dataset in memory\r\n".to_vec()),
    );
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(
        (error.effect(), error.retry()),
        (tenure_core::engine::Effect::None, tenure_core::engine::Retry::Worth)
    );
    granted(&mut contender).await;
}
