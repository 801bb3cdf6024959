//! What the tests of engines have in common: claims, attempts whose outcome is known, and waits with a limit. The
//! trials of the suite use the same.

use std::cell::Cell;
use std::time::Duration;

use rand::RngExt;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineError, EngineErrorKind, Gone, Grant, Renewal, Retry, Waiting,
};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_core::{Claim, ClaimId, IfBusy, Key, Ttl};

/// How long something may take that should happen soon, on however busy a machine.
pub const SOON: Duration = Duration::from_secs(40);

/// The same where something is expected never to happen.
const SOON_ENOUGH: Duration = Duration::from_secs(6);

thread_local! {
    static IMPATIENT: Cell<bool> = const { Cell::new(false) };
}

/// Makes what runs on this thread give up sooner.
pub(crate) fn impatiently<R>(run: impl FnOnce() -> R) -> R {
    IMPATIENT.set(true);
    let result = run();
    IMPATIENT.set(false);
    result
}

fn patience() -> Duration {
    if IMPATIENT.get() { SOON_ENOUGH } else { SOON }
}

/// A key, by its name.
pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// The id of a new claim.
pub fn claim_id() -> ClaimId {
    ClaimId::from_bits(rand::rng().random())
}

/// A new exclusive claim that joins the line, for 30 s.
pub fn claim(name: &str) -> Claim {
    short_claim(name, Duration::from_secs(30))
}

/// The same with another TTL.
pub fn short_claim(name: &str, ttl: Duration) -> Claim {
    let mut claim = Claim::new(key(name), claim_id());
    claim.ttl = Ttl::new(ttl).unwrap();
    claim
}

/// A new exclusive claim that does not join the line when the key is taken.
pub fn only_try(name: &str) -> Claim {
    let mut claim = claim(name);
    claim.if_busy = IfBusy::Leave;
    claim
}

/// The present, on the clocks of leases.
pub fn now() -> Moment {
    SystemClock.now()
}

/// Waits until a condition holds; fails when it does not for very long.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let (since, patience) = (now(), patience());
    while !holds().await {
        assert!(now().since(since) < patience, "{what}: not within {patience:?}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Waits for something that must happen.
pub async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    let patience = patience();
    match tokio::time::timeout(patience, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {patience:?}"),
    }
}

/// An attempt that must be granted.
pub async fn granted(contender: &mut impl Contender) -> Grant {
    match contender.attempt().await.unwrap() {
        Attempt::Granted(grant) => grant,
        other => panic!("expected a grant, not {other:?}"),
    }
}

/// An attempt that must wait.
pub async fn waits(contender: &mut impl Contender) -> Waiting {
    match contender.attempt().await.unwrap() {
        Attempt::Waiting(waiting) => waiting,
        other => panic!("expected to wait, not {other:?}"),
    }
}

/// An attempt that must be told that the claim is gone.
pub async fn gone(contender: &mut impl Contender) -> Gone {
    match contender.attempt().await.unwrap() {
        Attempt::Gone(gone) => gone,
        other => panic!("expected the claim to be gone, not {other:?}"),
    }
}

/// Attempts until granted, over whatever passes by itself, as a client does that hears no wakes.
pub async fn granted_at_last(contender: &mut impl Contender) -> Grant {
    let (since, patience) = (now(), patience());
    loop {
        match contender.attempt().await {
            Ok(Attempt::Granted(grant)) => return grant,
            Ok(Attempt::Waiting(_)) => {}
            Ok(other) => panic!("expected a grant at last, not {other:?}"),
            Err(error) => assert_eq!(error.retry(), Retry::Worth, "{error}"),
        }
        assert!(now().since(since) < patience, "not granted within {patience:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the claim holds, as a renewal proves.
pub async fn holds(contender: &mut impl Contender) -> bool {
    matches!(contender.renew().await.unwrap(), Renewal::Renewed(_))
}

/// How many places are in the line of a key; asks again as long as that is worth it.
pub async fn places(engine: &impl Engine, name: &str) -> usize {
    let key = key(name);
    at_last("the line is read", async || engine.inspect(&key).await).await.places.len()
}

/// Does something again as long as it fails and is worth another try.
pub async fn at_last<T>(what: &str, mut work: impl AsyncFnMut() -> Result<T, EngineError>) -> T {
    let (since, patience) = (now(), patience());
    loop {
        match work().await {
            Ok(done) => return done,
            Err(error) => assert_eq!(error.retry(), Retry::Worth, "{what}: {error}"),
        }
        assert!(now().since(since) < patience, "{what}: not within {patience:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What an error says: what is wrong, what was applied, and whether to try again.
pub fn axes(error: &EngineError) -> (EngineErrorKind, Effect, Retry) {
    (error.kind(), error.effect(), error.retry())
}
