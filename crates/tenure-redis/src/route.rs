//! Which server keeps the line of a key now: the one place that knows of topologies.
//!
//! - **Fixed**: one address, for ever.
//! - **Sentinel**: the same, but each new connection first asks who the primary is (`sentinel`), and ends as soon as a
//!   sentinel tells of another one.
//! - **Cluster**: the node that serves the key's slot (`cluster`), and whomever it points to.
//!
//! A verb walks a [`Trail`]: it takes a step, sends, and when the server has refused it *because another one is to be
//! asked*, it turns and takes the next step. Only refusals that certainly changed nothing are followed; whatever may
//! have been applied is the caller's to judge.
//!
//! # Invariants
//! 1. Nothing is sent again unless a server has said that it did nothing with it.
//! 2. A trail has at most [`STEPS`] steps.

use std::sync::Arc;

use redis::{ServerError, Value};
use tenure_core::engine::links::Links;
use tenure_core::engine::{Effect, EngineError, Retry, Trouble};

use crate::cluster::{Cluster, Map};
use crate::dial::Part;
use crate::inbox::Inbox;
use crate::link::{Dialer, Link};
use crate::options::{Address, Node, RedisOptions};
use crate::slots::slot_of;

/// How many servers are asked for one verb.
const STEPS: u32 = 5;

/// Finds the server that keeps a key.
#[derive(Debug)]
pub(crate) enum Route {
    /// There is only one, wherever its dialer finds it.
    One { links: Links<Dialer>, moves: Moves },
    /// It depends on the key.
    Cluster(Cluster),
}

/// Whether a new connection may lead to another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moves {
    Never,
    ByFailover,
}

/// How to begin at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Plain,
    /// The slot is on its way to this node: it must be told that we know.
    Asking,
}

/// What a server says when another one is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// The slot is there now.
    Moved { slot: u16, node: Node },
    /// This once, ask there.
    Ask(Node),
    /// It is no primary any more.
    Demoted,
}

/// Why a request failed, and what to do about it.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) trouble: Trouble,
    pub(crate) redirect: Option<Redirect>,
}

impl Redirect {
    /// What an error of the server at `host` says of where to go.
    pub(crate) fn read(error: &ServerError, host: Option<&str>) -> Option<Self> {
        let detail = || {
            let (slot, address) = error.details()?.split_once(' ')?;
            let (name, port) = address.rsplit_once(':')?;
            // A node that does not know its own name means the one by which it was reached.
            let host = if name.is_empty() || name == "?" { host? } else { name };
            Some((slot.parse::<u16>().ok()?, Node::new(host, port.parse().ok()?)))
        };
        match error.code() {
            "MOVED" => detail().map(|(slot, node)| Self::Moved { slot, node }),
            "ASK" => detail().map(|(_, node)| Self::Ask(node)),
            "READONLY" => Some(Self::Demoted),
            _ => None,
        }
    }
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self { trouble, redirect: None }
    }
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        failed.trouble
    }
}

impl From<Failed> for EngineError {
    fn from(failed: Failed) -> Self {
        failed.trouble.into()
    }
}

impl Route {
    pub(crate) fn new(options: &RedisOptions, inbox: &Arc<Inbox>) -> Self {
        let inbox = Arc::clone(inbox);
        match &options.address {
            Address::Cluster(nodes) => Self::Cluster(Cluster::new(options.clone(), nodes.clone(), inbox)),
            Address::Sentinel { .. } => {
                let links = Links::new(Dialer::new(options.clone(), Part::Alone, inbox));
                Self::One { links, moves: Moves::ByFailover }
            }
            Address::Tcp(_) | Address::Unix(_) => {
                let links = Links::new(Dialer::new(options.clone(), Part::Alone, inbox));
                Self::One { links, moves: Moves::Never }
            }
        }
    }

    /// The way to the server of a key.
    pub(crate) fn trail(&self, key: &[u8]) -> Trail<'_> {
        let slot = if matches!(self, Self::Cluster(_)) { slot_of(key) } else { 0 };
        Trail { route: self, slot, left: STEPS, next: None, map: None }
    }

    /// A connection to one primary, and how many replicas each primary has at least.
    pub(crate) async fn first(&self) -> Result<(Arc<Link>, u32), Trouble> {
        let cluster = match self {
            Self::One { links, .. } => {
                let link = links.link().await?;
                let replicas = link.server.replicas;
                return Ok((link, replicas));
            }
            Self::Cluster(cluster) => cluster,
        };
        let map = cluster.map().await?;
        let replicas = u32::try_from(map.survey().replicas_min()).unwrap_or(u32::MAX);
        let mut trouble = Trouble::away("no node of the cluster serves any slot");
        for node in map.survey().primaries() {
            match cluster.links_of(&node).link().await {
                Ok(link) => return Ok((link, replicas)),
                // One that is away may be failed over just now; one that refuses us is not alone in that.
                Err(refusal) if refusal.retry == Retry::Worth => trouble = refusal,
                Err(refusal) => return Err(refusal),
            }
        }
        Err(trouble)
    }

    /// Connections to all primaries.
    pub(crate) async fn primaries(&self) -> Result<Vec<Arc<Link>>, Trouble> {
        let cluster = match self {
            Self::One { links, .. } => return Ok(vec![links.link().await?]),
            Self::Cluster(cluster) => cluster,
        };
        let map = cluster.map().await?;
        let mut primaries = Vec::new();
        for node in map.survey().primaries() {
            let link = cluster.links_of(&node).link().await;
            primaries.push(link.inspect_err(|_| {
                map.doubt();
            })?);
        }
        Ok(primaries)
    }

    /// One command about one key.
    pub(crate) async fn command(&self, key: &[u8], parts: &[&[u8]]) -> Result<Value, EngineError> {
        let mut trail = self.trail(key);
        // A trail ends by itself.
        loop {
            let Step { link, manner } = trail.step().await?;
            match link.command(manner, parts).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => trail.turn(failed)?,
            }
        }
    }
}

