//! The Redis engine of `tenure`: locks on a Redis primary.
//!
//! The line of each key lies in one hash; each verb is one script on it, so a lock costs one round trip and its release
//! another. Deadlines are judged by the server's clock, inside the scripts. A release grants to the next in line and
//! tells exactly that client, over the connection on which it waits: a hand-off costs the waiter no further round trip.
//!
//! # What is asked of the client
//! A lock needs to know of each command whether it may have been applied, and must never have one sent twice behind its
//! back. So the `redis` crate is used by its plain multiplexed connection, which repeats nothing and makes nothing
//! anew: when one has ended, we make another and know it.
//!
//! # Invariants
//! 1. A verb touches one key, which it declares, and is applied as a whole or not at all.
//! 2. Every answer names the claim. One that names another ends the connection.
//! 3. The scripts keep the same books as [`tenure_core::engine::ledger`]; a test compares them verb by verb.
//! 4. Key expiry only clears up: no verdict depends on it.
//!
//! Where to look: `scripts` for what happens on the server, `dial` for what a server must be like, `link` for
//! connections and requests, `inbox` for wakes, `trouble` for what each error means.
#![forbid(unsafe_code)]

mod cards;
mod contender;
mod dial;
mod fence;
mod inbox;
mod link;
#[cfg(test)]
mod mirror;
mod names;
mod options;
mod record;
mod reply;
mod scripts;
mod trouble;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tenure_core::engine::ledger::{Expiry, Ledger, Place, Terms};
use tenure_core::engine::links::Links;
use tenure_core::engine::{
    Engine, EngineError, EngineErrorKind, Exclusion, Facts, Line, PlaceView, TokenDurability, Trouble,
    Withdrawn, answers,
};
use tenure_core::{Claim, ClaimId, FencingToken, Identity, Key};

pub use contender::RedisContender;
pub use fence::{RedisFence, RedisFenceError};
pub use options::{Eviction, RedisOptions, RedisUrlError};

use cards::{Card, Cards};
use dial::Server;
use inbox::{CLAIM_WINDOW, Inbox};
use link::{Dialer, Link};
use record::Tag;
use reply::Reply;
use scripts::Script;

/// How many lines are looked at in one go when keys are listed.
const LIST_CHUNK: usize = 128;

/// Locks on a Redis primary.
///
/// Clones are the same engine, with the same connections.
///
/// # Guarantees
/// Stated by [`Engine::facts`] from what the server says of itself when it is opened: exclusion is best effort unless
/// the server has no replicas and writes each command to its disk before it answers (`appendfsync always`). Tokens rise
/// over any loss of data as long as the clocks of successive primaries differ by less than the time a failover takes.
#[derive(Clone, Debug)]
pub struct Redis {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) links: Links<Dialer>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) cards: Cards,
    pub(crate) acks: u32,
    pub(crate) acks_timeout: Duration,
    facts: Facts,
}

