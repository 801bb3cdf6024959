//! What a hold and a waiter take of the memory of their process, on all its threads.
//!
//! A number here is a promise, as in `counts.rs`. There is one test, since all of a process share its memory.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::alloc::System;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::*;
use tenure_core::Tenure;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MANY: usize = 1_000;

fn used() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// What is in use when it has been the same for some time: requests are answered, holds adopted.
async fn settled() -> usize {
    let (mut before, mut same) = (used(), 0);
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = used();
        same = if now.abs_diff(before) < MANY { same + 1 } else { 0 };
        before = now;
        if same == 4 {
            break;
        }
    }
    before
}

#[tokio::test]
async fn a_hold_and_a_waiter_take_no_more_memory_than_they_did() {
    let server = RedisServer::start(&[]).unwrap();
    let tenure = Tenure::new(open(&server).await);
    let lock = |key: &str| tenure.lock(key).ttl(Duration::from_secs(60));
    // Tables have grown, and what only the first needs is there.
    for n in 0..MANY {
        lock(&format!("warm/{n}")).acquire().await.unwrap().release().await.unwrap();
    }
    let before = settled().await;
    let mut guards = Vec::with_capacity(MANY);
    for n in 0..MANY {
        guards.push(lock(&format!("k/{n}")).acquire().await.unwrap());
    }
    let hold = (settled().await - before) / MANY;

    let before = settled().await;
    let waiters: Vec<_> = (0..MANY)
        .map(|_| {
            let lock = lock("k/0");
            tokio::spawn(async move { lock.acquire().await.unwrap().release().await.unwrap() })
        })
        .collect();
    let waiter = (settled().await - before) / MANY;
    drop(guards);
    for waiter in waiters {
        in_time("a waiter has had its turn", waiter).await.unwrap();
    }
    assert!(hold <= 3_900, "{hold} bytes a hold");
    assert!(waiter <= 2_048, "{waiter} bytes a waiter");
}
