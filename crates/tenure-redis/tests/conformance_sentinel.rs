//! The suite on a primary with two replicas and three sentinels, with failovers before and in the cases that are about
//! faults.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure_conformance::Site;
use tenure_core::Key;
use tenure_core::engine::Engine;
use tenure_redis::{Redis, RedisOptions};
use tenure_servers::LIMIT;
use tenure_servers::redis::SentinelSet;

/// Two trials have servers of their own: in this one they fail over before it begins,
const VANISHES: &str = "rule_2_the_places_of_a_vanished_client_end_c104";

/// and in this one when they are to forget.
const FORGETS: &str = "rule_6_tokens_rise_although_everything_was_forgotten_c049";

#[derive(Debug)]
struct SentinelSite {
    set: Arc<SentinelSet>,
    clients: Mutex<Vec<Redis>>,
    fails_over: bool,
}

impl Site for SentinelSite {
    type Engine = Redis;

    async fn client(&self) -> Redis {
        let options = RedisOptions::from_url(&self.set.url()).expect("a URL of ours");
        let client = Redis::open(&options).await.expect("servers of ours");
        if self.fails_over {
            self.clients.lock().expect("nobody panics with it").push(client.clone());
        }
        client
    }

    /// A client whose connections have ended: only leases tell.
    async fn vanish(&self, client: Redis) {
        drop(client);
    }

    /// A failover to a replica that has nothing, which the clients follow by themselves: for some seconds the old
    /// primary still takes whatever it is sent.
    async fn forget(&self) {
        assert!(self.fails_over, "a set that is shared does not fail over");
        let set = Arc::clone(&self.set);
        let old = tokio::task::spawn_blocking(move || {
            let old = set.primary().expect("a primary");
            assert_eq!(set.server(old).say("FLUSHALL").expect("the primary"), "+OK\r\n");
            set.fail_over().expect("another primary");
            old
        });
        let old = old.await.expect("a failover");
        let key = Key::new("conformance").expect("a key");
        let clients = self.clients.lock().expect("nobody panics with it").clone();
        let left = async {
            while self.set.server(old).say("CLIENT LIST").expect("the old primary").contains("name=tenure") {
                for client in &clients {
                    // Whoever asks something notices.
                    let _ = client.inspect(&key).await;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, left).await.expect("all clients leave the old primary");
    }
}

fn start() -> SentinelSet {
    SentinelSet::start(Duration::from_secs(15), &[], &[]).expect("servers")
}

fn main() -> ExitCode {
    let shared = Arc::new(start());
    tenure_conformance::run("redis", move || {
        let trial = tenure_conformance::trial_name();
        let fails_over = trial == VANISHES || trial == FORGETS;
        let shared = Arc::clone(&shared);
        async move {
            let set = if fails_over { Arc::new(start()) } else { shared };
            if trial == VANISHES {
                set.fail_over().expect("another primary");
            }
            SentinelSite { set, clients: Mutex::default(), fails_over }
        }
    })
}