/// The servers that one verb is sent to, one after the other.
pub(crate) struct Trail<'a> {
    route: &'a Route,
    slot: u16,
    left: u32,
    next: Option<(Node, Manner)>,
    map: Option<Arc<Map>>,
}

/// The server to send to.
pub(crate) struct Step {
    pub(crate) link: Arc<Link>,
    pub(crate) manner: Manner,
}

impl Trail<'_> {
    /// A connection to the server that should be asked next.
    ///
    /// # Cancel safety
    /// Safe: the same step may be taken again.
    pub(crate) async fn step(&mut self) -> Result<Step, Trouble> {
        let cluster = match self.route {
            Route::One { links, .. } => {
                return Ok(Step { link: links.link().await?, manner: Manner::Plain });
            }
            Route::Cluster(cluster) => cluster,
        };
        let mut map = cluster.map().await?;
        let (node, manner) = match self.next.clone() {
            Some(next) => next,
            None => (map.primary_of(self.slot)?, Manner::Plain),
        };
        let mut link = cluster.links_of(&node).link().await;
        if link.is_err() && map.doubt() {
            // Another node may have taken its place.
            map = cluster.map().await?;
            let other = map.primary_of(self.slot)?;
            if other != node {
                link = cluster.links_of(&other).link().await;
            }
        }
        self.map = Some(map);
        Ok(Step { link: link?, manner })
    }

    /// Decides after a refusal where the next step leads.
    ///
    /// # Errors
    /// The failure itself, when it may have been applied, is no redirect, or too many steps were taken.
    pub(crate) fn turn(&mut self, failed: Failed) -> Result<(), EngineError> {
        self.left -= 1;
        let Failed { trouble, redirect } = failed;
        let follow = trouble.effect == Effect::None && trouble.retry == Retry::Worth && self.left > 0;
        self.next = match (redirect, self.route) {
            (Some(redirect), Route::Cluster(_)) if follow => match redirect {
                Redirect::Moved { slot, node } => {
                    self.map.iter().for_each(|map| map.note(slot, node.clone()));
                    Some((node, Manner::Plain))
                }
                Redirect::Ask(node) => Some((node, Manner::Asking)),
                Redirect::Demoted => {
                    self.doubt();
                    None
                }
            },
            // The link has been given up, and the next one asks the sentinels.
            (Some(Redirect::Demoted), Route::One { moves: Moves::ByFailover, .. }) if follow => None,
            _ => {
                if trouble.retry == Retry::Worth {
                    self.doubt();
                }
                return Err(trouble.into());
            }
        };
        Ok(())
    }

    fn doubt(&self) {
        if let Some(map) = &self.map {
            map.doubt();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::parse_redis_value;

    fn error(text: &str) -> ServerError {
        match parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap() {
            Value::ServerError(error) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn c064_a_redirect_says_where_to_go() {
        let moved = |slot, host, port| Some(Redirect::Moved { slot, node: Node::new(host, port) });
        for (text, redirect) in [
            ("MOVED 866 127.0.0.1:7001", moved(866, "127.0.0.1", 7001)),
            ("MOVED 866 :7001", moved(866, "asked", 7001)),
            ("MOVED 866 ?:7001", moved(866, "asked", 7001)),
            ("MOVED 866 ::1:7001", moved(866, "::1", 7001)),
            ("ASK 3 h:1", Some(Redirect::Ask(Node::new("h", 1)))),
            ("TRYAGAIN Multiple keys request during rehashing of slot", None),
            ("READONLY You can't write against a read only replica.", Some(Redirect::Demoted)),
            ("MOVED somewhere", None),
            ("CLUSTERDOWN Hash slot not served", None),
            ("OOM command not allowed", None),
        ] {
            assert_eq!(Redirect::read(&error(text), Some("asked")), redirect, "{text}");
        }
    }
}
