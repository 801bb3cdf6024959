//! The nodes of a quorum: asked all at once, each for a limited time, and counted only when they may be.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tenure_core::engine::{Effect, Engine, EngineError, EngineErrorKind, Retry, Trouble};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{Claim, ClaimId, Ttl};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::options::{RedlockOptions, Young};
use super::tally::{self, Vote};
use crate::inbox::Ear;
use crate::link::Link;
use crate::{Redis, RedisContender};

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) redis: Redis,
}

/// Who a node is: two that share one of these are not independent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Person {
    run: String,
    replication: String,
}

/// All nodes of a quorum.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: Vec<Arc<Node>>,
    pub(crate) addresses: Vec<String>,
    longest_ttl: Duration,
    young: Young,
    answers_within: Duration,
    /// Who each node said it was when it was last connected, and over which connection.
    people: Mutex<Vec<Option<(u64, Person)>>>,
}

impl Node {
    /// Speaks for a claim at this node.
    pub(crate) fn at(&self, claim: &Claim) -> RedisContender {
        self.redis.contend(claim.clone())
    }

    pub(crate) fn listen(&self, claim: ClaimId) -> Ear {
        self.redis.listen(claim)
    }
}

impl Nodes {
    pub(crate) fn new(options: &RedlockOptions) -> Self {
        let node = |options| Arc::new(Node { redis: Redis::unopened(options) });
        let answers_within = options.nodes.iter().map(|node| node.response_timeout).max().unwrap_or_default();
        Self {
            nodes: options.nodes.iter().map(node).collect(),
            addresses: options.nodes.iter().map(|node| node.address()).collect(),
            longest_ttl: options.longest_ttl,
            young: options.young,
            answers_within,
            people: Mutex::new(vec![None; options.nodes.len()]),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn quorum(&self) -> usize {
        tally::quorum(self.len())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter()
    }

    /// How long a node is waited for in the name of a claim.
    pub(crate) fn patience(&self, ttl: Ttl) -> Duration {
        tally::patience(ttl.duration(), self.answers_within)
    }

    /// How long a node is waited for when no validity is at stake.
    pub(crate) fn leisure(&self) -> Duration {
        self.answers_within
    }

    /// The longest term that a claim may have, if it matters.
    pub(crate) fn longest_ttl(&self) -> Option<Duration> {
        (self.young == Young::Wait).then_some(self.longest_ttl)
    }

    /// Asks some nodes, all at once. When what the answers say is `decided`, those that are late have a moment more.
    /// The request to a node that has not answered then is given up, and may have been applied.
    pub(crate) async fn ask<T, F>(
        self: &Arc<Self>,
        whom: impl Fn(usize) -> bool,
        patience: Duration,
        ask: impl Fn(usize, Arc<Node>) -> F,
        decided: impl Fn(&[&Vote<T>]) -> bool,
    ) -> Vec<Vote<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        let begun = SystemClock.now();
        let mut asking = JoinSet::new();
        for (at, node) in self.nodes.iter().enumerate().filter(|(at, _)| whom(*at)) {
            let (this, asked) = (Arc::clone(self), ask(at, Arc::clone(node)));
            asking.spawn(async move { (at, this.vote(at, patience, asked).await) });
        }
        let mut votes: Vec<Option<Vote<T>>> = self.nodes.iter().map(|_| None).collect();
        let mut limit = None;
        while let Some(next) = next(&mut asking, limit).await {
            // A task of ours neither panics nor is given up by anybody else.
            if let Ok((at, vote)) = next {
                votes[at] = Some(vote);
            }
            let heard: Vec<_> = votes.iter().flatten().collect();
            if limit.is_none() && decided(&heard) {
                limit = Some(SystemClock.now().since(begun) * 2 + Duration::from_millis(10));
            }
        }
        let absent = |(at, vote): (usize, Option<Vote<T>>)| {
            vote.unwrap_or_else(|| Vote::Failed(if whom(at) { no_answer() } else { not_asked() }))
        };
        votes.into_iter().enumerate().map(absent).collect()
    }

    /// The vote of one node, within a limit.
    async fn vote<T>(
        &self,
        at: usize,
        patience: Duration,
        asked: impl Future<Output = Result<T, EngineError>>,
    ) -> Vote<T> {
        let what = match timeout(patience, asked).await {
            Ok(Ok(what)) => what,
            Ok(Err(error)) => return Vote::Failed(error),
            Err(_) => return Vote::Failed(no_answer()),
        };
        // The connection is looked at after the answer: over whichever it came, this one is not older.
        match timeout(patience, self.connected(at)).await {
            Ok(Ok(link)) => match self.recognise(at, &link) {
                Ok(()) => Vote::Said { what, counts: self.counts(&link) },
                Err(twin) => Vote::Failed(twin.with_unknown_effect().into()),
            },
            _ => Vote::Said { what, counts: false },
        }
    }

    /// A connection to a node, checked.
    pub(crate) async fn connected(&self, at: usize) -> Result<Arc<Link>, Trouble> {
        self.nodes[at].redis.link().await
    }

    /// Whether a node may be counted: one that may have forgotten what it granted would grant it again.
    fn counts(&self, link: &Link) -> bool {
        self.young == Young::Count || link.server.durable || link.age() >= self.longest_ttl
    }

    /// Refuses a node that is another one as well: then one failure is two.
    pub(crate) fn recognise(&self, at: usize, link: &Link) -> Result<(), Trouble> {
        let mut people = self.people.lock().unwrap_or_else(PoisonError::into_inner);
        if people[at].as_ref().is_some_and(|(connection, _)| *connection == link.name) {
            return Ok(());
        }
        let (run, replication) = (link.server.run.clone(), link.server.replication.clone());
        let person = Person { run, replication };
        for (other, known) in people.iter().enumerate().filter(|(other, _)| *other != at) {
            let Some((_, known)) = known else { continue };
            let what = if known.run == person.run {
                "the same server"
            } else if known.replication == person.replication {
                "of one replication"
            } else {
                continue;
            };
            let (this, other) = (&self.addresses[at], &self.addresses[other]);
            let message = format!(
                "{this} and {other} are {what}: name independent primaries, each with data of its own"
            );
            return Err(Trouble::unsupported(message));
        }
        people[at] = Some((link.name, person));
        Ok(())
    }
}

/// The next answer; none when all are there or the limit is reached.
async fn next<T: 'static>(
    asking: &mut JoinSet<T>,
    limit: Option<Duration>,
) -> Option<Result<T, tokio::task::JoinError>> {
    match limit {
        None => asking.join_next().await,
        Some(limit) => timeout(limit, asking.join_next()).await.ok().flatten(),
    }
}

fn no_answer() -> EngineError {
    let (kind, effect) = (EngineErrorKind::Unreachable, Effect::Unknown);
    EngineError::new(kind, effect, Retry::Worth, "no answer in the time that a node has")
}

fn not_asked() -> EngineError {
    EngineError::new(EngineErrorKind::Unreachable, Effect::None, Retry::Worth, "not asked")
}
