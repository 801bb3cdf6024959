//! What a trial stands on: a site, keys of its own, and ways to wait with a limit.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use rand::RngExt;
use tenure_core::engine::{
    Attempt, Contender, Engine, Facts, Gone, Grant, Line, PlaceView, Renewal, Waiting,
};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_core::{Claim, ClaimId, Key, Tenure, Ttl};

use crate::site::Site;

/// How long something may take that should happen soon, on however busy a machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

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
        let mut claim = Claim::new(self.key(name), claim_id());
        claim.ttl = Ttl::new(LONG).unwrap();
        claim
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

pub(crate) fn claim_id() -> ClaimId {
    ClaimId::from_bits(rand::rng().random())
}

pub(crate) fn now() -> Moment {
    SystemClock.now()
}

/// Waits until a condition holds; fails when it does not for very long.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = now();
    while !holds().await {
        assert!(now().since(since) < SOON, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Waits for something that must happen.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(SOON, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {SOON:?}"),
    }
}

/// An attempt that must be granted.
pub(crate) async fn granted(contender: &mut impl Contender) -> Grant {
    match contender.attempt().await.unwrap() {
        Attempt::Granted(grant) => grant,
        other => panic!("expected a grant, not {other:?}"),
    }
}

/// An attempt that must wait.
pub(crate) async fn waiting(contender: &mut impl Contender) -> Waiting {
    match contender.attempt().await.unwrap() {
        Attempt::Waiting(waiting) => waiting,
        other => panic!("expected to wait, not {other:?}"),
    }
}

/// An attempt that must be told that the claim is gone.
pub(crate) async fn gone(contender: &mut impl Contender) -> Gone {
    match contender.attempt().await.unwrap() {
        Attempt::Gone(gone) => gone,
        other => panic!("expected the claim to be gone, not {other:?}"),
    }
}

/// Attempts until granted, as a client does that hears no wakes.
pub(crate) async fn granted_at_last(contender: &mut impl Contender) -> Grant {
    let since = now();
    loop {
        match contender.attempt().await.unwrap() {
            Attempt::Granted(grant) => return grant,
            Attempt::Waiting(_) => assert!(now().since(since) < SOON, "not granted within {SOON:?}"),
            other => panic!("expected a grant at last, not {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the claim holds, as a renewal proves.
pub(crate) async fn holds(contender: &mut impl Contender) -> bool {
    matches!(contender.renew().await.unwrap(), Renewal::Renewed(_))
}

/// Polls a future once.
pub(crate) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
