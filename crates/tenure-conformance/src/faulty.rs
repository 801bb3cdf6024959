//! An engine that breaks on purpose, by a script.
//!
//! A [`Faulty`] wraps any engine as one client reaches it. A request that is late, once sent, is on its own: dropping
//! the future that waits for its answer does not call it back. Faults at random, from a seed, are the business of
//! [`crate::simulation`].

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineError, EngineErrorKind, Facts, Line, Renewal, Restamp, Retry,
    Stray, Wake, Withdrawn,
};
use tenure_core::{Claim, ClaimId, Key};
use tokio::sync::{oneshot, watch};

/// A verb of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums, reason = "these are the verbs")]
pub enum Verb {
    /// [`Contender::attempt`].
    Attempt,
    /// [`Contender::changed`].
    Changed,
    /// [`Contender::renew`].
    Renew,
    /// [`Contender::restamp`].
    Restamp,
    /// [`Contender::withdraw`].
    Withdraw,
    /// [`Engine::inspect`].
    Inspect,
    /// [`Engine::keys`].
    Keys,
    /// [`Engine::evict`].
    Evict,
}

/// What goes wrong with one request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// It is refused for now: certainly not applied.
    Refuse,
    /// It is lost on its way, which its sender cannot know.
    LoseRequest,
    /// It is applied, and its answer is lost.
    LoseReply,
    /// It is lost, and its sender is not even told that there is no answer. Of [`Contender::changed`]: a lost wake.
    Silence,
    /// It arrives late.
    Late(Duration),
    /// It arrives when the gate is opened.
    Held(Gate),
    /// Its answer arrives late.
    LateReply(Duration),
    /// It arrives, and once more so much later.
    Twice(Duration),
    /// Its answer, a grant, is one that was meant for another claim.
    Misnamed,
    /// The engine panics.
    Panic,
}

/// Holds requests back until a test opens it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets everything through from here on.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(self) {
        // The sender lives as long as this gate: the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// An engine as one client with a broken connection reaches it. Clones share the script.
#[derive(Clone, Debug)]
pub struct Faulty<E> {
    engine: E,
    script: Arc<Mutex<HashMap<Verb, Part>>>,
}

/// What the script says of one verb.
#[derive(Debug, Default)]
struct Part {
    next: VecDeque<Option<Fault>>,
    always: Option<Fault>,
    sent: u64,
}

impl<E: Engine + Clone> Faulty<E> {
    /// A client without faults so far.
    #[must_use]
    pub fn new(engine: E) -> Self {
        Self { engine, script: Arc::default() }
    }

    /// Plans a fault for the next request of a verb that has no plan yet.
    pub fn next(&self, verb: Verb, fault: Fault) {
        self.script().entry(verb).or_default().next.push_back(Some(fault));
    }

    /// Plans that the next request of a verb that has no plan yet goes well.
    pub fn next_well(&self, verb: Verb) {
        self.script().entry(verb).or_default().next.push_back(None);
    }

    /// Plans a fault for every request of a verb, after those that were planned one by one.
    pub fn always(&self, verb: Verb, fault: Fault) {
        self.script().entry(verb).or_default().always = Some(fault);
    }

    /// Takes back all plans.
    pub fn heal(&self) {
        for part in self.script().values_mut() {
            part.next.clear();
            part.always = None;
        }
    }

    /// How many requests of a verb were sent.
    #[must_use]
    pub fn sent(&self, verb: Verb) -> u64 {
        self.script().get(&verb).map_or(0, |part| part.sent)
    }

    fn script(&self) -> MutexGuard<'_, HashMap<Verb, Part>> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, verb: Verb) -> Option<Fault> {
        let mut script = self.script();
        let part = script.entry(verb).or_default();
        part.sent += 1;
        part.next.pop_front().unwrap_or_else(|| part.always.clone())
    }

    /// Sends one request; `carry` carries it to the engine and brings its answer.
    async fn send<A: Send + 'static>(
        &self,
        verb: Verb,
        carry: impl Fn() -> BoxFuture<'static, Result<A, EngineError>>,
    ) -> Result<A, EngineError> {
        match self.fate(verb) {
            None | Some(Fault::Misnamed) => carry().await,
            Some(Fault::Refuse) => Err(unreachable(Effect::None)),
            Some(Fault::LoseRequest) => Err(unreachable(Effect::Unknown)),
            Some(Fault::LoseReply) => {
                let _lost = carry().await;
                Err(unreachable(Effect::Unknown))
            }
            Some(Fault::Silence) => std::future::pending().await,
            // Without the hook: nobody needs to read of a panic that is wanted.
            Some(Fault::Panic) => std::panic::resume_unwind(Box::new("on purpose")),
            Some(Fault::Late(late)) => on_its_own(tokio::time::sleep(late), carry()).await,
            Some(Fault::Held(gate)) => on_its_own(gate.pass(), carry()).await,
            Some(Fault::LateReply(late)) => {
                let answer = carry().await;
                tokio::time::sleep(late).await;
                answer
            }
            Some(Fault::Twice(later)) => {
                let again = carry();
                tokio::spawn(async move {
                    tokio::time::sleep(later).await;
                    drop(again.await);
                });
                carry().await
            }
        }
    }
}

