//! The network between a client and the engine: late, lost and repeated messages, lost wakes, cuts.
//!
//! A request, once sent, is on its own: dropping the future that waits for the answer does not call it back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_core::engine::memory::{Memory, MemoryContender};
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineError, EngineErrorKind, Facts, Line, Renewal, Restamp, Retry,
    Stray, Wake, Withdrawn,
};
use tenure_core::{Claim, ClaimId, Key};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::DELAY_MAX;

/// After how long a client takes a request for lost: some soon, some only when a lease is long over.
const TIMEOUT_MS: std::ops::Range<u64> = 200..12_000;

/// How bad the network is at the moment.
#[derive(Debug)]
pub(super) struct Weather {
    state: Mutex<State>,
    faults: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    dice: StdRng,
    cut_until: Option<Instant>,
    clear: bool,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// When it arrives, unless it is lost.
    arrives: Option<Duration>,
    /// When it arrives once more.
    again: Option<Duration>,
    /// When the answer arrives, unless it is lost.
    answered: Option<Duration>,
    /// When the client gives up waiting for the answer.
    timeout: Duration,
}

impl Weather {
    pub(super) fn new(seed: u64, faults: Arc<AtomicU64>) -> Self {
        let state = State { dice: StdRng::seed_from_u64(seed), cut_until: None, clear: false };
        Self { state: Mutex::new(state), faults }
    }

    #[allow(clippy::disallowed_methods, reason = "simulated time is tokio's")]
    pub(super) fn cut(&self, time: Duration) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).cut_until = Some(Instant::now() + time);
    }

    pub(super) fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.cut_until = None;
        state.clear = true;
    }

    #[allow(clippy::disallowed_methods, reason = "simulated time is tokio's")]
    fn fate(&self) -> Fate {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let timeout = Duration::from_millis(state.dice.random_range(TIMEOUT_MS));
        let quick = |dice: &mut StdRng| Duration::from_micros(dice.random_range(50..2_000));
        let slow =
            |dice: &mut StdRng| Duration::from_millis(dice.random_range(1..DELAY_MAX.as_millis() as u64));
        if state.clear {
            let (arrives, answered) = (quick(&mut state.dice), quick(&mut state.dice));
            return Fate { arrives: Some(arrives), again: None, answered: Some(answered), timeout };
        }
        if state.cut_until.is_some_and(|until| until > Instant::now()) {
            self.faults.fetch_add(1, Ordering::Relaxed);
            return Fate { arrives: None, again: None, answered: None, timeout };
        }
        let dice = &mut state.dice;
        let mut fate = Fate { arrives: Some(quick(dice)), again: None, answered: Some(quick(dice)), timeout };
        match dice.random_range(0..100) {
            0..=3 => fate.arrives = None,
            4..=7 => fate.answered = None,
            8..=12 => fate.arrives = Some(slow(dice)),
            13..=17 => fate.answered = Some(slow(dice)),
            18..=22 => fate.again = Some(slow(dice)),
            _ => return fate,
        }
        self.faults.fetch_add(1, Ordering::Relaxed);
        fate
    }

    /// Whether a wake is lost.
    fn loses_wake(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = !state.clear && state.dice.random_bool(0.2);
        if lost {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
        lost
    }
}

/// The engine as one client reaches it.
#[derive(Clone, Debug)]
pub(super) struct Net {
    engine: Memory,
    weather: Arc<Weather>,
}

impl Net {
    pub(super) fn new(engine: Memory, weather: Arc<Weather>) -> Self {
        Self { engine, weather }
    }
}

impl Engine for Net {
    type Contender = NetContender;

    fn facts(&self) -> Facts {
        self.engine.facts()
    }

    fn contend(&self, claim: Claim) -> NetContender {
        NetContender { net: self.clone(), claim, ears: None, deaf: false }
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
pub(super) struct NetContender {
    net: Net,
    claim: Claim,
    /// Hears wakes; made anew with each look, so that it hears what comes after.
    ears: Option<MemoryContender>,
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

impl NetContender {
    fn listen(&mut self) {
        let mut ears = self.net.engine.contend(self.claim.clone());
        // The first call subscribes, and returns at once.
        drop(ears.changed().now_or_never());
        self.ears = Some(ears);
        self.deaf = false;
    }

    async fn send(&self, verb: Verb) -> Result<Answer, EngineError> {
        let fate = self.net.weather.fate();
        let (answer, comes) = oneshot::channel();
        tokio::spawn(deliver(self.net.engine.clone(), self.claim.clone(), verb, fate, answer));
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
async fn deliver(
    engine: Memory,
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

async fn apply(engine: &Memory, claim: &Claim, verb: Verb) -> Result<Answer, EngineError> {
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

impl Contender for NetContender {
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
