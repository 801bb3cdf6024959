//! A user's own transaction in etcd that only the holder can commit.
//!
//! Lock and data are in one log here, so a transaction can ask whether the hold still stands and write in the same
//! step. That is the strongest fence there is: no time at all passes between the check and the write.

use std::sync::Arc;

use tenure_core::engine::{EngineError, Trouble};
use tenure_core::{FencingToken, Guard, Key};

use crate::ops;
use crate::record;
use crate::rpc::{Compare, RequestOp, TxnRequest, TxnResponse};
use crate::{Etcd, Shared};

/// How often the hold may be renewed under a transaction before that is given up.
const TRIES_MAX: usize = 8;

/// What a transaction has to ask to be refused for a stale holder; for users of another client of etcd.
///
/// Both must hold: the key was created at `create_revision`, and last changed at `mod_revision`. The second changes
/// when the hold is passed on within a process, and may change once, about a tenth of a second after a grant that was
/// waited for; then ask again with [`Etcd::gate`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdGate {
    /// The key of the place.
    pub key: Vec<u8>,
    /// The revision at which it was created.
    pub create_revision: i64,
    /// The revision at which it was last changed.
    pub mod_revision: i64,
}

/// A transaction under a guard: made by [`Etcd::txn`].
#[derive(Debug)]
pub struct GuardedTxn {
    shared: Arc<Shared>,
    claim: tenure_core::ClaimId,
    token: FencingToken,
    key: Key,
    compare: Vec<Compare>,
    then: Vec<RequestOp>,
    otherwise: Vec<RequestOp>,
}

/// Why a guarded transaction was not made.
#[derive(Debug, thiserror::Error)]
#[allow(clippy::exhaustive_enums, reason = "refused or broken: a caller must tell these apart")]
pub enum EtcdGuardError {
    /// The hold is lost, or was passed on: nothing was written.
    #[error("the hold on {key:?} with token {token} does not stand any more: nothing was written")]
    Stale {
        /// The key.
        key: Key,
        /// The token of the guard.
        token: FencingToken,
    },
    /// The cluster could not be asked, or did not answer; then the transaction may have been made.
    #[error("the guarded transaction is undecided: {0}")]
    Trouble(#[source] EngineError),
}

impl Etcd {
    /// A transaction that is made only while the guard's hold stands, and only under its token.
    ///
    /// The guard must come from a client of this engine or of a clone of it.
    #[must_use]
    pub fn txn(&self, guard: &Guard) -> GuardedTxn {
        GuardedTxn {
            shared: Arc::clone(&self.shared),
            claim: guard.claim(),
            token: guard.token(),
            key: guard.key().clone(),
            compare: Vec::new(),
            then: Vec::new(),
            otherwise: Vec::new(),
        }
    }

    /// What another client of etcd has to compare in its transactions; none when the hold does not stand, as far as
    /// this process knows.
    #[must_use]
    pub fn gate(&self, guard: &Guard) -> Option<EtcdGate> {
        let place = self.shared.seats.place_of(guard.claim())?;
        let current = place.grant.is_some_and(|(token, _)| token == guard.token().get());
        current.then_some(EtcdGate {
            key: place.key,
            create_revision: place.created,
            mod_revision: place.changed,
        })
    }
}

impl GuardedTxn {
    /// With a condition of the user's own.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compare.push(compare);
        self
    }

    /// With an operation that is done when the hold stands and all conditions are met.
    #[must_use]
    pub fn then(mut self, op: RequestOp) -> Self {
        self.then.push(op);
        self
    }

    /// With an operation that is done when the hold stands and a condition is not met.
    #[must_use]
    pub fn otherwise(mut self, op: RequestOp) -> Self {
        self.otherwise.push(op);
        self
    }

    /// With a key that is put when the hold stands and all conditions are met.
    #[must_use]
    pub fn put(self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Self {
        self.then(ops::put(key.as_ref(), value.into(), 0))
    }

    /// With a key that is deleted when the hold stands and all conditions are met.
    #[must_use]
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        self.then(ops::delete(key.as_ref()))
    }

    /// Makes the transaction. The answer says whether the user's own conditions were met.
    ///
    /// # Guarantees
    /// Nothing is written unless the hold stands and has this token at the moment of the write.
    ///
    /// # Errors
    /// [`EtcdGuardError::Stale`] when it does not; otherwise when the cluster cannot be asked.
    ///
    /// # Cancel safety
    /// Not: the transaction may be made or not.
    pub async fn commit(self) -> Result<TxnResponse, EtcdGuardError> {
        let trouble = |error: EngineError| EtcdGuardError::Trouble(error);
        let link = self.shared.links.link().await.map_err(|error| trouble(error.into()))?;
        for _ in 0..TRIES_MAX {
            let place = self.shared.seats.place_of(self.claim);
            let place = place.filter(|place| place.grant.is_some_and(|(token, _)| token == self.token.get()));
            let Some(place) = place else { return Err(self.stale()) };
            let hold =
                vec![ops::created_at(&place.key, place.created), ops::changed_at(&place.key, place.changed)];
            let inside = ops::when(self.compare.clone(), self.then.clone(), self.otherwise.clone());
            let txn: TxnRequest = ops::txn(hold, vec![inside], vec![ops::get(&place.key)]);
            let answer = link.txn(txn).await.map_err(|failed| trouble(failed.into()))?;
            let mut answers = ops::Answers::from(answer);
            if answers.succeeded {
                return answers.response().map_err(|error| trouble(error.into()));
            }
            // A renewal may have moved the place meanwhile, which changes no token; a handover would have.
            let found = answers.found().map_err(|error| trouble(error.into()))?;
            match found.first().and_then(|kv| Some((kv, record::token_in(&kv.value)?))) {
                Some((kv, number)) if kv.create_revision == place.created && number == self.token.get() => {
                    self.shared.seats.note_change(self.claim, kv.mod_revision);
                }
                _ => return Err(self.stale()),
            }
        }
        Err(trouble(Trouble::away("the place of the hold changed again and again").into()))
    }

    fn stale(&self) -> EtcdGuardError {
        EtcdGuardError::Stale { key: self.key.clone(), token: self.token }
    }
}
