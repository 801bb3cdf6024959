//! A cluster whose slots move and whose primaries are replaced.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Exclusion, Renewal, Retry, Stray, TokenDurability,
    Wake, Withdrawn,
};
use tenure_core::{FencingToken, Identity, Stale, Tenure};
use tenure_redis::{Redis, RedisFenceError};
use tenure_servers::redis::RedisCluster;

/// Long enough that no busy machine makes a replica take over by itself.
const PATIENT: Duration = Duration::from_secs(15);

async fn reach(cluster: &RedisCluster) -> Redis {
    at_last("servers of ours let us in", async || Redis::open(&options(&cluster.url())).await).await
}

fn hash(name: &str) -> String {
    format!("tenure:{{{name}}}")
}

/// The first name whose line is in this slot.
fn name_in(cluster: &RedisCluster, slot: u16, not: &str) -> String {
    let names = (0..1_000_000_u32).map(|n| format!("n{n}")).filter(|name| name != not);
    let names: Vec<_> = names.filter(|name| slot_of(name) == slot).take(1).collect();
    assert_eq!(cluster.slot_of(&hash(&names[0])), slot);
    names[0].clone()
}

/// CRC-16/XMODEM of the hash tag, which is the name.
fn slot_of(name: &str) -> u16 {
    let step = |crc: u16, byte: u8| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    };
    name.bytes().fold(0, step) % 16_384
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c064_verbs_follow_a_slot_on_its_way_and_no_wake_is_lost_for_good() {
    let cluster = RedisCluster::start(PATIENT, &[]).unwrap();
    let (one, two) = (reach(&cluster).await, reach(&cluster).await);
    let slot = slot_of("k");
    let young = name_in(&cluster, slot, "k");
    let from = cluster.primary_of(slot).unwrap();
    let to = (from + 1) % 3;
    let (mut holder, mut waiter) = (one.contend(claim("k")), two.contend(claim("k")));
    let first = granted(&mut holder).await;
    waits(&mut waiter).await;
    assert!(cluster.begin_move(slot, from, to));
    // The line is still where it was, and a line that is not there yet begins where it will be.
    assert!(matches!(holder.renew().await.unwrap(), Renewal::Renewed(_)));
    let mut other = one.contend(claim(&young));
    granted(&mut other).await;
    assert_eq!(granted(&mut holder).await.tokens, first.tokens);
    assert!(cluster.move_keys(slot, from, to));
    assert!(matches!(holder.renew().await.unwrap(), Renewal::Renewed(_)), "it is asked where it went");
    assert_eq!(places(&two, "k").await, 2);
    assert!(cluster.end_move(slot, from, to));
    assert!(matches!(holder.renew().await.unwrap(), Renewal::Renewed(_)));
    assert!(matches!(other.renew().await.unwrap(), Renewal::Renewed(_)));
    // The waiter looks now and then; from then on it is told over a connection to the new place.
    waits(&mut waiter).await;
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    let Wake::Granted(grant) = in_time("the grant comes", waiter.changed()).await.unwrap() else { panic!() };
    assert!(grant.tokens.first > first.tokens.last());
    assert!(matches!(waiter.renew().await.unwrap(), Renewal::Renewed(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c064_c065_after_each_of_twenty_takeovers_two_clients_lock_in_turn() {
    let cluster = RedisCluster::start(PATIENT, &[]).unwrap();
    let clients = [Tenure::new(reach(&cluster).await), Tenure::new(reach(&cluster).await)];
    let slot = slot_of("k");
    let mut last = FencingToken::new(1).unwrap();
    for round in 0..20 {
        let primary = cluster.primary_of(slot).unwrap();
        let mut replica = None;
        until("a replica follows", || {
            replica = cluster.replica_of(primary);
            replica.is_some()
        });
        assert!(cluster.take_over(replica.unwrap(), slot));
        for client in [round % 2, 1 - round % 2] {
            let guard = in_time("the key is to be had", clients[client].lock("k").acquire()).await.unwrap();
            assert!(guard.token() > last, "tokens rise");
            last = guard.token();
            guard.release().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c064_c070_a_killed_primary_is_replaced_and_until_then_nothing_is_applied() {
    let mut cluster = RedisCluster::start(Duration::from_millis(1_500), &[]).unwrap();
    let redis = reach(&cluster).await;
    let slot = slot_of("k");
    let primary = cluster.primary_of(slot).unwrap();
    let mut holder = redis.contend(claim("k"));
    let before = granted(&mut holder).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    cluster.nodes()[primary].kill();
    let after = in_time("a replica takes over", async {
        loop {
            match holder.attempt().await {
                Ok(Attempt::Granted(grant)) => break grant,
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    let (kind, _, retry) = axes(&error);
                    assert_eq!((kind, retry), (EngineErrorKind::Unreachable, Retry::Worth), "{error}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    });
    assert!(after.await.tokens.first > before.tokens.last());
    // Without its last node, the slot is served by nobody; the others notice, and serve nothing either.
    let mut replica = None;
    until("all agree on the new primary", || {
        replica = cluster.primary_of(slot);
        replica.is_some_and(|replica| replica != primary)
    });
    cluster.nodes()[replica.unwrap()].kill();
    let far = (0..).map(|n| format!("far/{n}")).find(|name| slot_of(name).abs_diff(slot) > 6_000).unwrap();
    let error = in_time("the cluster is down", async {
        loop {
            match redis.contend(only_try(&far)).attempt().await {
                Err(error) if error.to_string().contains("CLUSTERDOWN") => break error,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    let error = error.await;
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c030_c103_a_channel_whose_slot_moves_away_is_replaced_and_shifts_no_answer() {
    let cluster = RedisCluster::start(PATIENT, &[]).unwrap();
    let (one, two) = (reach(&cluster).await, reach(&cluster).await);
    let from = cluster.primary_of(slot_of("k")).unwrap();
    let to = (from + 1) % 3;
    let (mut holder, mut waiter) = (one.contend(claim("k")), two.contend(claim("k")));
    granted(&mut holder).await;
    let mut cluster = cluster;
    let channels = |cluster: &mut RedisCluster| -> Vec<String> {
        let reply = cluster.nodes()[from].say("PUBSUB SHARDCHANNELS tenure:to:*").unwrap();
        reply.lines().filter(|line| line.starts_with("tenure:to:")).map(str::to_owned).collect()
    };
    for _ in 0..3 {
        waits(&mut waiter).await;
        // Requests are under way while the server tells that the channel is gone.
        let storm = (0..200).map(|n| {
            let two = two.clone();
            tokio::spawn(async move {
                let mut contender = two.contend(claim(&format!("storm/{n}")));
                let attempt = contender.attempt().await;
                let stray = if attempt.is_err() { Stray::Possible } else { Stray::Impossible };
                while contender.withdraw(stray).await.is_err() {}
                attempt.err()
            })
        });
        let storm: Vec<_> = storm.collect();
        for channel in channels(&mut cluster) {
            let slot = slot_of(&channel);
            if slot != slot_of("k") && cluster.primary_of(slot) == Some(from) {
                assert!(cluster.begin_move(slot, from, to) && cluster.move_keys(slot, from, to));
                assert!(cluster.end_move(slot, from, to));
            }
        }
        for attempt in storm {
            if let Some(error) = attempt.await.unwrap() {
                assert_eq!(
                    (axes(&error).0, axes(&error).2),
                    (EngineErrorKind::Unreachable, Retry::Worth),
                    "{error}"
                );
            }
        }
        assert_eq!(in_time("it looks again", waiter.changed()).await.unwrap(), Wake::LookAgain);
    }
    waits(&mut waiter).await;
    in_time("the holder is back", async { while holder.renew().await.is_err() {} }).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    assert!(matches!(in_time("the grant comes", waiter.changed()).await, Ok(Wake::Granted(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c048_c071_c072_all_nodes_together_are_one_engine() {
    let mut cluster = RedisCluster::start(PATIENT, &[]).unwrap();
    let acks = options(&cluster.url()).with_acks(1, Duration::from_millis(300));
    let redis = Redis::open(&acks).await.unwrap();
    let facts = redis.facts();
    assert_eq!(
        (facts.engine, facts.exclusion, facts.token_durability),
        ("redis", Exclusion::BestEffort, TokenDurability::Volatile)
    );
    for node in cluster.nodes() {
        node.say("SCRIPT FLUSH").unwrap();
        node.say("CONFIG RESETSTAT").unwrap();
    }
    // Names of all sorts, on all nodes, each with all verbs.
    let names: Vec<_> =
        (0..12).map(|n| format!("jobs/{n}")).chain(["{".into(), "}{".into(), "a{b}c%".into()]).collect();
    for name in &names {
        let mut holder = redis.contend(named(name));
        in_time("it is acknowledged", async { while holder.attempt().await.is_err() {} }).await;
        assert!(matches!(holder.renew().await.unwrap(), Renewal::Renewed(_)));
        let line = redis.inspect(&key(name)).await.unwrap();
        assert_eq!(line.places[0].identity.as_ref().unwrap().command, "a test", "{name}");
    }
    assert_eq!(redis.keys("jobs/", None, 100).await.unwrap().len(), 12);
    let some = redis.keys("jobs/", Some(&key("jobs/1")), 3).await.unwrap();
    assert_eq!(some, ["jobs/10", "jobs/11", "jobs/2"].map(key));
    for name in &names {
        let claim = redis.inspect(&key(name)).await.unwrap().places[0].claim;
        assert_eq!(redis.evict(&key(name), claim).await.unwrap(), Withdrawn::Held);
    }
    assert_eq!(redis.keys("", None, 100).await.unwrap(), []);

    let slot = slot_of("k");
    let primary = cluster.primary_of(slot).unwrap();
    let replica = cluster.replica_of(primary).unwrap();
    cluster.nodes()[replica].process().freeze();
    let error = redis.contend(claim("k")).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
    cluster.nodes()[replica].process().thaw();
    assert_eq!(places(&redis, "k").await, 0, "too few have acknowledged it, so it is undone");
    let error = Redis::open(&acks.with_acks(2, Duration::from_millis(300))).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{error}");
}

/// A claim of somebody whose card can be read.
fn named(name: &str) -> tenure_core::Claim {
    let mut claim = claim(name);
    claim.identity = Identity::with_command("a test").into();
    claim
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c107_a_hand_over_is_told_by_one_node_alone() {
    let mut cluster = RedisCluster::start(PATIENT, &[]).unwrap();
    let redis = reach(&cluster).await;
    let (mut holder, mut waiter) = (redis.contend(claim("k")), redis.contend(claim("k")));
    granted(&mut holder).await;
    waits(&mut waiter).await;
    let primary = cluster.primary_of(slot_of("k")).unwrap();
    let sent = |cluster: &mut RedisCluster, what: &str| -> u64 {
        let info = cluster.nodes()[primary].say("CLUSTER INFO").unwrap();
        let line =
            info.lines().find_map(|line| line.strip_prefix(&format!("cluster_stats_messages_{what}_sent:")));
        line.map_or(0, |count| count.parse().unwrap())
    };
    let (before, plain) = (sent(&mut cluster, "publishshard"), sent(&mut cluster, "publish"));
    holder.withdraw(Stray::Impossible).await.unwrap();
    assert!(matches!(in_time("the grant comes", waiter.changed()).await, Ok(Wake::Granted(_))));
    assert_eq!(sent(&mut cluster, "publishshard"), before + 1, "its replica is told, and nobody else");
    assert_eq!(sent(&mut cluster, "publish"), plain);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_a_cluster_needs_the_documented_rights_and_no_more() {
    let mut cluster = RedisCluster::start(PATIENT, &[]).unwrap();
    let rights = "ACL SETUSER app on >pw resetkeys ~tenure:* resetchannels &tenure:to:* -@all +hello +auth \
                  +client|setname +select +info +config|get +script|load +evalsha +eval +time +hmget +hget +hset \
                  +hdel +hgetall +exists +type +pexpireat +set +get +scan +wait +cluster|slots +cluster|myid \
                  +cluster|info +asking +ssubscribe +spublish";
    let rights: Vec<_> = rights.split_whitespace().collect();
    for node in cluster.nodes() {
        assert_eq!(node.say_all(std::slice::from_ref(&rights)).unwrap(), "+OK\r\n");
    }
    let url = cluster.url().replace("://", "://app:pw@");
    let redis = Redis::open(&options(&url)).await.unwrap();
    for name in ["a", "b", "c"] {
        let (mut holder, mut waiter) = (redis.contend(claim(name)), redis.contend(claim(name)));
        granted(&mut holder).await;
        waits(&mut waiter).await;
        holder.withdraw(Stray::Impossible).await.unwrap();
        assert!(matches!(in_time("the grant comes", waiter.changed()).await, Ok(Wake::Granted(_))));
    }
    let slot = slot_of("k");
    let from = cluster.primary_of(slot).unwrap();
    assert!(cluster.begin_move(slot, from, (from + 1) % 3));
    granted(&mut redis.contend(claim("k"))).await;
    assert_eq!(redis.keys("", None, 9).await.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_on_a_cluster_refuses_a_stale_holder_and_data_in_another_slot() {
    let cluster = RedisCluster::start(PATIENT, &[]).unwrap();
    let redis = reach(&cluster).await;
    let (old, new) = (FencingToken::new(33).unwrap(), FencingToken::new(34).unwrap());
    for tag in ["{a}", "{b}", "{c}"] {
        let fence = redis.fence(format!("{tag}:fence"));
        fence.enter(old, 0).await.unwrap();
        fence.set(new, 0, tag, b"new").await.unwrap();
        let error = fence.set(old, 0, tag, b"stale").await.unwrap_err();
        assert!(
            matches!(error, RedisFenceError::Stale(found) if found == Stale { slot: 0, offered: old, mark: new })
        );
        let RedisFenceError::Trouble(error) = fence.set(new, 0, "{elsewhere}", b"x").await.unwrap_err()
        else {
            panic!()
        };
        assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{error}");
        assert!(error.to_string().contains("hash tag"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_cluster_or_lets_nobody_in_is_refused() {
    let single = RedisServer::start(&["--requirepass", "secret"]).unwrap();
    let at = |login: &str, port: u16| format!("redis+cluster://{login}127.0.0.1:{port}");
    let error = refused(&at(":secret@", single.port())).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{error}");
    assert!(error.to_string().contains("is no node of a cluster"), "{error}");
    for login in ["", ":wrong@"] {
        let error = refused(&at(login, single.port())).await;
        assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{error}");
    }
    let [nobody] = free_ports().unwrap();
    let error = refused(&at("", nobody)).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
    // A node that has been told of no others serves nothing.
    let [bus] = free_ports().unwrap();
    let bus = bus.to_string();
    let lonely = RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]).unwrap();
    let error = refused(&at("", lonely.port())).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
    let error = refused(&lonely.url()).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{error}");
    assert!(error.to_string().contains("redis+cluster://"), "{error}");
}
