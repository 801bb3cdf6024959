//! An engine that counts the verbs that reach it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tenure::{ClaimId, Key};
use tenure_core::Claim;
use tenure_core::engine::{
    Attempt, Contender, Engine, EngineError, Facts, Line, Renewal, Restamp, Stray, Wake, Withdrawn,
};

/// How many verbs have reached an engine; waiting for a wake is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicU64>);

impl Count {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// An engine whose verbs are counted.
#[derive(Debug)]
pub(crate) struct Counted<E> {
    engine: E,
    count: Count,
}

impl<E> Counted<E> {
    pub(crate) fn new(engine: E) -> (Self, Count) {
        let count = Count::default();
        (Self { engine, count: count.clone() }, count)
    }
}

/// A contender whose verbs are counted.
#[derive(Debug)]
pub(crate) struct CountedContender<C> {
    contender: C,
    count: Count,
}

impl<E: Engine> Engine for Counted<E> {
    type Contender = CountedContender<E::Contender>;

    fn facts(&self) -> Facts {
        self.engine.facts()
    }

    fn contend(&self, claim: Claim) -> Self::Contender {
        CountedContender { contender: self.engine.contend(claim), count: self.count.clone() }
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

impl<C: Contender> Contender for CountedContender<C> {
    async fn attempt(&mut self) -> Result<Attempt, EngineError> {
        self.count.one();
        self.contender.attempt().await
    }

    async fn changed(&mut self) -> Result<Wake, EngineError> {
        self.contender.changed().await
    }

    async fn renew(&mut self) -> Result<Renewal, EngineError> {
        self.count.one();
        self.contender.renew().await
    }

    async fn restamp(&mut self) -> Result<Restamp, EngineError> {
        self.count.one();
        self.contender.restamp().await
    }

    async fn withdraw(&mut self, stray: Stray) -> Result<Withdrawn, EngineError> {
        self.count.one();
        self.contender.withdraw(stray).await
    }
}
