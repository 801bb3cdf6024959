//! A primary that is replaced: by sentinels that notice its death, by an operator, and behind our back.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::engine::{
    Contender, Effect, Engine, EngineErrorKind, Exclusion, Gone, Renewal, Retry, Stray, TokenDurability,
    Wake, Withdrawn,
};
use tenure_core::{FencingToken, Loss, Tenure};
use tenure_redis::{Redis, RedisOptions};
use tenure_servers::redis::SentinelSet;

const SOON: Duration = Duration::from_millis(800);
/// Longer than a busy machine keeps a living primary from answering: no failover but that of the test.
const NEVER: Duration = Duration::from_secs(60);

fn start(options: &[&str]) -> SentinelSet {
    SentinelSet::start(SOON, options, &[]).unwrap()
}

/// A set in which only an operator changes the primary.
fn start_calm(options: &[&str]) -> SentinelSet {
    SentinelSet::start(NEVER, options, &[]).unwrap()
}

/// A sentinel's primary, reached through these sentinels.
fn url(ports: &[u16], name: &str) -> String {
    let sentinels: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("redis+sentinel://{}/{name}", sentinels.join(","))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c046_c049_c065_a_failover_that_forgets_a_hold_tells_its_holder_and_tokens_rise() {
    let mut set = start(&[]);
    let tenure = |redis: Redis| Tenure::new(redis);
    let (one, two) = (
        tenure(Redis::open(&options(&set.url())).await.unwrap()),
        tenure(Redis::open(&options(&set.url())).await.unwrap()),
    );
    // The replicas do not hear of the grant.
    for at in [1, 2] {
        set.server(at).process().freeze();
    }
    set.server(0).say("CLIENT KILL TYPE replica").unwrap();
    let forgotten = one.lock("k").acquire().await.unwrap();
    set.servers()[0].kill();
    for at in [1, 2] {
        set.server(at).process().thaw();
    }
    assert!(matches!(in_time("the holder is told", forgotten.lost()).await, Loss { .. }));
    let mut last = forgotten.token();
    drop(forgotten);
    // Whoever held before is no better off than others.
    for client in [&two, &one, &two, &one] {
        let guard = loop {
            if let Ok(guard) = in_time("the key is to be had", client.lock("k").acquire()).await {
                break guard;
            }
        };
        assert!(guard.token() > last, "tokens rise");
        last = guard.token();
        guard.release().await.unwrap();
    }
    assert_ne!(set.primary(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c047_an_isolated_primary_that_wants_replicas_grants_nothing() {
    let set = start_calm(&["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"]);
    let redis = Redis::open(&options(&set.url())).await.unwrap();
    let mut holder = redis.contend(claim("held"));
    granted(&mut holder).await;
    // To the primary, replicas that are silent are as good as behind a cut cable.
    for at in [1, 2] {
        set.server(at).process().freeze();
    }
    until_refused("it misses its replicas", &redis, "tried").await;
    for refusal in [redis.contend(claim("k")).attempt().await.unwrap_err(), holder.renew().await.unwrap_err()]
    {
        assert_eq!(axes(&refusal), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{refusal}");
    }
    assert_eq!(places(&redis, "k").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c048_too_few_acknowledgements_undo_a_grant_behind_sentinels_too() {
    let set = start_calm(&[]);
    let acks = options(&set.url()).with_acks(2, Duration::from_millis(300));
    let redis = Redis::open(&acks).await.unwrap();
    let facts = redis.facts();
    assert_eq!(
        (facts.engine, facts.exclusion, facts.token_durability),
        ("redis", Exclusion::BestEffort, TokenDurability::Volatile)
    );
    let mut contender = redis.contend(claim("k"));
    in_time("it is acknowledged", async { while contender.attempt().await.is_err() {} }).await;
    contender.withdraw(Stray::Impossible).await.unwrap();
    set.server(1).process().freeze();
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
    assert_eq!(places(&redis, "k").await, 0, "it is undone");
    set.server(1).process().thaw();
    in_time("it is acknowledged", async { while contender.attempt().await.is_err() {} }).await;
    let error = Redis::open(&acks.with_acks(3, Duration::from_millis(300))).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c066_a_switch_that_is_told_ends_the_old_connection_while_the_old_primary_still_takes_writes() {
    let set = start_calm(&[]);
    let redis = Redis::open(&options(&set.url())).await.unwrap();
    let (mut holder, mut waiter) = (redis.contend(claim("k")), redis.contend(claim("k")));
    let first = granted(&mut holder).await;
    waits(&mut waiter).await;
    let new = set.fail_over().unwrap();
    assert!(set.server(0).is_primary(), "the old one has not been told");
    assert_eq!(in_time("the waiter is told", waiter.changed()).await.unwrap(), Wake::LookAgain);
    // The replica that was promoted had heard of both places.
    assert_eq!(granted(&mut holder).await.tokens, first.tokens);
    waits(&mut waiter).await;
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    let Wake::Granted(grant) = in_time("the grant comes", waiter.changed()).await.unwrap() else { panic!() };
    assert!(matches!(waiter.renew().await.unwrap(), Renewal::Renewed(_)));
    let line = set.server(new).say("HGET tenure:{k} tenure").unwrap();
    assert!(line.contains(&grant.tokens.last().to_string()), "the new primary keeps the line: {line}");
    assert!(
        !set.server(0).say("CLIENT LIST").unwrap().contains("name=tenure"),
        "nobody talks to the old one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c066_a_primary_that_was_demoted_unheard_refuses_and_the_next_one_is_asked() {
    let set = start_calm(&[]);
    let proxy = Proxy::before(set.sentinel_ports()[0], Proxy::resp).unwrap();
    let (switch, address) = (mentions("+switch-master"), mentions("127.0.0.1"));
    // The greeting of the subscription names the channel as well.
    let news = move |frame: &[u8]| switch(frame) && address(frame);
    proxy.next(Side::Replies, news, Trick::Drop);
    let redis = Redis::open(&options(&url(&[proxy.port()], "tenure"))).await.unwrap();
    let mut holder = redis.contend(claim("k"));
    let grant = granted(&mut holder).await;
    let new = set.fail_over().unwrap();
    let order = format!("REPLICAOF 127.0.0.1 {}", set.server(new).port());
    assert_eq!(set.server(0).say(&order).unwrap(), "+OK\r\n");
    // One call, no error: a replica that refuses has certainly done nothing.
    assert!(matches!(holder.renew().await.unwrap(), Renewal::Renewed(_)));
    assert_eq!(granted(&mut holder).await.tokens, grant.tokens);
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    assert!(matches!(holder.renew().await.unwrap(), Renewal::Gone(Gone::Absent)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sentinel_is_enough_and_none_is_told_as_such() {
    let mut set = start(&[]);
    set.kill_sentinel(0);
    set.kill_sentinel(1);
    let redis = Redis::open(&options(&set.url())).await.unwrap();
    let mut holder = redis.contend(claim("k"));
    granted(&mut holder).await;
    set.kill_sentinel(2);
    let error = refused(&set.url()).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
    assert!(error.to_string().contains("no sentinel of"), "{error}");
    // Whoever is connected needs no sentinel.
    assert!(matches!(holder.renew().await.unwrap(), Renewal::Renewed(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_names_passwords_and_servers_are_told_apart() {
    let set = start(&[]);
    let ports = set.sentinel_ports();
    let server = set.server(0).port();
    let unsupported = (EngineErrorKind::Unsupported, Effect::None, Retry::Useless);
    for (url, words) in [
        (url(&ports, "nobody"), "watches no primary called \"nobody\""),
        (url(&[server], "tenure"), "is no sentinel"),
        (format!("redis://127.0.0.1:{}", ports[0]), "is a sentinel"),
    ] {
        let error = refused(&url).await;
        assert_eq!(axes(&error), unsupported, "{url}: {error}");
        assert!(error.to_string().contains(words), "{url}: {error}");
    }
    // The rights that the page of this engine lists.
    let rights = "ACL SETUSER app on >secret resetchannels &+switch-master -@all +hello +auth +subscribe \
                  +sentinel|master +sentinel|get-master-addr-by-name";
    let rights = [rights.split_whitespace().collect(), vec!["ACL", "SETUSER", "default", "off"]];
    for port in &ports {
        assert!(say(*port, &rights).unwrap().starts_with("+OK\r\n+OK\r\n"));
    }
    let login = |user: &str, password: &str| {
        format!("{}?sentinel-user={user}&sentinel-password={password}", set.url())
    };
    for url in [
        set.url(),
        login("app", "wrong-secret"),
        login("app", "secret").replace("://", "://nobody:wrong-secret@"),
    ] {
        let error = refused(&url).await;
        assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{url}: {error}");
        assert!(error.to_string().contains("password") && !error.to_string().contains("secret"), "{error}");
    }
    let login = login("app", "secret");
    let redis = Redis::open(&RedisOptions::from_url(&login).unwrap()).await.unwrap();
    let grant = granted(&mut redis.contend(claim("k"))).await;
    assert!(grant.tokens.first > FencingToken::new(1).unwrap());
}
