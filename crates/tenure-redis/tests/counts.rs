//! What locks cost a server, in things that are the same on every machine: commands, and what scripts call.
//!
//! A number here is a promise. One more command in a cycle fails a test; a slower minute does not.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use support::*;
use tenure_core::engine::{Attempt, Contender, Engine, Stray};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_core::{Fairness, Options, Tenure};
use tenure_servers::{Monitor, Seen};

const CYCLES: u64 = 20;

/// What the server has run while something was done.
async fn seen<F: Future>(server: &RedisServer, work: F) -> Seen {
    let monitor = Monitor::start(server.port()).unwrap();
    work.await;
    let mut seen = monitor.end().unwrap();
    // The connection that ends the counting.
    seen.commands.remove("QUIT");
    seen
}

fn pairs(counts: &tenure_servers::Counts) -> Vec<(&str, u64)> {
    counts.iter().map(|(name, count)| (name.as_str(), *count)).collect()
}

async fn cycle(tenure: &Tenure, key: &str) {
    let guard = tenure.lock(key).acquire().await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_cycle_is_two_commands_and_six_calls() {
    let server = RedisServer::start(&[]).unwrap();
    let tenure = Tenure::new(open(&server).await);
    // The first use of a client and of a name costs more.
    cycle(&tenure, "k").await;
    let seen = seen(&server, async {
        for _ in 0..CYCLES {
            cycle(&tenure, "k").await;
        }
    })
    .await;
    assert_eq!(pairs(&seen.commands), [("EVALSHA", 2 * CYCLES)]);
    let calls = [("HGET", 2 * CYCLES), ("HSET", 2 * CYCLES), ("TIME", 2 * CYCLES)];
    assert_eq!(pairs(&seen.calls), calls);
}

/// Uses up what a task may do before others have a turn.
fn use_up_the_turn() {
    while tokio::task::coop::consume_budget().now_or_never().is_some() {}
}

#[tokio::test]
async fn a_cycle_whose_guard_is_dropped_is_two_commands_and_wakes_nobody() {
    let server = RedisServer::start(&[]).unwrap();
    let tenure = Tenure::new(open(&server).await);
    cycle(&tenure, "k").await;
    for whole_turn in [false, true] {
        let seen = seen(&server, async {
            for _ in 0..CYCLES {
                let guard = tenure.lock("k").acquire().await.unwrap();
                if whole_turn {
                    use_up_the_turn();
                }
                drop(guard);
            }
            // The last withdrawal is in the server before who asks behind it.
            cycle(&tenure, "k").await;
        })
        .await;
        let verbs = 2 * (CYCLES + 1);
        // The next attempt never overtakes, or it would have to wait and be told.
        assert_eq!(seen.calls.get("PUBLISH"), None, "{seen:?}");
        assert_eq!(seen.calls.get("HSET"), Some(&verbs), "{seen:?}");
        // Where a machine was too busy to read an answer for a while, the keeper has said a withdrawal again.
        let sent = seen.commands.get("EVALSHA").copied().unwrap_or(0);
        assert!((verbs..=verbs + CYCLES / 4).contains(&sent), "{seen:?}");
    }
}

#[tokio::test]
async fn many_who_ask_in_one_turn_share_commands() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let contend = || (0..64).map(|n| redis.contend(claim(&format!("k{n}")))).collect::<Vec<_>>();
    // The first use of a name costs more.
    for mut contender in contend() {
        granted(&mut contender).await;
        contender.withdraw(Stray::Impossible).await.unwrap();
    }
    let mut line = contend();
    let taken = seen(&server, async {
        for attempt in join_all(line.iter_mut().map(Contender::attempt)).await {
            assert!(matches!(attempt, Ok(Attempt::Granted(_))), "{attempt:?}");
        }
    })
    .await;
    let given = seen(&server, join_all(line.iter_mut().map(|one| one.withdraw(Stray::Impossible)))).await;
    // Eight go alone, and the others sixteen at a time; behind such a crowd, all. The time is read once for sixteen.
    for (seen, scripts) in [(taken, 12), (given, 4)] {
        assert_eq!(pairs(&seen.commands), [("EVALSHA", scripts)]);
        assert_eq!(pairs(&seen.calls), [("HGET", 64), ("HSET", 64), ("TIME", scripts)]);
    }
}

/// Bytes that a server has read and written.
fn traffic(server: &RedisServer) -> u64 {
    let info = server.say("INFO stats").unwrap();
    let field = |name| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    field("total_net_input_bytes:").unwrap() + field("total_net_output_bytes:").unwrap()
}

#[tokio::test]
async fn a_cycle_is_some_five_hundred_bytes() {
    let server = RedisServer::start(&[]).unwrap();
    let tenure = Tenure::new(open(&server).await);
    cycle(&tenure, "k").await;
    let own = traffic(&server);
    // What it costs to look.
    let (before, looked) = (traffic(&server), traffic(&server));
    let look = (looked - before).max(before - own);
    for _ in 0..CYCLES {
        cycle(&tenure, "k").await;
    }
    let each = (traffic(&server) - looked - look) as f64 / CYCLES as f64;
    assert!(each <= 530.0, "{each} bytes a cycle");
}

