//! Servers in bad states, and servers that must not be used: full, read-only, busy, locked, foreign.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Exclusion, Liveness, Renewal, Retry, Stray,
    TokenDurability, Wake, Withdrawn,
};
use tenure_core::{FencingToken, Stale};
use tenure_redis::{Eviction, Redis, RedisContender, RedisFenceError, RedisOptions};

const NONE: (Effect, Retry) = (Effect::None, Retry::Worth);

/// The verb is refused with certainty that nothing was applied, and works again when the state has passed.
async fn refuses_for_now(server: &RedisServer, kind: EngineErrorKind, enter: &[&str], leave: &[&str]) {
    let redis = open(server).await;
    let mut holder = redis.contend(claim("held"));
    granted(&mut holder).await;
    enter.iter().for_each(|command| drop(server.say(command).unwrap()));
    let mut contender = redis.contend(claim("k"));
    let attempt = contender.attempt().await.unwrap_err();
    let renewal = holder.renew().await.unwrap_err();
    let withdrawal = redis.contend(claim("k")).withdraw(Stray::Impossible).await.unwrap_err();
    for error in [attempt, renewal, withdrawal] {
        assert_eq!(axes(&error), (kind, NONE.0, NONE.1), "{enter:?}: {error}");
    }
    leave.iter().for_each(|command| drop(server.say(command).unwrap()));
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))), "{leave:?}");
    granted(&mut contender).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    contender.withdraw(Stray::Impossible).await.unwrap();
}

#[tokio::test]
async fn c048_c070_a_server_without_enough_replicas_refuses_everything_for_now() {
    let server = RedisServer::start(&[]).unwrap();
    let on = ["CONFIG SET min-replicas-to-write 1"];
    refuses_for_now(&server, EngineErrorKind::Unreachable, &on, &["CONFIG SET min-replicas-to-write 0"])
        .await;
}

#[tokio::test]
async fn c070_a_server_that_cannot_write_its_files_refuses_everything_for_now() {
    let server = RedisServer::start(&[]).unwrap();
    std::fs::create_dir(server.directory().join("dump.rdb")).unwrap();
    server.say_all(&[vec!["CONFIG", "SET", "save", "3600 1"]]).unwrap();
    server.say("BGSAVE").unwrap();
    until("the save has failed", || {
        server.say("INFO persistence").unwrap().contains("rdb_last_bgsave_status:err")
    });
    let redis = open(&server).await;
    let error = redis.contend(claim("k")).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, NONE.0, NONE.1), "{error}");
    server.say("CONFIG SET stop-writes-on-bgsave-error no").unwrap();
    granted(&mut redis.contend(claim("k"))).await;
}

#[tokio::test]
async fn c066_c070_a_primary_that_becomes_a_replica_refuses_everything_for_now() {
    let server = RedisServer::start(&[]).unwrap();
    let other = RedisServer::start(&[]).unwrap();
    let to = format!("REPLICAOF 127.0.0.1 {}", other.port());
    let redis = open(&server).await;
    let mut holder = redis.contend(claim("held"));
    granted(&mut holder).await;
    server.say(&to).unwrap();
    // The first notices; those after it are told when they connect anew. Even what would find nothing is refused.
    for _ in 0..2 {
        let error = redis.contend(claim("k")).withdraw(Stray::Impossible).await.unwrap_err();
        assert_eq!(axes(&error), (EngineErrorKind::Unreachable, NONE.0, NONE.1), "{error}");
    }
    assert_eq!(refused(&server.url()).await.kind(), EngineErrorKind::Unreachable);
    server.say("REPLICAOF NO ONE").unwrap();
    granted(&mut redis.contend(claim("k"))).await;
}

#[tokio::test]
async fn c070_a_server_that_is_busy_with_a_script_refuses_everything_for_now() {
    let server = RedisServer::start(&["--busy-reply-threshold", "50"]).unwrap();
    let redis = open(&server).await;
    let mut contender = redis.contend(claim("k"));
    granted(&mut contender).await;
    let port = server.port();
    let looping = std::thread::spawn(move || say(port, &[vec!["EVAL", "while true do end", "0"]]));
    until("the script blocks the server", || server.say("PING").unwrap().starts_with("-BUSY"));
    let error = contender.renew().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, NONE.0, NONE.1), "{error}");
    server.say("SCRIPT KILL").unwrap();
    looping.join().unwrap().unwrap();
    assert!(matches!(contender.renew().await, Ok(Renewal::Renewed(_))));
}

