//! The reference engine: lines in the memory of this process.
//!
//! It keeps every rule of the contract by lease, with offers made inside the release, so that the keeper meets in
//! tests and in simulation what it meets on a server. Clones share their lines.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ledger::{Expiry, Ledger, Terms, Told};
use super::signals::{Listener, Signals};
use super::{
    Attempt, Contender, Engine, EngineError, Facts, Line, PlaceView, Renewal, Restamp, Stray, Wake, Withdrawn,
};
use crate::lease::{Clock, Moment, SystemClock};
use crate::{Claim, ClaimId, FencingToken, Identity, IfBusy, Key};

/// The reference engine: lines in the memory of this process.
///
/// Everybody who has a clone of it shares its lines; it is of no use between processes.
#[derive(Clone, Debug)]
pub struct Memory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    origin: Moment,
    lines: Mutex<Lines>,
    signals: Arc<Signals>,
}

/// The lines in use. One that is empty is forgotten, but for its last token: the lines that begin later, of whatever
/// key, begin above it. So a million names that are used once leave nothing behind.
#[derive(Clone, Debug, Default)]
struct Lines {
    in_use: BTreeMap<Key, Ledger<Arc<Identity>>>,
    last_token: u64,
}

/// What a [`Memory`] remembers, for tests that make it forget.
#[derive(Clone, Debug)]
pub struct Snapshot(Lines);

impl Memory {
    /// An empty engine on the system's clocks.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty engine on a clock of your own.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let origin = clock.now();
        Self { shared: Arc::new(Shared { clock, origin, lines: Mutex::default(), signals: Arc::default() }) }
    }

    /// What the engine remembers now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.shared.lines().clone())
    }

    /// Forgets everything since the snapshot, as a failover to a lagging replica does.
    pub fn restore(&self, snapshot: Snapshot) {
        *self.shared.lines() = snapshot.0;
        self.shared.signals.tell_all();
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn terms(&self, facts: &Facts) -> Terms {
        let now = self.clock.now().since(self.origin);
        Terms {
            now: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
            wall_micros: self.clock.wall_micros(),
            window: u64::try_from(facts.claim_window.as_micros()).unwrap_or(u64::MAX),
            expiry: Expiry::Lease,
        }
    }

    /// Lets one verb act on a line, and tells those whom it concerned.
    fn act<R>(
        &self,
        key: &Key,
        verb: impl FnOnce(&mut Ledger<Arc<Identity>>, &Terms) -> (R, Vec<Told<Arc<Identity>>>),
    ) -> R {
        let terms = self.terms(&facts());
        let (answer, told) = self.lines().act(key, |ledger| verb(ledger, &terms));
        for Told { claim, grant, .. } in told {
            self.signals.tell(claim, grant.map_or(Wake::LookAgain, Wake::Granted));
        }
        answer
    }
}

impl Lines {
    /// The line of a key as it is.
    fn look(&self, key: &Key) -> Ledger<Arc<Identity>> {
        self.in_use.get(key).cloned().unwrap_or_else(|| self.fresh())
    }

    fn fresh(&self) -> Ledger<Arc<Identity>> {
        Ledger { last_token: self.last_token, ..Ledger::default() }
    }

    /// Lets something act on the line of a key, which begins with it and is forgotten when nothing is left of it.
    fn act<R>(&mut self, key: &Key, act: impl FnOnce(&mut Ledger<Arc<Identity>>) -> R) -> R {
        let fresh = self.fresh();
        let ledger = self.in_use.entry(key.clone()).or_insert(fresh);
        let done = act(ledger);
        if ledger.is_idle() {
            self.last_token = self.last_token.max(ledger.last_token);
            self.in_use.remove(key);
        }
        done
    }
}

/// Leases, judged by one clock; a token lives as long as the process.
fn facts() -> Facts {
    Facts::of_leases("memory")
}

/// Leases do not need to know whose process is alive.
fn always(_: &Arc<Identity>) -> bool {
    true
}

impl Engine for Memory {
    type Contender = MemoryContender;

    fn facts(&self) -> Facts {
        facts()
    }

    fn contend(&self, claim: Claim) -> MemoryContender {
        MemoryContender { shared: Arc::clone(&self.shared), claim, listener: None }
    }

