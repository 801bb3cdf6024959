//! A quorum whose nodes are slow, dead, frozen, restarted, forgetful or not independent, on real servers.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Exclusion, Gone, Order, Permits, Renewal, Retry,
    Standing, Stray, TokenDurability, Validity, Withdrawn,
};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{Claim, IfBusy, Mode, Tenure, Ttl};
use tenure_redis::{Redis, Redlock, RedlockContender, RedlockOptions, Young};

/// Some servers of one's own.
fn servers(count: usize, options: &[&str]) -> Vec<RedisServer> {
    (0..count).map(|_| RedisServer::start(options).unwrap()).collect()
}

fn url(servers: &[RedisServer]) -> String {
    let nodes: Vec<_> = servers.iter().map(RedisServer::url).collect();
    format!("redlock:{}", nodes.join(","))
}

fn redlock_options(url: &str) -> RedlockOptions {
    let joined = if url.contains('?') { '&' } else { '?' };
    RedlockOptions::from_url(&format!("{url}{joined}timeout-ms=500")).unwrap()
}

/// On servers that have just been started for the first time.
async fn open_young(servers: &[RedisServer]) -> Redlock {
    Redlock::open(&redlock_options(&url(servers)).with_young(Young::Count)).await.unwrap()
}

async fn granted_by(contender: &mut RedlockContender) -> tenure_core::engine::Grant {
    match contender.attempt().await.unwrap() {
        Attempt::Granted(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

/// Tries again and again, as a client does.
async fn granted_in_time(contender: &mut RedlockContender) -> tenure_core::engine::Grant {
    let granted = async {
        loop {
            match contender.attempt().await {
                Ok(Attempt::Granted(grant)) => return grant,
                Ok(Attempt::Waiting(_) | Attempt::Busy(_)) | Err(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(other) => panic!("{other:?}"),
            }
        }
    };
    in_time("it is granted", granted).await
}

/// How many of the servers have a place in the line of a key.
fn nodes_with_places(servers: &[RedisServer], name: &str) -> usize {
    // The first place is written behind the head, which has 32 letters and a sign.
    let has = |server: &&RedisServer| {
        let head = server.say(&format!("HGET tenure:{{{name}}} tenure")).unwrap();
        head.lines().nth(1).is_some_and(|head| head.len() > 33)
    };
    servers.iter().filter(has).count()
}

fn claim_for(name: &str, ttl: Duration) -> Claim {
    let mut claim = claim(name);
    claim.ttl = Ttl::new(ttl).unwrap();
    claim
}

#[tokio::test]
async fn the_facts_of_a_quorum_say_what_it_cannot_promise() {
    let servers = servers(3, &[]);
    let facts = Redlock::open(&redlock_options(&url(&servers))).await.unwrap().facts();
    assert_eq!((facts.engine, facts.order, facts.permits), ("redlock", Order::Any, Permits::Refused));
    assert_eq!(facts.exclusion, Exclusion::WithinClockRates);
    assert_eq!(facts.token_durability, TokenDurability::Quorum);
    let young = open_young(&servers).await.facts();
    assert_eq!(young.exclusion, Exclusion::BestEffort, "a restarted node counts at once");
    assert_eq!(young.token_durability, TokenDurability::Volatile);
}

#[tokio::test]
async fn a_semaphore_over_a_quorum_is_refused_and_leaves_nothing() {
    let servers = servers(3, &[]);
    let redlock = open_young(&servers).await;
    let mut claim = claim("k");
    claim.mode = Mode::Permit { limit: 2.try_into().unwrap() };
    let error = redlock.contend(claim).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{error}");
    assert_eq!(nodes_with_places(&servers, "k"), 0);
}

#[tokio::test]
async fn c004_a_quorum_that_is_gathered_too_late_is_no_grant_and_is_undone() {
    let servers = servers(3, &[]);
    let proxies: Vec<_> =
        servers.iter().map(|server| Proxy::before(server.port(), Proxy::resp).unwrap()).collect();
    let nodes: Vec<_> = proxies.iter().map(url_of).collect();
    let options = redlock_options(&format!("redlock:{}", nodes.join(","))).with_young(Young::Count);
    let redlock = Redlock::open(&options).await.unwrap();
    let ttl = Duration::from_millis(800);
    granted_by(&mut redlock.contend(claim_for("warm", ttl))).await;
    // One slow node costs nothing but a little time.
    proxies[0].delay(Side::Replies, ttl * 11 / 10);
    let before = SystemClock.now();
    let mut holder = redlock.contend(claim_for("k", ttl));
    let grant = granted_by(&mut holder).await;
    assert_eq!(grant.validity, Validity::Lease(ttl));
    assert!(SystemClock.now().since(before) < ttl, "it was not waited for");
    holder.withdraw(Stray::Impossible).await.unwrap();
    // With two of three, a majority would come too late to be worth anything.
    proxies[1].delay(Side::Replies, ttl * 11 / 10);
    let error = redlock.contend(claim_for("late", ttl)).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth), "{error}");
    // What has answered was undone at once, and what was silent keeps it for no longer than the TTL.
    assert!(nodes_with_places(&servers[2..], "late") == 0);
}

#[tokio::test]
async fn one_node_or_two_of_five_may_be_away_and_three_may_not() {
    let mut servers = servers(5, &[]);
    let redlock = open_young(&servers).await;
    let mut last = None;
    for dead in 0..=2 {
        let mut holder = redlock.contend(claim(&format!("k{dead}")));
        let mut waiter = redlock.contend(claim(&format!("k{dead}")));
        let token = granted_in_time(&mut holder).await.tokens.first;
        assert!(Some(token) > last);
        assert!(matches!(waiter.attempt().await.unwrap(), Attempt::Waiting(_)));
        assert!(matches!(holder.renew().await.unwrap(), Renewal::Renewed(_)));
        assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
        last = Some(granted_in_time(&mut waiter).await.tokens.first);
        assert_eq!(redlock.inspect(&key(&format!("k{dead}"))).await.unwrap().places.len(), 1);
        assert_eq!(redlock.keys(&format!("k{dead}"), None, 9).await.unwrap().len(), 1);
        waiter.withdraw(Stray::Impossible).await.unwrap();
        // One that hangs is as good as one that is gone.
        match servers.get_mut(dead) {
            Some(server) if dead == 1 => server.process().freeze(),
            Some(server) => server.kill(),
            None => {}
        }
    }
    let mut contender = redlock.contend(claim("none"));
    let error = contender.attempt().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (EngineErrorKind::Unreachable, Retry::Worth), "{error}");
    assert!(error.to_string().contains("2 of 5"), "{error}");
    assert!(redlock.inspect(&key("none")).await.is_err());
    assert!(redlock.keys("", None, 9).await.is_err());
    assert_eq!(nodes_with_places(&servers[3..], "none"), 0, "less than a majority is given back");
    servers[1].process().thaw();
    granted_in_time(&mut contender).await;
}

#[tokio::test]
async fn a_holder_keeps_its_hold_while_nodes_come_and_go_one_after_the_other() {
    let mut servers = servers(3, &[]);
    let tenure = Tenure::new(open_young(&servers).await);
    let guard = tenure.lock("k").ttl(Duration::from_secs(6)).acquire().await.unwrap();
    for server in &mut servers {
        server.restart().unwrap();
        // The node has forgotten the hold, and is joined anew after the others have proved it.
        until("it is joined anew", || server.say("HGETALL tenure:{k}").unwrap().contains("holds "));
        assert!(guard.is_held());
        guard.verify().await.unwrap().unwrap();
    }
    assert!(tenure.lock("k").try_acquire().await.unwrap().is_busy());
    guard.release().await.unwrap();
    assert_eq!(nodes_with_places(&servers, "k"), 0);
}

#[tokio::test]
async fn c058_a_node_that_was_restarted_does_not_count_until_the_longest_ttl_has_passed() {
    let mut servers = servers(3, &[]);
    let longest = Duration::from_secs(4);
    let options = redlock_options(&url(&servers)).with_longest_ttl(longest);
    let redlock = Redlock::open(&options).await.unwrap();
    // They have all just been started: nobody knows what they have forgotten.
    let error = redlock.contend(only_try("k").with_term(longest)).attempt().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (EngineErrorKind::Unreachable, Retry::Worth), "{error}");
    assert!(error.to_string().contains("allow=young"), "{error}");
    assert_eq!(nodes_with_places(&servers, "k"), 0, "it is undone");
    let mut holder = redlock.contend(claim_for("k", longest));
    granted_in_time(&mut holder).await;
    // Two of three forget the hold. A majority of nodes would grant it again, but only one of them counts.
    servers[0].restart().unwrap();
    servers[1].restart().unwrap();
    let since = SystemClock.now();
    let other = Redlock::open(&options).await.unwrap();
    let mut second = other.contend(claim_for("k", longest));
    let granted = async {
        while !matches!(second.attempt().await, Ok(Attempt::Granted(_))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    in_time("it is granted at last", granted).await;
    assert!(SystemClock.now().since(since) >= longest - Duration::from_secs(1), "while the hold was valid");
    // The first holder could not go on: one node is no majority.
    assert!(matches!(holder.renew().await, Ok(Renewal::Gone(_)) | Err(_)));
    let error = redlock.contend(claim_for("k", longest * 2)).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{error}");
}

#[tokio::test]
async fn a_node_that_writes_all_to_its_disk_counts_at_once_after_a_restart() {
    let mut servers = servers(3, &["--appendonly", "yes", "--appendfsync", "always"]);
    let redlock = Redlock::open(&redlock_options(&url(&servers))).await.unwrap();
    assert_eq!(redlock.facts().exclusion, Exclusion::WithinClockRates);
    let mut holder = redlock.contend(claim("k"));
    let before = granted_by(&mut holder).await;
    servers.iter_mut().for_each(|server| server.restart().unwrap());
    let renewed = async { while !matches!(holder.renew().await, Ok(Renewal::Renewed(_))) {} };
    in_time("it is proved again", renewed).await;
    assert!(matches!(redlock.contend(only_try("k")).attempt().await.unwrap(), Attempt::Busy(_)));
    holder.withdraw(Stray::Impossible).await.unwrap();
    assert!(granted_in_time(&mut redlock.contend(claim("k"))).await.tokens.first > before.tokens.last());
}

#[tokio::test]
async fn c059_nodes_that_are_not_independent_are_refused() {
    let servers = servers(2, &[]);
    let replica = RedisServer::start(&["--replicaof", &format!("127.0.0.1 {}", servers[0].port())]).unwrap();
    until("the replica follows", || {
        replica.say("INFO replication").unwrap().contains("master_link_status:up")
    });
    let refused = async |nodes: [String; 3]| {
        let options = redlock_options(&format!("redlock:{}", nodes.join(","))).with_young(Young::Count);
        let error = Redlock::open(&options).await.unwrap_err();
        assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{error}");
        error.to_string()
    };
    let [one, two] = [servers[0].url(), servers[1].url()];
    let error = refused([one.clone(), two.clone(), replica.url()]).await;
    assert!(error.contains("replica"), "{error}");
    let error = refused([one.clone(), two.clone(), one.replace("127.0.0.1", "localhost")]).await;
    assert!(error.contains("the same server"), "{error}");
    let database = format!("{}/1", one.replace("127.0.0.1", "localhost"));
    assert!(refused([one.clone(), two.clone(), database]).await.contains("the same server"));
    // A replica that was made a primary by itself still has the history of the other.
    let node = RedisServer::start(&["--cluster-enabled", "yes"]).unwrap();
    let error = refused([one.clone(), two.clone(), node.url()]).await;
    assert!(error.contains("cluster"), "{error}");
}

#[tokio::test]
async fn c060_a_token_is_on_a_majority_before_it_is_reported() {
    let servers = servers(5, &[]);
    let redlock = open_young(&servers).await;
    let mut last = 0;
    for round in 0..40 {
        // Each node's clock of tokens is its own: some have seen a far higher one.
        let ahead = &servers[round % 5];
        let mut single = Redis::open(&options(&ahead.url())).await.unwrap().contend({
            let mut claim = claim("k");
            claim.floor = tenure_core::FencingToken::new(last + 1_000_000 * u64::from(round % 3 == 0));
            claim
        });
        granted(&mut single).await;
        single.withdraw(Stray::Impossible).await.unwrap();
        let mut holder = redlock.contend(claim("k"));
        let grant = granted_by(&mut holder).await;
        assert!(grant.tokens.first.get() > last, "round {round}");
        last = grant.tokens.last().get();
        let has = |server: &&RedisServer| {
            let head = server.say("HGET tenure:{k} tenure").unwrap();
            let token = head.lines().nth(1).and_then(|head| head.get(16..32)?.parse::<u64>().ok());
            token.is_some_and(|token| token >= last)
        };
        assert!(servers.iter().filter(has).count() >= 3, "round {round}: it is on less than a majority");
        holder.withdraw(Stray::Impossible).await.unwrap();
    }
}

#[tokio::test]
async fn c060_readers_of_a_quorum_have_tokens_of_their_own_that_rise() {
    let servers = servers(3, &[]);
    let (one, two) = (open_young(&servers).await, open_young(&servers).await);
    let mut last = None;
    let mut readers = Vec::new();
    for n in 0..20 {
        let mut claim = claim("k");
        claim.mode = Mode::Shared;
        let mut reader = [&one, &two][n % 2].contend(claim);
        let token = granted_by(&mut reader).await.tokens.first;
        assert!(Some(token) > last);
        last = Some(token);
        readers.push(reader);
    }
    for mut reader in readers {
        assert!(matches!(reader.renew().await.unwrap(), Renewal::Renewed(_)));
        assert_eq!(reader.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    }
}

#[tokio::test]
async fn c061_a_hold_that_a_majority_has_lost_is_not_regained_by_renewing() {
    let servers = servers(5, &[]);
    let (one, two) = (open_young(&servers).await, open_young(&servers).await);
    let mut holder = one.contend(claim("k"));
    granted_by(&mut holder).await;
    // One node at a time forgets: the others prove the hold, and it is joined anew.
    for server in &servers {
        server.say("FLUSHALL").unwrap();
        assert!(matches!(holder.renew().await.unwrap(), Renewal::Renewed(_)));
        until("it is joined anew", || server.say("HGETALL tenure:{k}").unwrap().contains("holds "));
        assert!(matches!(two.contend(only_try("k")).attempt().await.unwrap(), Attempt::Busy(_)));
    }
    // Three at once, and somebody else was granted between: renewing proves that it is lost, and for ever.
    for server in &servers[..3] {
        server.say("FLUSHALL").unwrap();
    }
    let mut second = two.contend(only_try("k"));
    granted_by(&mut second).await;
    second.withdraw(Stray::Impossible).await.unwrap();
    for _ in 0..3 {
        assert_eq!(holder.renew().await.unwrap(), Renewal::Gone(Gone::Absent));
    }
    assert_eq!(nodes_with_places(&servers, "k"), 0, "what is left of it keeps nobody out");
}

#[tokio::test]
async fn a_split_vote_is_decided_and_nobody_starves() {
    let servers = servers(5, &[]);
    let clients = [open_young(&servers).await, open_young(&servers).await, open_young(&servers).await];
    let inside = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let contend = |n: usize| {
        let (tenure, inside) = (Tenure::new(clients[n % 3].clone()), std::sync::Arc::clone(&inside));
        tokio::spawn(async move {
            for _ in 0..5 {
                let guard =
                    tenure.lock("k").fairness(tenure_core::Fairness::StrictFifo).acquire().await.unwrap();
                assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "two hold it");
                tokio::task::yield_now().await;
                inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                guard.release().await.unwrap();
            }
        })
    };
    let all: Vec<_> = (0..9).map(contend).collect();
    for one in all {
        in_time("everybody has a turn", one).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c067_who_is_cut_off_with_a_minority_loses_and_the_majority_goes_on() {
    let servers = servers(5, &[]);
    let proxies: Vec<_> =
        servers.iter().map(|server| Proxy::before(server.port(), Proxy::resp).unwrap()).collect();
    let nodes: Vec<_> = proxies.iter().map(url_of).collect();
    let options = redlock_options(&format!("redlock:{}", nodes.join(","))).with_young(Young::Count);
    let (here, there) =
        (Tenure::new(Redlock::open(&options).await.unwrap()), Tenure::new(open_young(&servers).await));
    let ttl = Duration::from_secs(3);
    let guard = here.lock("k").ttl(ttl).acquire().await.unwrap();
    proxies[2..].iter().for_each(|proxy| proxy.half_open(true));
    let lock = there.lock("k").ttl(ttl);
    let other = in_time("the majority goes on", lock.acquire()).await.unwrap();
    assert!(!guard.is_held(), "two hold it");
    assert!(other.token() > guard.token());
    let error = here.lock("k").ttl(Duration::from_secs(1)).try_acquire().await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    assert!(other.is_held());
    other.release().await.unwrap();
    proxies[2..].iter().for_each(|proxy| {
        proxy.half_open(false);
        proxy.cut();
    });
    let again = async {
        // Each try is an error as long as connections are being made anew.
        while !matches!(here.lock("k").try_acquire().await, Ok(outcome) if !outcome.is_busy()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    in_time("it is back", again).await;
}

#[tokio::test]
async fn a_node_that_was_deaf_to_a_release_hears_of_it_later() {
    let servers = servers(3, &[]);
    let proxy = Proxy::before(servers[2].port(), Proxy::resp).unwrap();
    let nodes = [servers[0].url(), servers[1].url(), url_of(&proxy)];
    let options = redlock_options(&format!("redlock:{}", nodes.join(","))).with_young(Young::Count);
    let redlock = Redlock::open(&options).await.unwrap();
    let mut holder = redlock.contend(claim("k"));
    granted_by(&mut holder).await;
    until("all have granted it", || nodes_with_places(&servers, "k") == 3);
    proxy.half_open(true);
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    assert_eq!(nodes_with_places(&servers, "k"), 1);
    proxy.half_open(false);
    proxy.cut();
    until("the third hears of it", || nodes_with_places(&servers, "k") == 0);
}

#[tokio::test]
async fn c029_an_attempt_that_a_node_gets_after_the_release_is_refused_there() {
    let servers = servers(3, &[]);
    let proxy = Proxy::before(servers[2].port(), Proxy::resp).unwrap();
    let nodes = [servers[0].url(), servers[1].url(), url_of(&proxy)];
    let options = redlock_options(&format!("redlock:{}", nodes.join(","))).with_young(Young::Count);
    let redlock = Redlock::open(&options).await.unwrap();
    granted_by(&mut redlock.contend(claim("warm"))).await;
    proxy.hold(Side::Requests, true);
    let mut holder = redlock.contend(claim("k"));
    granted_by(&mut holder).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    proxy.hold(Side::Requests, false);
    let settled = || {
        let fields = servers[2].say("HGETALL tenure:{k}").unwrap();
        fields.contains("gone ") || fields.starts_with("*0")
    };
    until("nothing is left there but a tombstone", settled);
    assert_eq!(nodes_with_places(&servers[..2], "k"), 0);
    let line = redlock.inspect(&key("k")).await.unwrap();
    assert!(line.places.iter().all(|place| place.standing == Standing::Waits) && line.places.is_empty());
}

/// A claim of a test, with another term.
trait WithTerm {
    fn with_term(self, ttl: Duration) -> Self;
}

impl WithTerm for Claim {
    fn with_term(mut self, ttl: Duration) -> Self {
        self.ttl = Ttl::new(ttl).unwrap();
        assert_eq!(self.if_busy, IfBusy::Leave);
        self
    }
}