#[tokio::test]
async fn c069_a_full_server_refuses_new_claims_and_lets_the_others_renew_wait_release_and_hand_over() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let (mut holder, mut waiter) = (redis.contend(claim("k")), redis.contend(claim("k")));
    let (mut alone, mut next) = (redis.contend(claim("alone")), redis.contend(claim("k")));
    granted(&mut holder).await;
    granted(&mut alone).await;
    waits(&mut waiter).await;
    waits(&mut next).await;
    server.say("CONFIG SET maxmemory 100000").unwrap();
    assert!(server.say("SET x y").unwrap().starts_with("-OOM"));
    let error = redis.contend(claim("new")).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Full, NONE.0, NONE.1), "{error}");
    assert_eq!(places(&redis, "new").await, 0);
    let error = redis.contend(claim("k")).attempt().await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Full);
    assert_eq!(places(&redis, "k").await, 3);
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
    waits(&mut waiter).await;
    holder.restamp().await.unwrap();
    assert_eq!(alone.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    assert_eq!(holder.withdraw(Stray::Possible).await.unwrap(), Withdrawn::Held);
    assert!(matches!(in_time("the grant comes", waiter.changed()).await, Ok(Wake::Granted(_))));
    assert!(matches!(waiter.renew().await, Ok(Renewal::Renewed(_))));
    let id = redis.inspect(&key("k")).await.unwrap().places[0].claim;
    assert_eq!(redis.evict(&key("k"), id).await.unwrap(), Withdrawn::Held);
    assert!(matches!(in_time("the grant comes", next.changed()).await, Ok(Wake::Granted(_))));
}

#[tokio::test]
async fn c068_a_server_that_may_evict_is_refused_and_the_override_is_honest() {
    let server = RedisServer::start(&["--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru"]).unwrap();
    let error = refused(&server.url()).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless));
    assert!(error.to_string().contains("allkeys-lru"), "{error}");
    let redis = Redis::open(&options(&server.url()).with_eviction(Eviction::Allow)).await.unwrap();
    assert_eq!(redis.facts().exclusion, Exclusion::BestEffort);
    // A lock that was evicted is noticed by its renewal, and the next token is higher.
    let mut holder = redis.contend(claim("k"));
    let before = granted(&mut holder).await;
    server.say("DEL tenure:{k}").unwrap();
    assert!(matches!(holder.renew().await, Ok(Renewal::Gone(_))));
    assert!(granted(&mut redis.contend(claim("k"))).await.tokens.first > before.tokens.first);
}

#[tokio::test]
async fn c075_what_somebody_else_keeps_under_a_name_of_ours_is_named_and_untouched() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let damage = "HSET tenure:{damaged} tenure nonsense";
    for (make, name, kind) in [
        ("SET tenure:{string} precious", "string", "string"),
        ("RPUSH tenure:{list} precious", "list", "list"),
        ("HSET tenure:{hash} precious 1", "hash", "hash"),
        ("HSET tenure:{other} tenure 2", "other", "another version"),
        (damage, "damaged", "another version"),
    ] {
        server.say(make).unwrap();
        let before = server.say(&format!("DUMP tenure:{{{name}}}")).unwrap();
        let mut contender = redis.contend(claim(name));
        let mut errors = vec![contender.attempt().await.unwrap_err(), contender.renew().await.unwrap_err()];
        errors.push(contender.withdraw(Stray::Possible).await.unwrap_err());
        errors.push(redis.evict(&key(name), claim(name).id).await.unwrap_err());
        for error in errors {
            assert_eq!(
                axes(&error),
                (EngineErrorKind::Foreign, Effect::None, Retry::Useless),
                "{make}: {error}"
            );
            assert!(error.to_string().contains(kind), "{make}: {error}");
        }
        assert_eq!(redis.inspect(&key(name)).await.unwrap_err().kind(), EngineErrorKind::Foreign, "{make}");
        assert_eq!(server.say(&format!("DUMP tenure:{{{name}}}")).unwrap(), before, "{make}");
    }
    assert_eq!(redis.keys("", None, 9).await.unwrap(), []);
}

