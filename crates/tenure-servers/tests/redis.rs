//! A server lives as long as its value, and no longer.

use std::path::Path;
use std::time::Duration;

use tenure_servers::redis::{RedisCluster, RedisServer, SentinelSet};
use tenure_servers::{Program, ServerError};

#[test]
fn a_server_answers_can_be_frozen_and_is_gone_with_its_value() {
    let mut server = RedisServer::start(&[]).unwrap();
    assert_eq!(server.say("PING").unwrap(), "+PONG\r\n");
    server.process().freeze();
    server.process().thaw();
    server.restart().unwrap();
    assert_eq!(server.say("PING").unwrap(), "+PONG\r\n");
    let (pid, directory) = (server.process().pid(), server.directory().to_owned());
    drop(server);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!directory.exists());
}

#[test]
fn a_server_that_does_not_start_says_why() {
    let error = RedisServer::start(&["--maxmemory", "nonsense"]).unwrap_err();
    assert!(matches!(&error, ServerError::Silent { said, .. } if said.contains("nonsense")), "{error}");
}

#[test]
fn a_program_that_is_missing_is_named_with_its_package() {
    let error = Program::new("no-such-server", "no-package").run().unwrap_err();
    let words = error.to_string();
    assert!(words.contains("no-such-server") && words.contains("no-package"), "{words}");
}

#[test]
fn sentinels_agree_on_a_primary_and_on_another_when_it_is_killed() {
    let mut set = SentinelSet::start(Duration::from_millis(500), &[], &[]).unwrap();
    assert_eq!(set.primary(), Some(0));
    let next = set.fail_over().unwrap();
    assert_ne!(next, 0);
    set.servers()[next].kill();
    assert_ne!(set.wait_for_other(next).unwrap(), next);
}

#[test]
fn a_cluster_serves_all_slots_moves_them_and_lets_a_replica_take_over() {
    let mut cluster = RedisCluster::start(Duration::from_secs(2), &[]).unwrap();
    let slot = cluster.slot_of("key");
    let primary = cluster.primary_of(slot).unwrap();
    cluster.nodes()[primary].say("SET key value").unwrap();
    let other = (primary + 1) % 3;
    assert!(cluster.begin_move(slot, primary, other));
    assert!(cluster.move_keys(slot, primary, other));
    assert!(cluster.end_move(slot, primary, other));
    assert_eq!(cluster.nodes()[other].say("GET key").unwrap(), "$5\r\nvalue\r\n");
    let replica = cluster.replica_of(other).unwrap();
    assert!(cluster.take_over(replica, slot));
    cluster.nodes()[replica].kill();
    assert!(tenure_servers::until(|| cluster.primary_of(slot) == Some(other)), "and its old primary again");
}
