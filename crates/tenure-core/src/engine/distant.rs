//! An engine behind a network that misbehaves: late, lost and repeated messages, lost wakes. For simulation and proofs.
//!
//! A request, once sent, is on its own: dropping the future that waits for the answer does not call it back.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::{
    Attempt, Contender, Effect, Engine, EngineError, EngineErrorKind, Facts, Line, Renewal, Restamp, Retry,
    Stray, Wake, Withdrawn,
};
use crate::{Claim, ClaimId, Key};

/// Decides what becomes of messages.
pub trait Weather: Debug + Send + Sync + 'static {
    /// What becomes of the next request.
    fn fate(&self) -> Fate;

    /// Whether the next wake is lost.
    fn loses_wake(&self) -> bool;
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a weather decides all of it")]
pub struct Fate {
    /// When it arrives, unless it is lost.
    pub arrives: Option<Duration>,
    /// When it arrives once more.
    pub again: Option<Duration>,
    /// When the answer arrives, unless it is lost.
    pub answered: Option<Duration>,
    /// When the client gives up waiting for the answer.
    pub timeout: Duration,
}

/// An engine as one client reaches it.
#[derive(Debug)]
pub struct Distant<E, W> {
    engine: E,
    weather: Arc<W>,
    /// What carries messages, if it is not the runtime of the client.
    carrier: Option<Handle>,
}

impl<E, W> Clone for Distant<E, W>
where
    E: Clone,
{
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            weather: Arc::clone(&self.weather),
            carrier: self.carrier.clone(),
        }
    }
}

impl<E: Engine + Clone, W: Weather> Distant<E, W> {
    /// The engine behind a network.
    #[must_use]
    pub fn new(engine: E, weather: Arc<W>) -> Self {
        Self { engine, weather, carrier: None }
    }

    /// Carries messages by another runtime than that of the client, so that they go on while the client is stopped.
    #[must_use]
    pub fn carried_by(self, carrier: Handle) -> Self {
        Self { carrier: Some(carrier), ..self }
    }
}

impl<E: Engine + Clone, W: Weather> Engine for Distant<E, W> {
    type Contender = DistantContender<E, W>;

    fn facts(&self) -> Facts {
        self.engine.facts()
    }

    fn contend(&self, claim: Claim) -> DistantContender<E, W> {
        DistantContender { net: self.clone(), claim, ears: None, deaf: false }
    }

    async fn inspect(&self, key: &Key) -> Result<Line, EngineError> {
        self.engine.inspect(key).await
    }

    async fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, EngineError> {
        self.engine.keys(prefix, after, limit).await
    }

    async fn evict(&self, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
        self.engine.evict(key, claim).await
    }
}

/// Speaks for one claim over the network.
#[derive(Debug)]
pub struct DistantContender<E: Engine, W> {
    net: Distant<E, W>,
    claim: Claim,
    /// Hears wakes; made anew with each look, so that it hears what comes after.
    ears: Option<E::Contender>,
    /// The last wake was lost on its way.
    deaf: bool,
}

/// A verb on its way to the engine.
#[derive(Clone, Copy)]
enum Verb {
    Attempt,
    Renew,
    Restamp,
    Withdraw(Stray),
}

enum Answer {
    Attempt(Attempt),
    Renewal(Renewal),
    Restamp(Restamp),
    Withdrawn(Withdrawn),
}

impl<E: Engine + Clone, W: Weather> DistantContender<E, W> {
    fn listen(&mut self) {
        let mut ears = self.net.engine.contend(self.claim.clone());
        // The first call subscribes, and returns at once.
        drop(ears.changed().now_or_never());
        self.ears = Some(ears);
        self.deaf = false;
    }

    async fn send(&mut self, verb: Verb) -> Result<Answer, EngineError> {
        let fate = self.net.weather.fate();
        let (answer, comes) = oneshot::channel();
        let carried = deliver(self.net.engine.clone(), self.claim.clone(), verb, fate, answer);
        match &self.net.carrier {
            Some(carrier) => drop(carrier.spawn(carried)),
            None => drop(tokio::spawn(carried)),
        }
        match tokio::time::timeout(fate.timeout, comes).await {
            Ok(Ok(answer)) => answer,
            _ => {
                let message = "no answer in time";
                Err(EngineError::new(EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth, message))
            }
        }
    }
}

/// Carries one request to the engine, whether or not anybody still waits for the answer.
async fn deliver<E: Engine>(
    engine: E,
    claim: Claim,
    verb: Verb,
    fate: Fate,
    answer: oneshot::Sender<Result<Answer, EngineError>>,
) {
    let Some(arrives) = fate.arrives else { return std::future::pending().await };
    tokio::time::sleep(arrives).await;
    let given = apply(&engine, &claim, verb).await;
    if let Some(again) = fate.again
        // A transport does not repeat a request whose answer has arrived; an attempt that would make a place anew
        // must have gone unanswered.
        && !matches!(verb, Verb::Attempt)
    {
        tokio::time::sleep(again).await;
        drop(apply(&engine, &claim, verb).await);
    }
    if let Some(answered) = fate.answered {
        tokio::time::sleep(answered).await;
        drop(answer.send(given));
    }
}

async fn apply<E: Engine>(engine: &E, claim: &Claim, verb: Verb) -> Result<Answer, EngineError> {
    let mut contender = engine.contend(claim.clone());
    Ok(match verb {
        Verb::Attempt => Answer::Attempt(contender.attempt().await?),
        Verb::Renew => Answer::Renewal(contender.renew().await?),
        Verb::Restamp => Answer::Restamp(contender.restamp().await?),
        Verb::Withdraw(stray) => Answer::Withdrawn(contender.withdraw(stray).await?),
    })
}

fn mixed_up() -> EngineError {
    EngineError::new(EngineErrorKind::Protocol, Effect::Unknown, Retry::Useless, "the answer of another verb")
}

impl<E: Engine + Clone, W: Weather> Contender for DistantContender<E, W> {
    async fn attempt(&mut self) -> Result<Attempt, EngineError> {
        self.listen();
        match self.send(Verb::Attempt).await? {
            Answer::Attempt(attempt) => Ok(attempt),
            _ => Err(mixed_up()),
        }
    }

    async fn changed(&mut self) -> Result<Wake, EngineError> {
        if self.ears.is_none() {
            self.listen();
            return Ok(Wake::LookAgain);
        }
        if !self.deaf
            && let Some(ears) = &mut self.ears
        {
            let wake = ears.changed().await?;
            if !self.net.weather.loses_wake() {
                return Ok(wake);
            }
            self.deaf = true;
        }
        std::future::pending().await
    }

    async fn renew(&mut self) -> Result<Renewal, EngineError> {
        self.listen();
        match self.send(Verb::Renew).await? {
            Answer::Renewal(renewal) => Ok(renewal),
            _ => Err(mixed_up()),
        }
    }

    async fn restamp(&mut self) -> Result<Restamp, EngineError> {
        match self.send(Verb::Restamp).await? {
            Answer::Restamp(restamp) => Ok(restamp),
            _ => Err(mixed_up()),
        }
    }

    async fn withdraw(&mut self, stray: Stray) -> Result<Withdrawn, EngineError> {
        match self.send(Verb::Withdraw(stray)).await? {
            Answer::Withdrawn(withdrawn) => Ok(withdrawn),
            _ => Err(mixed_up()),
        }
    }
}