#[tokio::test]
async fn c075_a_line_whose_last_token_or_time_is_damaged_is_named_and_untouched() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let sound = {
        let mut contender = redis.contend(claim("sound"));
        granted(&mut contender).await;
        contender.withdraw(Stray::Impossible).await.unwrap();
        server.say("HGET tenure:{sound} tenure").unwrap().lines().nth(1).unwrap().to_owned()
    };
    assert_eq!(sound.len(), 32, "{sound}");
    for (n, from, to) in
        [(0, 16, "                "), (1, 16, "letters of words"), (2, 2, "letters .time."), (3, 31, "!")]
    {
        // As it was when nobody was in the line, but for some letters.
        let mut damaged = sound.clone();
        damaged.replace_range(from..from + to.len(), to);
        let name = format!("damaged{n}");
        let hash = format!("tenure:{{{name}}}");
        server.say_all(&[vec!["HSET", &hash, "tenure", &damaged]]).unwrap();
        for how in [claim(&name), only_try(&name)] {
            let error = redis.contend(how).attempt().await.unwrap_err();
            assert_eq!(axes(&error), (EngineErrorKind::Foreign, Effect::None, Retry::Useless), "{damaged}");
        }
        let found = server.say(&format!("HGETALL {hash}")).unwrap();
        assert_eq!(found.lines().collect::<Vec<_>>()[1..], ["$6", "tenure", "$32", &*damaged], "{damaged}");
    }
}

#[tokio::test]
async fn what_is_used_once_is_cleared_up_within_the_documented_time() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let mut contender = redis.contend(claim("k"));
    granted(&mut contender).await;
    contender.withdraw(Stray::Possible).await.unwrap();
    let left = server.say("PTTL tenure:{k}").unwrap();
    let left: u64 = left.trim_start_matches(':').trim().parse().unwrap();
    let (term, half_an_hour) = (30_000, 30 * 60 * 1_000);
    assert!((half_an_hour..=2 * half_an_hour + term).contains(&left), "{left}");
    assert!(server.say("KEYS *").unwrap().matches("tenure:").count() == 2, "the line and the card");
    let card = server.say("KEYS tenure:client:*").unwrap();
    let card = card.lines().find(|line| line.starts_with("tenure:client:")).unwrap();
    assert!(server.say(&format!("GET {card}")).unwrap().contains("\"pid\""));
    assert!(server.say(&format!("TTL {card}")).unwrap() != ":-1\r\n");
}

#[tokio::test]
async fn the_facts_follow_the_servers_configuration() {
    let plain = open(&RedisServer::start(&[]).unwrap()).await.facts();
    assert_eq!(
        (plain.engine, plain.liveness, plain.exclusion),
        ("redis", Liveness::Lease, Exclusion::BestEffort)
    );
    assert_eq!(plain.token_durability, TokenDurability::Volatile);
    let everysec = open(&RedisServer::start(&["--appendonly", "yes"]).unwrap()).await.facts();
    assert_eq!(everysec.exclusion, Exclusion::BestEffort);
    let always =
        open(&RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap()).await.facts();
    assert_eq!(
        (always.exclusion, always.token_durability),
        (Exclusion::WithinClockRates, TokenDurability::Disk)
    );
}

/// A replica that has just come, or was stopped, has some catching up to do before it acknowledges anything.
async fn acknowledged(contender: &mut RedisContender) {
    let granted = async { while contender.attempt().await.is_err() {} };
    in_time("it is acknowledged", granted).await;
}

#[tokio::test]
async fn c048_a_grant_that_too_few_replicas_acknowledge_is_undone() {
    let primary = RedisServer::start(&["--repl-diskless-sync-delay", "0"]).unwrap();
    let replica = RedisServer::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port())]).unwrap();
    until("the replica follows", || {
        replica.say("INFO replication").unwrap().contains("master_link_status:up")
    });
    until("the primary knows it", || primary.say("INFO replication").unwrap().contains("state=online"));
    let acks = options(&primary.url()).with_acks(1, Duration::from_millis(300));
    let redis = Redis::open(&acks).await.unwrap();
    assert_eq!(redis.facts().exclusion, Exclusion::BestEffort);
    let mut contender = redis.contend(claim("k"));
    acknowledged(&mut contender).await;
    let mut waiter = redis.contend(claim("k"));
    waits(&mut waiter).await;
    contender.withdraw(Stray::Impossible).await.unwrap();
    assert_eq!(in_time("a wake", waiter.changed()).await.unwrap(), Wake::LookAgain, "no grant without acks");
    granted(&mut waiter).await;
    waiter.withdraw(Stray::Impossible).await.unwrap();
    replica.process().freeze();
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, NONE.0, NONE.1), "{error}");
    assert_eq!(places(&redis, "k").await, 0, "it is undone");
    replica.process().thaw();
    acknowledged(&mut contender).await;
    let error = Redis::open(&acks.with_acks(2, Duration::from_millis(300))).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{error}");
}

