//! What a trial stands on: a site, and keys of its own.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use rand::RngExt;
use tenure_core::engine::{Engine, Facts, Line, PlaceView};
use tenure_core::{Claim, ClaimId, Key, Tenure};

use crate::site::Site;
use crate::tools::{self, eventually};

/// A TTL that does not end during a trial.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// One trial's site and keys.
pub(crate) struct Stage<S: Site> {
    pub(crate) site: S,
    pub(crate) facts: Facts,
    pub(crate) prefix: String,
    /// Looks at the storage from outside.
    observer: S::Engine,
}

impl<S: Site> Stage<S> {
    pub(crate) async fn new(trial: &str, site: S) -> Self {
        let observer = site.client().await;
        let prefix = format!("conformance/{:016x}/{trial}", rand::rng().random::<u64>());
        Self { facts: observer.facts(), site, prefix, observer }
    }

    pub(crate) fn key(&self, name: &str) -> Key {
        Key::new(self.name(name)).unwrap()
    }

    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// A new exclusive claim that joins, and does not expire during a trial.
    pub(crate) fn claim(&self, name: &str) -> Claim {
        tools::short_claim(&self.name(name), LONG)
    }

    pub(crate) async fn client(&self) -> S::Engine {
        self.site.client().await
    }

    /// A client of users, as if in another process.
    pub(crate) async fn tenure(&self) -> Tenure {
        Tenure::new(self.client().await)
    }

    pub(crate) async fn line(&self, name: &str) -> Line {
        self.observer.inspect(&self.key(name)).await.unwrap()
    }

    pub(crate) async fn places(&self, name: &str) -> Vec<PlaceView> {
        self.line(name).await.places
    }

    pub(crate) async fn claims(&self, name: &str) -> Vec<ClaimId> {
        self.places(name).await.iter().map(|place| place.claim).collect()
    }

    /// Waits until the line of a key has so many places.
    pub(crate) async fn until_places(&self, name: &str, count: usize) {
        eventually("the line has the expected length", async || self.places(name).await.len() == count).await;
    }

    pub(crate) async fn keys(&self, prefix: &str) -> Vec<Key> {
        self.observer.keys(prefix, None, 10_000).await.unwrap()
    }

    /// Whatever a trial has done, nothing may stay behind.
    pub(crate) async fn assert_clean(&self) {
        eventually("nothing is left in any line", async || self.keys(&self.prefix).await.is_empty()).await;
    }
}

/// Polls a future once.
pub(crate) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