/// Carries a request after a while, whether or not anybody still waits for its answer.
async fn on_its_own<A: Send + 'static>(
    after: impl Future<Output = ()> + Send + 'static,
    carry: BoxFuture<'static, Result<A, EngineError>>,
) -> Result<A, EngineError> {
    let (answer, comes) = oneshot::channel();
    tokio::spawn(async move {
        after.await;
        drop(answer.send(carry.await));
    });
    comes.await.unwrap_or_else(|_| Err(unreachable(Effect::Unknown)))
}

fn unreachable(effect: Effect) -> EngineError {
    EngineError::new(EngineErrorKind::Unreachable, effect, Retry::Worth, "broken on purpose")
}

impl<E: Engine + Clone> Engine for Faulty<E> {
    type Contender = FaultyContender<E>;

    fn facts(&self) -> Facts {
        self.engine.facts()
    }

    fn contend(&self, claim: Claim) -> FaultyContender<E> {
        FaultyContender { ears: self.engine.contend(claim.clone()), told: false, faulty: self.clone(), claim }
    }

    async fn inspect(&self, key: &Key) -> Result<Line, EngineError> {
        let carry = || {
            let (engine, key) = (self.engine.clone(), key.clone());
            async move { engine.inspect(&key).await }.boxed()
        };
        self.send(Verb::Inspect, carry).await
    }

    async fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, EngineError> {
        let carry = || {
            let (engine, prefix, after) = (self.engine.clone(), prefix.to_owned(), after.cloned());
            async move { engine.keys(&prefix, after.as_ref(), limit).await }.boxed()
        };
        self.send(Verb::Keys, carry).await
    }

    async fn evict(&self, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
        let carry = || {
            let (engine, key) = (self.engine.clone(), key.clone());
            async move { engine.evict(&key, claim).await }.boxed()
        };
        self.send(Verb::Evict, carry).await
    }
}

/// Speaks for one claim over a broken connection.
#[derive(Debug)]
pub struct FaultyContender<E: Engine> {
    faulty: Faulty<E>,
    claim: Claim,
    /// Hears the wakes. It is made anew by each look, and so hears what has come since.
    ears: E::Contender,
    /// Something was told before the last look, and that look has failed: it is still news.
    told: bool,
}

impl<E: Engine + Clone> FaultyContender<E> {
    /// Listens before looking, so that nothing can change unheard in between.
    fn listen(&mut self) {
        self.told |= self.ears.changed().now_or_never().is_some();
        self.ears = self.faulty.engine.contend(self.claim.clone());
        drop(self.ears.changed().now_or_never());
    }
}

impl<E: Engine + Clone> Contender for FaultyContender<E> {
    async fn attempt(&mut self) -> Result<Attempt, EngineError> {
        self.listen();
        let (faulty, claim) = (&self.faulty, &self.claim);
        let misnamed = matches!(
            faulty.script().get(&Verb::Attempt).and_then(|part| part.next.front()),
            Some(Some(Fault::Misnamed))
        );
        let carry = || {
            let mut contender = faulty.engine.contend(claim.clone());
            async move { contender.attempt().await }.boxed()
        };
        let answer = faulty.send(Verb::Attempt, carry).await;
        self.told &= answer.is_err();
        match answer {
            Ok(Attempt::Granted(mut grant)) if misnamed => {
                grant.claim = ClaimId::from_bits(!grant.claim.bits());
                Ok(Attempt::Granted(grant))
            }
            answer => answer,
        }
    }

    async fn changed(&mut self) -> Result<Wake, EngineError> {
        match self.faulty.fate(Verb::Changed) {
            Some(Fault::Refuse | Fault::LoseRequest | Fault::LoseReply) => Err(unreachable(Effect::None)),
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::Late(late) | Fault::LateReply(late)) => {
                let wake = self.ears.changed().await;
                tokio::time::sleep(late).await;
                wake
            }
            _ if self.told => Ok(Wake::LookAgain),
            _ => self.ears.changed().await,
        }
    }

    async fn renew(&mut self) -> Result<Renewal, EngineError> {
        self.listen();
        let (faulty, claim) = (&self.faulty, &self.claim);
        let carry = || {
            let mut contender = faulty.engine.contend(claim.clone());
            async move { contender.renew().await }.boxed()
        };
        let answer = faulty.send(Verb::Renew, carry).await;
        self.told &= answer.is_err();
        answer
    }

    async fn restamp(&mut self) -> Result<Restamp, EngineError> {
        let (faulty, claim) = (&self.faulty, &self.claim);
        let carry = || {
            let mut contender = faulty.engine.contend(claim.clone());
            async move { contender.restamp().await }.boxed()
        };
        faulty.send(Verb::Restamp, carry).await
    }

    async fn withdraw(&mut self, stray: Stray) -> Result<Withdrawn, EngineError> {
        let (faulty, claim) = (&self.faulty, &self.claim);
        let carry = || {
            let mut contender = faulty.engine.contend(claim.clone());
            async move { contender.withdraw(stray).await }.boxed()
        };
        faulty.send(Verb::Withdraw, carry).await
    }
}