#[tokio::test]
async fn c048_a_grant_counts_only_when_it_is_on_the_disk_of_a_replica_where_the_server_can_tell() {
    let old = RedisServer::start(&[]).unwrap();
    let replica = RedisServer::start(&["--replicaof", &format!("127.0.0.1 {}", old.port())]).unwrap();
    until("the primary knows it", || old.say("INFO replication").unwrap().contains("connected_slaves:1"));
    let error = refused(&format!("{}?acks=1&acks-on=disk", old.url())).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{error}");
    assert!(error.to_string().contains("7.2"), "{error}");
    drop(replica);

    let Some(valkey) = RedisServer::valkey("acknowledgements from disks") else { return };
    let start = |options: &[&str]| RedisServer::start_program(valkey.clone(), options).unwrap();
    let primary = start(&["--repl-diskless-sync-delay", "0"]);
    let of = format!("127.0.0.1 {}", primary.port());
    let replica = start(&["--replicaof", &of, "--appendonly", "yes", "--appendfsync", "always"]);
    until("the primary knows it", || primary.say("INFO replication").unwrap().contains("state=online"));
    let url = format!("{}?acks=1&acks-on=disk&acks-timeout-ms=500", primary.url());
    let redis = Redis::open(&options(&url)).await.unwrap();
    let mut contender = redis.contend(claim("k"));
    acknowledged(&mut contender).await;
    contender.withdraw(Stray::Impossible).await.unwrap();
    // With the grant in its memory alone, the replica says nothing.
    replica.say("CONFIG SET appendonly no").unwrap();
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, NONE.0, NONE.1), "{error}");
    assert_eq!(places(&redis, "k").await, 0, "it is undone");
}

#[tokio::test]
async fn who_may_not_log_in_or_lacks_a_right_is_told_which() {
    let server = RedisServer::start(&["--requirepass", "secret"]).unwrap();
    let say = |words: &[&str]| {
        let all = [&["AUTH", "secret"][..], words].map(<[_]>::to_vec);
        server.say_all(&all).unwrap()
    };
    // The rights that the page of this engine lists.
    let rights = "on >pw resetkeys ~tenure:* resetchannels &tenure:to:* -@all +hello +auth +client|setname +select \
                  +info +config|get +script|load +evalsha +eval +subscribe +publish +time +hmget +hget +hset +hdel \
                  +hgetall +exists +type +pexpireat +set +get +scan +wait";
    let words: Vec<_> = ["ACL", "SETUSER", "app"].into_iter().chain(rights.split_whitespace()).collect();
    assert!(say(&words).ends_with("+OK\r\n"), "{}", say(&words));
    let url = |login: &str| format!("redis://{login}127.0.0.1:{}", server.port());
    for login in ["", ":wrong@", "app:wrong@", "nobody:pw@"] {
        let error = refused(&url(login)).await;
        assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{login}: {error}");
        assert!(!error.to_string().contains("wrong@"));
    }
    let redis = Redis::open(&options(&url("app:pw@"))).await.unwrap();
    let (mut holder, mut waiter) = (redis.contend(claim("k")), redis.contend(claim("k")));
    granted(&mut holder).await;
    waits(&mut waiter).await;
    assert_eq!(redis.inspect(&key("k")).await.unwrap().places.len(), 2);
    assert_eq!(redis.keys("", None, 9).await.unwrap(), [key("k")]);
    holder.withdraw(Stray::Impossible).await.unwrap();
    assert!(matches!(in_time("the grant comes", waiter.changed()).await, Ok(Wake::Granted(_))));
    for (right, back) in
        [("-publish", "+publish"), ("-subscribe", "+subscribe"), ("-script|load", "+script|load")]
    {
        say(&["ACL", "SETUSER", "app", right]);
        let error = refused(&url("app:pw@")).await;
        assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{right}: {error}");
        say(&["ACL", "SETUSER", "app", back]);
    }
    say(&["ACL", "SETUSER", "app", "-hset"]);
    let redis = Redis::open(&options(&url("app:pw@"))).await.unwrap();
    let error = redis.contend(claim("k2")).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::Unknown, Retry::Useless), "{error}");
}