    async fn inspect(&self, key: &Key) -> Result<Line, EngineError> {
        let terms = self.shared.terms(&facts());
        let mut ledger = self.shared.lines().look(key);
        // The copy is settled, not the line: looking changes nothing.
        ledger.settle(&terms, &mut always);
        let view = |place: &super::ledger::Place<Arc<Identity>>| PlaceView {
            claim: place.claim,
            mode: place.mode,
            standing: Ledger::standing(place, terms.now),
            since: Duration::from_micros(terms.now.saturating_sub(place.since)),
            identity: Some(Arc::clone(&place.tag)),
        };
        Ok(Line {
            key: key.clone(),
            last_token: FencingToken::new(ledger.last_token),
            places: ledger.places.iter().map(view).collect(),
        })
    }

    async fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, EngineError> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let terms = self.shared.terms(&facts());
        let lines = self.shared.lines();
        // A line whose places have all expired is no line, although nobody has cleared it up yet.
        let in_use = |ledger: &Ledger<_>| {
            let mut ledger = ledger.clone();
            ledger.settle(&terms, &mut always);
            !ledger.places.is_empty()
        };
        let range = lines.in_use.range((from, Bound::Unbounded));
        let ours = range.filter(|(key, ledger)| key.as_str().starts_with(prefix) && in_use(ledger));
        Ok(ours.take(limit).map(|(key, _)| key.clone()).collect())
    }

    async fn evict(&self, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
        Ok(self.shared.act(key, |ledger, terms| ledger.evict(claim, terms, &mut always)))
    }
}

/// Speaks for one claim at a [`Memory`].
#[derive(Debug)]
pub struct MemoryContender {
    shared: Arc<Shared>,
    claim: Claim,
    listener: Option<Listener>,
}

impl MemoryContender {
    /// Listens before looking, so that nothing can change unheard in between.
    fn listen(&mut self) {
        let signals = &self.shared.signals;
        self.listener.get_or_insert_with(|| signals.listen(self.claim.id)).look();
    }
}

impl Contender for MemoryContender {
    async fn attempt(&mut self) -> Result<Attempt, EngineError> {
        if self.claim.if_busy == IfBusy::Join {
            self.listen();
        }
        let claim = &self.claim;
        let attempt = self
            .shared
            .act(&claim.key, |ledger, terms| ledger.attempt(claim, &claim.identity, terms, &mut always));
        attempt.map_err(|differs| differs.on(&claim.key))
    }

    async fn changed(&mut self) -> Result<Wake, EngineError> {
        match &mut self.listener {
            Some(listener) => Ok(listener.told().await),
            None => {
                self.listen();
                Ok(Wake::LookAgain)
            }
        }
    }

    async fn renew(&mut self) -> Result<Renewal, EngineError> {
        if let Some(listener) = &mut self.listener {
            listener.look();
        }
        let claim = &self.claim;
        Ok(self
            .shared
            .act(&claim.key, |ledger, terms| ledger.renew(claim, &claim.identity, terms, &mut always)))
    }

    async fn restamp(&mut self) -> Result<Restamp, EngineError> {
        let claim = &self.claim;
        Ok(self.shared.act(&claim.key, |ledger, terms| ledger.restamp(claim, terms, &mut always)))
    }

    async fn withdraw(&mut self, stray: Stray) -> Result<Withdrawn, EngineError> {
        let claim = &self.claim;
        Ok(self.shared.act(&claim.key, |ledger, terms| ledger.withdraw(claim, stray, terms, &mut always)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Grant;
    use futures_util::FutureExt;

    fn pass(engine: &Memory, name: &str) -> Grant {
        let claim = Claim::new(Key::new(name).unwrap(), ClaimId::from_bits(rand::random()));
        let mut contender = engine.contend(claim);
        let Some(Ok(Attempt::Granted(grant))) = contender.attempt().now_or_never() else {
            panic!("not granted")
        };
        contender.withdraw(Stray::Impossible).now_or_never().unwrap().unwrap();
        grant
    }

    #[test]
    fn c081_names_that_are_used_once_leave_nothing_and_no_token_comes_again() {
        #[derive(Debug)]
        struct Stopped;

        impl Clock for Stopped {
            fn now(&self) -> Moment {
                Moment::new(Duration::ZERO, Duration::ZERO)
            }

            fn wall_micros(&self) -> u64 {
                0
            }
        }

        // Even a clock that stands still gives no token twice: the count goes on.
        let engine = Memory::with_clock(Arc::new(Stopped));
        let mut last = 0;
        for n in 0..1_000 {
            let token = pass(&engine, &format!("once/{n}")).tokens.first.get();
            assert!(token > last);
            last = token;
        }
        assert!(engine.shared.lines().in_use.is_empty());
        assert!(pass(&engine, "once/0").tokens.first.get() > last);
    }
}
