//! The suite on a cluster of three primaries with a replica each.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

#[path = "support/shared.rs"]
mod shared;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::{OnEach, SharedSite};
use tenure_servers::redis::RedisCluster;

fn main() -> ExitCode {
    let cluster = RedisCluster::start(Duration::from_secs(15), &[]).expect("a cluster");
    let url = cluster.url();
    let cluster = Mutex::new(cluster);
    let on_each: OnEach =
        Arc::new(move |each| cluster.lock().expect("no trial panics with it").nodes().iter().for_each(each));
    tenure_conformance::run("redis", move || {
        let site = SharedSite::new(&url, &on_each);
        async move { site }
    })
}
