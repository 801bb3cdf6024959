//! The etcd engine of `tenure`: locks in the log of an etcd cluster.
//!
//! A place is one key. Its order in the line is that of its creation in etcd's log, and its fencing token is the
//! revision at which it was created, so both are as durable as the log. One transaction joins the line and reads it,
//! one releases; nobody is granted by somebody else's write, since who holds follows from the order of the places
//! alone.
//!
//! # Invariants
//! 1. Each place hangs on a lease that no other place hangs on: it dies alone, and is kept alive alone.
//! 2. A grant follows from a read that went through the quorum, and so does each renewal.
//! 3. A token rises over all grants of a key: it is the revision of a write of the place that comes after every token
//!    given before.
//! 4. No client's clock is stored.
//!
//! Where to look: `names` for what keys are called, `record` for what is in them, `place`, `holding` and `leaving` for
//! transactions, `lease` for leases, `listening` for what wakes whom, `link` for the connection with its streams in
//! `pulse` and `watch` and its writes in `together`, `trouble` for what each refusal means.
#![forbid(unsafe_code)]

mod contender;
mod dial;
mod fence;
mod holding;
mod lease;
mod leaving;
mod link;
mod listening;
mod names;
mod operator;
mod ops;
mod options;
mod place;
mod pulse;
mod record;
pub mod rpc;
mod seat;
mod together;
mod trouble;
mod version;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tenure_core::engine::links::Links;
use tenure_core::engine::{Engine, EngineError, Facts, Line, TokenDurability, Trouble, Withdrawn};
use tenure_core::{Claim, ClaimId, Key};

pub use contender::EtcdContender;
pub use fence::{EtcdGate, EtcdGuardError, GuardedTxn};
pub use options::{EtcdLayout, EtcdOptions, EtcdUrlError, LongerTtl};

use lease::{Lease, Pool};
use link::{Dialer, Failed, Link, Turn};
use names::Names;
use rpc::{TxnRequest, TxnResponse};
use seat::Seats;

/// How long a waiting place lives without an attempt, in seconds.
const WAITING: u64 = 5;

/// How often a waiting place is attempted.
const REFRESH_EVERY: Duration = Duration::from_millis(1500);

/// Locks in an etcd cluster.
///
/// Clones are the same engine, with the same connections.
///
/// # Guarantees
/// Exclusion holds while clocks run at nearly the same rate and the cluster keeps what it has acknowledged; tokens
/// survive the loss of a minority of servers.
#[derive(Clone, Debug)]
pub struct Etcd {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) links: Links<Dialer>,
    pub(crate) names: Names,
    pub(crate) pool: Pool,
    pub(crate) seats: Arc<Seats>,
    facts: Facts,
}

impl Etcd {
    /// Connects to a cluster and checks that it may keep locks.
    ///
    /// Callers with a tokio runtime (with I/O and time enabled) are served on it, others by a thread of the engine.
    ///
    /// # Errors
    /// When no server can be reached, lets us in, is of version 3.4 or newer, and knows a leader.
    ///
    /// # Cancel safety
    /// Safe: nothing is left behind.
    pub async fn open(options: &EtcdOptions) -> Result<Self, EngineError> {
        let names = Names::new(&options.root, options.layout);
        let links = Links::new(Dialer::new(options.clone()));
        let link = links.link().await?;
        let mut facts = Facts::of_leases("etcd");
        facts.token_durability = TokenDurability::Quorum;
        facts.claim_window = Duration::from_secs(WAITING);
        facts.refresh_every = REFRESH_EVERY;
        facts.cautions = link.version.cautions();
        let shared = Shared { links, names, pool: Pool::default(), seats: Arc::new(Seats::default()), facts };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    pub(crate) fn options(&self) -> &EtcdOptions {
        self.links.dial().options()
    }

    /// Makes a transaction that writes in the line of a key and nowhere else; it may have a turn already.
    pub(crate) async fn write(
        &self,
        link: &Arc<Link>,
        key: &Key,
        txn: TxnRequest,
        turn: Option<Turn<'_>>,
    ) -> Result<TxnResponse, Failed> {
        match self.names.layout() {
            EtcdLayout::Tenure => link.write(key, txn, turn).await,
            // The places of one key may be among those of another.
            EtcdLayout::Concurrency => link.write_alone(txn, turn).await,
        }
    }

    /// Keeps a lease for the next claim, or ends it when there are enough.
    pub(crate) fn give_back(&self, lease: Arc<Lease>, link: &Arc<Link>) {
        if let Some(lease) = self.pool.give_back(lease) {
            self.revoke(lease, link);
        }
    }

    /// Ends a lease. If that cannot be done now, it ends by itself.
    pub(crate) fn revoke(&self, lease: Arc<Lease>, link: &Arc<Link>) {
        let with = Arc::clone(link);
        link.in_background(async move {
            let _ = with.revoke(lease.id).await;
        });
    }
}

impl Failed {
    /// The line has changed again and again while we wanted to write.
    pub(crate) fn busy() -> Self {
        Trouble::away("the line changed again and again").into()
    }
}

impl Engine for Etcd {
    type Contender = EtcdContender;

    fn facts(&self) -> Facts {
        self.shared.facts.clone()
    }

    fn contend(&self, claim: Claim) -> EtcdContender {
        EtcdContender::new(Arc::clone(&self.shared), claim)
    }

    /// The line of a key. etcd does not tell how old a place is, so `since` is always zero.
    async fn inspect(&self, key: &Key) -> Result<Line, EngineError> {
        operator::inspect(&self.shared, key).await
    }

    async fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, EngineError> {
        operator::keys(&self.shared, prefix, after, limit).await
    }

    async fn evict(&self, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
        operator::evict(&self.shared, key, claim).await
    }
}
