//! What a cycle costs in instructions, of the server and of its client: a count, so a slower minute does not change it.
//!
//! Both are compared with the bare cycle of the same build and the same server: `SET NX PX`, and a script that compares
//! and deletes. A number here is a promise, as in `counts.rs`. The client is built like all tests, without much
//! optimisation: its ratio is there to notice what is added, not to be quoted.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use futures_util::future::join_all;
use redis::AsyncConnectionConfig;
use support::*;
use tenure_core::Tenure;
use tenure_redis::Redis;
use tenure_servers::{Program, instructions};

const URL: &str = "TENURE_TEST_INSTRUCTIONS_URL";
const WHO: &str = "TENURE_TEST_INSTRUCTIONS_WHO";
const CYCLES: &str = "TENURE_TEST_INSTRUCTIONS_CYCLES";

/// So many that what starting takes goes away in the difference.
const FEW: u64 = 64;
const MANY: u64 = 320;

/// How many tasks are a crowd, who ask in scripts for sixteen.
const TASKS: u64 = 64;

async fn bare(url: &str, cycles: u64) {
    let config =
        AsyncConnectionConfig::new().set_response_timeout(Some(LIMIT)).set_connection_timeout(Some(LIMIT));
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    let script = redis::Script::new(
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0",
    );
    for _ in 0..cycles {
        let owner = format!("{:032x}", rand::random::<u128>());
        let set: Option<String> = redis::cmd("SET")
            .arg(&["k", &owner, "NX", "PX", "60000"])
            .query_async(&mut connection)
            .await
            .unwrap();
        assert!(set.is_some());
        let deleted: u8 = script.key("k").arg(&owner).invoke_async(&mut connection).await.unwrap();
        assert_eq!(deleted, 1);
    }
}

async fn locks(url: &str, cycles: u64) {
    let options = options(url).with_response_timeout(LIMIT).with_connect_timeout(LIMIT);
    let tenure = Tenure::new(Redis::open(&options).await.unwrap());
    let lock = tenure.lock("k").ttl(LIMIT);
    for _ in 0..cycles {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
}

/// As many tasks at once, each with a key of its own.
async fn crowd(url: &str, cycles: u64) {
    let options = options(url).with_response_timeout(LIMIT).with_connect_timeout(LIMIT);
    let tenure = Tenure::new(Redis::open(&options).await.unwrap());
    let tasks = (0..TASKS).map(|task| {
        let lock = tenure.lock(format!("k{task}")).ttl(LIMIT);
        async move {
            for _ in 0..cycles / TASKS {
                lock.acquire().await.unwrap().release().await.unwrap();
            }
        }
    });
    join_all(tasks).await;
}

/// The client: this program, started again. As a test it has nothing to do.
#[test]
fn role_of_a_client() {
    let Ok(url) = std::env::var(URL) else { return };
    let cycles = std::env::var(CYCLES).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match std::env::var(WHO).as_deref() {
        Ok("bare") => runtime.block_on(bare(&url, cycles)),
        Ok("crowd") => runtime.block_on(crowd(&url, cycles)),
        _ => runtime.block_on(locks(&url, cycles)),
    }
}

/// What a server and its client execute for so many cycles, starting and ending included.
fn executed(who: &str, cycles: u64) -> [u64; 2] {
    // Whatever a server does by itself it does once a second.
    let server = RedisServer::start_program(RedisServer::program().counted(), &["--hz", "1"]).unwrap();
    let client = Program::new(std::env::current_exe().unwrap(), "none")
        .args(["--exact", "role_of_a_client", "--nocapture"])
        .env(URL, server.url())
        .env(WHO, who)
        .env(CYCLES, cycles.to_string());
    let client = instructions(&client.counted().output().unwrap()).unwrap();
    // It ends without an answer.
    let _ = server.say("SHUTDOWN NOSAVE");
    let mut counted = None;
    until("the server says what it has executed", || {
        counted = instructions(&server.process().said());
        counted.is_some()
    });
    [counted.unwrap(), client]
}

/// What a cycle takes of a server and of its client.
fn each(who: &str) -> [f64; 2] {
    let ([server, client], [more, most]) = (executed(who, FEW), executed(who, MANY));
    [more - server, most - client].map(|count| count as f64 / (MANY - FEW) as f64)
}

#[test]
fn a_cycle_executes_no_more_instructions_than_it_did() {
    let ([bare_server, bare_client], [server, client], [crowd, _]) =
        (each("bare"), each("locks"), each("crowd"));
    println!("server: {server} a cycle, {bare_server} bare; client: {client} a cycle, {bare_client} bare");
    println!("server: {crowd} a cycle of a crowd");
    let (server, client, crowd) = (server / bare_server, client / bare_client, crowd / bare_server);
    assert!(server <= 3.8, "{server} times what the bare cycle takes of the server");
    assert!(crowd <= 1.7, "{crowd} times what the bare cycle takes of the server, in a crowd");
    assert!(client <= 1.8, "{client} times what the bare cycle takes of the client");
}
