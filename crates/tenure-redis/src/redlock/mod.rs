//! Locks on a majority of several independent Redis primaries.
//!
//! Each node keeps its own line of each key, by the same scripts as a single server; `ballot` makes one lock of what
//! the nodes say. No node knows of another, and none has to be there, as long as a majority is.
//!
//! Everything runs on a thread of the engine's own: a round over the nodes is never cut in the middle because its
//! caller is blocked or has lost interest, and there is one connection to each node.
//!
//! Where to look: `tally` for what is counted, `ballot` for what is asked and in which order, `nodes` for who counts,
//! `claims` for why the two lanes of a claim do not meet, `merged` for what operators see.

mod ballot;
mod claims;
mod contender;
mod ears;
mod merged;
mod nodes;
mod options;
mod tally;

use std::future::Future;
use std::sync::Arc;

use tenure_core::engine::links::OwnThread;
use tenure_core::engine::{
    Effect, Engine, EngineError, EngineErrorKind, Exclusion, Facts, Line, Order, Permits, TokenDurability,
    Trouble, Withdrawn,
};
use tenure_core::{Claim, ClaimId, Key};

pub use contender::RedlockContender;
pub use options::{RedlockOptions, RedlockUrlError, Young};

use crate::inbox::CLAIM_WINDOW;
use crate::options::Eviction;
use claims::Claims;
use nodes::{Node, Nodes};
use tally::Vote;

/// Locks on a majority of several independent Redis primaries.
///
/// Clones are the same engine, with the same connections.
///
/// # Guarantees
/// Stated by [`Engine::facts`]: two holders only if clocks do not run at nearly the same rate, or are set, on a
/// majority of the nodes within one lease; tokens that rise over the loss of a minority. Waiters have no promised
/// order, and there are no semaphores: a majority for each of more than one holder does not bound their number.
#[derive(Clone, Debug)]
pub struct Redlock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    nodes: Arc<Nodes>,
    claims: Arc<Claims>,
    facts: Facts,
    /// Drives the connections and the rounds; ends with the engine.
    thread: OwnThread,
}

impl Redlock {
    /// Connects to the nodes and checks that they may keep locks together.
    ///
    /// # Errors
    /// When less than a majority can be reached, or one that answers must not be used: no primary, too old, the same
    /// as another, of the same replication, or unable to keep what it is told.
    ///
    /// # Cancel safety
    /// Safe: nothing is left behind.
    pub async fn open(options: &RedlockOptions) -> Result<Self, EngineError> {
        let thread = OwnThread::start()?;
        let nodes = Arc::new(Nodes::new(options));
        let meeting = meet(Arc::clone(&nodes), options.clone());
        let facts = on(&thread, meeting).await?;
        let shared = Shared { nodes, claims: Arc::default(), facts, thread };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    /// Runs something to its end on the engine's thread, whatever becomes of the caller.
    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        on(&self.thread, work).await
    }
}

async fn on<T: Send + 'static>(
    thread: &OwnThread,
    work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, EngineError> {
    match thread.runtime().spawn(work).await {
        Ok(done) => done,
        Err(_) => Err(Trouble::lost("the thread of the engine has ended").into()),
    }
}

/// Meets all nodes that are there, and says what they can promise together.
async fn meet(nodes: Arc<Nodes>, options: RedlockOptions) -> Result<Facts, EngineError> {
    let patience = options.nodes.iter().map(|node| node.connect_timeout).max().unwrap_or_default();
    let meet = |at, _: Arc<Node>| {
        let nodes = Arc::clone(&nodes);
        async move { Ok(nodes.connected(at).await?) }
    };
    let votes = nodes.ask(|_| true, patience * 2, meet, |_| false).await;
    let mut links = Vec::new();
    for (at, vote) in votes.iter().enumerate() {
        match vote {
            Vote::Said { what, .. } => {
                nodes.recognise(at, what)?;
                links.push(Arc::clone(what));
            }
            // One that is away may come later; one that must not be used is a mistake that must be corrected.
            Vote::Failed(error) if error.kind() == EngineErrorKind::Unreachable => {}
            Vote::Failed(error) => {
                let (kind, address) = (error.kind(), &nodes.addresses[at]);
                return Err(EngineError::new(
                    kind,
                    Effect::None,
                    error.retry(),
                    format!("{address}: {error}"),
                ));
            }
        }
    }
    if links.len() < nodes.quorum() {
        return Err(tally::too_few(&votes, &nodes.addresses));
    }
    let mut facts = Facts::of_leases("redlock");
    let all_durable = links.len() == nodes.len() && links.iter().all(|link| link.server.durable);
    let evicts = options.nodes.iter().any(|node| node.eviction == Eviction::Allow);
    let replicated = links.iter().any(|link| link.server.replicas > 0);
    let keeps = (options.young == Young::Wait || all_durable) && !evicts && !replicated;
    facts.exclusion = if keeps { Exclusion::WithinClockRates } else { Exclusion::BestEffort };
    facts.token_durability = if keeps { TokenDurability::Quorum } else { TokenDurability::Volatile };
    facts.order = Order::Any;
    facts.permits = Permits::Refused;
    facts.claim_window = CLAIM_WINDOW;
    Ok(facts)
}

impl Engine for Redlock {
    type Contender = RedlockContender;

    fn facts(&self) -> Facts {
        self.shared.facts.clone()
    }

    fn contend(&self, claim: Claim) -> RedlockContender {
        RedlockContender::new(Arc::clone(&self.shared), claim)
    }

    async fn inspect(&self, key: &Key) -> Result<Line, EngineError> {
        self.shared.run(merged::inspect(Arc::clone(&self.shared.nodes), key.clone())).await
    }

    /// The keys in use at a majority. Goes once round all keys of the database of each node.
    async fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, EngineError> {
        let nodes = Arc::clone(&self.shared.nodes);
        self.shared.run(merged::keys(nodes, prefix.to_owned(), after.cloned(), limit)).await
    }

    async fn evict(&self, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
        let (nodes, key) = (Arc::clone(&self.shared.nodes), key.clone());
        let evict = async move {
            let ask = |_, node: Arc<Node>| {
                let key = key.clone();
                async move { node.redis.evict(&key, claim).await }
            };
            let votes = nodes.ask(|_| true, nodes.leisure(), ask, |_| false).await;
            if votes.iter().filter(|vote| vote.said().is_some()).count() < nodes.quorum() {
                return Err(tally::too_few(&votes, &nodes.addresses));
            }
            Ok(tally::withdrawn(&votes))
        };
        self.shared.run(evict).await
    }
}