#[test]
fn a_cycle_allocates_no_more_than_it_did() {
    let server = RedisServer::start(&[]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tenure = runtime.block_on(async {
        let tenure = Tenure::new(open(&server).await);
        cycle(&tenure, "k").await;
        tenure
    });
    let allocated = allocation_counter::measure(|| {
        runtime.block_on(async {
            for _ in 0..CYCLES {
                cycle(&tenure, "k").await;
            }
        });
    });
    let each = allocated.count_total as f64 / CYCLES as f64;
    assert!(each <= 45.0, "{each} allocations a cycle");
}

/// Tasks that hand a key to each other, each with a place of its own.
async fn hand_on(tenure: &Tenure, waiters: usize) {
    let strict =
        |tenure: &Tenure| tenure.lock("k").ttl(Duration::from_secs(60)).fairness(Fairness::StrictFifo);
    let gate = strict(tenure).acquire().await.unwrap();
    let tasks: Vec<_> = (0..waiters)
        .map(|_| {
            let lock = strict(tenure);
            tokio::spawn(async move { lock.acquire().await.unwrap().release().await.unwrap() })
        })
        .collect();
    let all = async {
        while tenure.inspect("k").await.unwrap().places.len() <= waiters {
            tokio::task::yield_now().await;
        }
    };
    in_time("all wait", all).await;
    gate.release().await.unwrap();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn c103_a_hand_off_is_two_commands_and_one_wake_whatever_the_number_of_waiters() {
    for waiters in [2_u64, 100] {
        let server = RedisServer::start(&[]).unwrap();
        let tenure = Tenure::new(open(&server).await);
        cycle(&tenure, "k").await;
        let seen = seen(&server, hand_on(&tenure, waiters as usize)).await;
        // Each waiter joins, is told once, and releases; the first and the last tell and are told nothing.
        assert_eq!(seen.calls.get("PUBLISH"), Some(&waiters), "{waiters}: {seen:?}");
        let verbs = seen.commands.get("EVALSHA").copied().unwrap_or(0);
        // Looks at the line by the test itself come besides, and on a slow machine a place may be refreshed. Who joins
        // together with others does so by less than a command.
        let looks = seen.calls.get("HGETALL").copied().unwrap_or(0);
        let (least, most) = (waiters + 1 + looks, 2 * (waiters + 1) + looks);
        assert!((least..=most + 2 + waiters / 4).contains(&verbs), "{waiters}: {verbs}, {seen:?}");
    }
}

#[tokio::test]
async fn many_holds_are_renewed_by_few_commands() {
    let server = RedisServer::start(&[]).unwrap();
    let tenure = Tenure::new(open(&server).await);
    let (holds, ttl) = (1_000, Duration::from_secs(20));
    let mut guards = Vec::new();
    for n in 0..holds {
        guards.push(tenure.lock(format!("k/{n}")).ttl(ttl).acquire().await.unwrap());
    }
    // Over two thirds of a TTL each is renewed once at least.
    let seen = seen(&server, tokio::time::sleep(ttl / 3 * 2 + Duration::from_secs(1))).await;
    let renewed = seen.calls.get("HSET").copied().unwrap_or(0);
    assert!(renewed >= holds, "{seen:?}");
    let commands: u64 = seen.commands.values().sum();
    // On an idle machine 60 to 100 renewals are one command; on a busy one, timers go off in several turns.
    assert!(10 * commands <= renewed, "{commands} commands for {renewed} renewals: {seen:?}");
    for guard in guards {
        assert!(guard.is_held());
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn many_waiters_of_one_process_are_kept_alive_together() {
    let server = RedisServer::start(&[]).unwrap();
    let tenure = Arc::new(Tenure::new(open(&server).await));
    let strict =
        |tenure: &Tenure| tenure.lock("k").ttl(Duration::from_secs(60)).fairness(Fairness::StrictFifo);
    let gate = strict(&tenure).acquire().await.unwrap();
    let waiters = 100_usize;
    let tasks: Vec<_> = (0..waiters)
        .map(|_| {
            let lock = strict(&tenure);
            tokio::spawn(async move { lock.acquire().await.unwrap().release().await.unwrap() })
        })
        .collect();
    let all = async {
        while tenure.inspect("k").await.unwrap().places.len() <= waiters {
            tokio::task::yield_now().await;
        }
    };
    in_time("all wait", all).await;
    let time = Duration::from_secs(4);
    let seen = seen(&server, tokio::time::sleep(time)).await;
    let commands: u64 = seen.commands.values().sum();
    // Each place is looked after once a second; alone that would be 400 commands.
    assert!(commands <= 60, "{commands}: {seen:?}");
    assert_eq!(tenure.inspect("k").await.unwrap().places.len(), waiters + 1);
    gate.release().await.unwrap();
    for task in tasks {
        task.await.unwrap();
    }
}

/// A clock that stands still: on however busy a machine, the time for which a hold may pass in a process is not up.
#[derive(Debug)]
struct Stopped(Moment);

impl Clock for Stopped {
    fn now(&self) -> Moment {
        self.0
    }

    fn wall_micros(&self) -> u64 {
        SystemClock.wall_micros()
    }
}

#[tokio::test]
async fn those_who_come_to_a_hold_that_was_alone_are_served_by_one_fresh_stamp() {
    let server = RedisServer::start(&[]).unwrap();
    let clock = Arc::new(Stopped(SystemClock.now()));
    let tenure = Tenure::with_options(open(&server).await, Options::default().clock(clock));
    cycle(&tenure, "k").await;
    let alone = tenure.lock("k").acquire().await.unwrap();
    // The waiters are asked first, so they sit in the line of this process when the hold is released.
    let served = join_all((0..40).map(|_| cycle(&tenure, "k")));
    let seen = seen(&server, async { tokio::join!(served, alone.release()).1.unwrap() }).await;
    // A stamp that brings a token for each of them, and the release of the last.
    assert_eq!(pairs(&seen.commands), [("EVALSHA", 2)]);
}