impl Redis {
    /// Connects to a server and checks that it may keep locks.
    ///
    /// Callers with a tokio runtime (with I/O and time enabled) are served on it, others by a thread of the engine.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses us, or is no primary of version 6.2 or newer that keeps what it is
    /// told.
    ///
    /// # Cancel safety
    /// Safe: nothing is left behind.
    pub async fn open(options: &RedisOptions) -> Result<Self, EngineError> {
        let inbox = Arc::new(Inbox::default());
        let links = Links::new(Dialer::new(options.clone(), Arc::clone(&inbox)));
        let link = links.link().await?;
        if options.acks > link.server.replicas {
            let message = format!(
                "{} has {} replicas, so {} can never acknowledge a grant: change acks in the URL, or add replicas",
                options.address(),
                link.server.replicas,
                options.acks
            );
            return Err(Trouble::unsupported(message).into());
        }
        let facts = facts(&link.server);
        let shared = Shared {
            links,
            inbox,
            cards: Cards::default(),
            acks: options.acks,
            acks_timeout: options.acks_timeout,
            facts,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A fence for a resource on this server, with its marks in the hash `key`.
    ///
    /// On a cluster, the key must share a hash tag with the data: `{orders}:fence` for `{orders}`.
    #[must_use]
    pub fn fence(&self, key: impl Into<String>) -> RedisFence {
        RedisFence::new(Arc::clone(&self.shared), key.into())
    }
}

/// What such a server can promise.
fn facts(server: &Server) -> Facts {
    let mut facts = Facts::of_leases("redis");
    let keeps = server.durable && server.replicas == 0 && !server.evicts;
    facts.exclusion = if keeps { Exclusion::WithinClockRates } else { Exclusion::BestEffort };
    facts.token_durability = if keeps { TokenDurability::Disk } else { TokenDurability::Volatile };
    facts.claim_window = CLAIM_WINDOW;
    facts
}

/// A line as it was read, with the server's time.
struct Read {
    ledger: Ledger<Tag>,
    now: u64,
}

impl Read {
    /// Brought to the server's present. The copy is settled, not the line: looking changes nothing.
    fn settled(mut self) -> Self {
        let window = u64::try_from(CLAIM_WINDOW.as_micros()).unwrap_or(u64::MAX);
        let terms = Terms { now: self.now, wall_micros: self.now, window, expiry: Expiry::Lease };
        self.ledger.settle(&terms, &mut |_| true);
        self
    }

    /// From the server's time and the fields of a hash.
    fn parse(link: &Link, hash: &str, time: Value, fields: Value) -> Result<Self, Trouble> {
        let shape = |(time, fields): (Value, Value)| -> Option<(u64, Option<Ledger<Tag>>)> {
            let (time, fields) = (time.list()?, fields.list()?);
            let time: Vec<u64> = time.iter().filter_map(|part| part.text()?.parse().ok()).collect();
            let [seconds, micros] = time[..] else { return None };
            let texts: Vec<_> = fields.iter().filter_map(Reply::text).collect();
            let pairs: Vec<_> = texts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            let whole = texts.len() == fields.len();
            Some((seconds * 1_000_000 + micros, if whole { record::read(&pairs) } else { None }))
        };
        match shape((time, fields)) {
            Some((now, Some(ledger))) => Ok(Self { ledger, now }),
            Some((_, None)) => Err(Trouble::foreign(format!("{hash:?} is a hash that tenure did not write"))),
            None => Err(link.confused(&"neither a time nor fields")),
        }
    }
}

impl Shared {
    async fn read(&self, link: &Link, key: &Key) -> Result<Read, EngineError> {
        let hash = names::hash_of(key);
        let answer = link.script(Script::Inspect, &[hash.as_bytes()], &[]).await?;
        let parts = answer.list().and_then(|list| <[Value; 2]>::try_from(list).ok());
        let [time, fields] = parts.ok_or_else(|| link.confused(&"not two parts"))?;
        Ok(Read::parse(link, &hash, time, fields)?.settled())
    }

    /// Which of the keys are in use, at one moment for all.
    async fn read_many(&self, link: &Link, keys: &[Key]) -> Result<Vec<bool>, EngineError> {
        let hashes: Vec<_> = keys.iter().map(names::hash_of).collect();
        let mut reads = vec![vec![&b"TIME"[..]]];
        reads.extend(hashes.iter().map(|hash| vec![&b"HGETALL"[..], hash.as_bytes()]));
        let mut answers = link.commands(&reads).await?.into_iter();
        // There are as many answers as commands.
        let time = answers.next().unwrap_or_else(|| Err(Trouble::away("no answer")))?;
        let mut in_use = Vec::with_capacity(keys.len());
        for (hash, answer) in hashes.iter().zip(answers) {
            let read = answer.and_then(|fields| Read::parse(link, hash, time.clone(), fields));
            in_use.push(match read {
                Ok(read) => !read.settled().ledger.places.is_empty(),
                // What somebody else keeps under a name of ours is no line.
                Err(trouble) if trouble.kind == EngineErrorKind::Foreign => false,
                Err(trouble) => return Err(trouble.into()),
            });
        }
        Ok(in_use)
    }

    /// Who is behind the places, as far as their cards are still there.
    async fn identities(
        &self,
        link: &Link,
        ledger: &Ledger<Tag>,
    ) -> Result<HashMap<u64, Arc<Identity>>, EngineError> {
        let mut cards: Vec<_> = ledger.places.iter().map(|place| place.tag.card).collect();
        cards.sort_unstable();
        cards.dedup();
        let names: Vec<_> = cards.iter().map(|card| names::card_of(*card)).collect();
        let gets: Vec<_> = names.iter().map(|name| vec![&b"GET"[..], name.as_bytes()]).collect();
        let mut identities = HashMap::new();
        for (card, text) in cards.iter().zip(link.commands(&gets).await?) {
            if let Some(identity) = text?.text().and_then(Card::read) {
                identities.insert(*card, identity);
            }
        }
        Ok(identities)
    }

    /// All hashes of ours with this prefix.
    async fn scan(&self, link: &Link, prefix: &str) -> Result<Vec<Key>, EngineError> {
        let pattern = names::pattern_of(prefix);
        let mut keys = Vec::new();
        let mut cursor = "0".to_owned();
        // Ends when the server has gone once round its keys.
        loop {
            let scan = [
                b"SCAN",
                cursor.as_bytes(),
                b"MATCH",
                pattern.as_bytes(),
                b"COUNT",
                b"1000",
                b"TYPE",
                b"hash",
            ];
            let answer = link.command(&scan).await?;
            let shape = match &answer {
                Value::Array(list) => match list.as_slice() {
                    [next, Value::Array(names)] => next.text().map(|next| (next.to_owned(), names)),
                    _ => None,
                },
                _ => None,
            };
            let Some((next, names)) = shape else { return Err(link.confused(&answer).into()) };
            keys.extend(names.iter().filter_map(|name| names::key_of(name.text()?)));
            if next == "0" {
                break;
            }
            cursor = next;
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }
}

impl Engine for Redis {
    type Contender = RedisContender;

    fn facts(&self) -> Facts {
        self.shared.facts.clone()
    }

    fn contend(&self, claim: Claim) -> RedisContender {
        RedisContender::new(Arc::clone(&self.shared), claim)
    }

    async fn inspect(&self, key: &Key) -> Result<Line, EngineError> {
        let link = self.shared.links.link().await?;
        let Read { ledger, now } = self.shared.read(&link, key).await?;
        let identities = self.shared.identities(&link, &ledger).await?;
        let view = |place: &Place<Tag>| PlaceView {
            claim: place.claim,
            mode: place.mode,
            standing: Ledger::standing(place, now),
            since: Duration::from_micros(now.saturating_sub(place.since)),
            identity: identities.get(&place.tag.card).cloned(),
        };
        Ok(Line {
            key: key.clone(),
            last_token: FencingToken::new(ledger.last_token),
            places: ledger.places.iter().map(view).collect(),
        })
    }

    /// The keys in use. Goes once round all keys of the database, whatever else is in it.
    async fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, EngineError> {
        let link = self.shared.links.link().await?;
        let mut found = self.shared.scan(&link, prefix).await?;
        found.retain(|key| key.as_str().starts_with(prefix) && after.is_none_or(|after| key > after));
        let mut used = Vec::new();
        for chunk in found.chunks(LIST_CHUNK) {
            let reads = self.shared.read_many(&link, chunk).await?;
            let in_use = chunk.iter().zip(reads).filter(|(_, in_use)| *in_use).map(|(key, _)| key.clone());
            used.extend(in_use.take(limit - used.len()));
            if used.len() == limit {
                break;
            }
        }
        Ok(used)
    }

    async fn evict(&self, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
        let link = self.shared.links.link().await?;
        let hash = names::hash_of(key);
        let line = link.verb(Script::Evict, key, &hash, &[claim.to_string().as_bytes()]).await?;
        answers::withdrawn(&line).ok_or_else(|| link.confused(&line).into())
    }
}