#[tokio::test]
async fn a_unix_socket_and_a_numbered_database_are_as_good() {
    let server = RedisServer::start(&["--unixsocket", "redis.sock"]).unwrap();
    let url = format!("redis+unix://{}?database=3", server.directory().join("redis.sock").display());
    let redis = Redis::open(&options(&url)).await.unwrap();
    granted(&mut redis.contend(claim("k"))).await;
    assert!(server.say("INFO keyspace").unwrap().contains("db3"));
    assert!(matches!(open(&server).await.contend(only_try("k")).attempt().await, Ok(Attempt::Granted(_))));
    let error = refused(&format!("{}/99", server.url())).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{error}");
}

#[tokio::test]
async fn what_is_no_redis_is_refused_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("redis://{}?connect-timeout-ms=200", listener.local_addr().unwrap());
    let error = refused(&silent).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
    let server = std::thread::spawn(move || {
        let mut stream = listener.incoming().nth(1).unwrap().unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        stream
    });
    let error = refused(&silent).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{error}");
    drop(server.join());
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_proves_the_server_and_a_stranger_is_refused() {
    let (made, stranger) = (Certificates::new().unwrap(), Certificates::new().unwrap());
    let [port] = free_ports().unwrap();
    let shown = |path: std::path::PathBuf| path.display().to_string();
    let (ca, tls_port) = (shown(made.authority()), port.to_string());
    let (cert, key) = (shown(made.certificate()), shown(made.key()));
    let (certs, ports) = (["--tls-cert-file", &cert, "--tls-key-file", &key], ["--tls-port", &tls_port]);
    let clients = ["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"];
    let server = RedisServer::start(&[&ports[..], &certs, &clients].concat()).unwrap();
    let url = |ca: &str| format!("rediss://127.0.0.1:{port}?ca={ca}");
    let redis = Redis::open(&options(&url(&ca))).await.unwrap();
    let (mut holder, mut waiter) = (redis.contend(claim("k")), redis.contend(claim("k")));
    granted(&mut holder).await;
    waits(&mut waiter).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    assert!(matches!(in_time("the grant comes", waiter.changed()).await, Ok(Wake::Granted(_))));
    for ca in [&shown(stranger.authority()), &shown(made.directory().join("missing.pem")), &key] {
        let error = refused(&url(ca)).await;
        assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{ca}: {error}");
    }
    // TLS to a port that does not speak it.
    let error = refused(&format!("rediss://127.0.0.1:{}?ca={ca}", server.port())).await;
    assert_eq!(error.effect(), Effect::None, "{error}");
}

#[tokio::test]
async fn a_fence_on_the_server_refuses_a_stale_holder() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let (old, new) = (FencingToken::new(33).unwrap(), FencingToken::new(34).unwrap());
    let fence = redis.fence("{orders}:fence");
    fence.enter(old, 0).await.unwrap();
    fence.set(old, 0, "{orders}", b"old").await.unwrap();
    open(&server).await.fence("{orders}:fence").enter(new, 0).await.unwrap();
    let error = fence.set(old, 0, "{orders}", b"stale").await.unwrap_err();
    let stale = Stale { slot: 0, offered: old, mark: new };
    assert!(matches!(error, RedisFenceError::Stale(found) if found == stale), "{error}");
    assert_eq!(server.say("GET {orders}").unwrap(), "$3\r\nold\r\n");
    fence.set(new, 0, "{orders}", b"new").await.unwrap();
    fence.enter(old, 1).await.unwrap();
    server.say("SET {other} text").unwrap();
    let error = redis.fence("{other}").enter(new, 0).await.unwrap_err();
    assert!(matches!(error, RedisFenceError::Trouble(_)), "{error}");
}

#[test]
fn options_from_code_are_those_of_a_url() {
    assert_eq!(RedisOptions::tcp("h", 6379), RedisOptions::from_url("redis://h").unwrap());
}
