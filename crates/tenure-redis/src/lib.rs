//! The Redis engine of `tenure`: locks on a Redis primary, on the primary that sentinels name, or on a cluster.
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
//! Where to look: `scripts` for what happens on the server, `route` for which server that is, `dial` for what a server
//! must be like, `link` for connections and requests, `inbox` for wakes, `trouble` for what each error means.
#![forbid(unsafe_code)]

mod cards;
mod cluster;
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
mod redlock;
mod reply;
mod route;
mod scripts;
mod sentinel;
mod slots;
mod survey;
mod together;
mod trouble;
mod url;
mod wording;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tenure_core::engine::ledger::{Expiry, Ledger, Place, Terms};
use tenure_core::engine::{
    Engine, EngineError, EngineErrorKind, Exclusion, Facts, Line, PlaceView, TokenDurability, Trouble,
    Withdrawn, answers,
};
use tenure_core::{Claim, ClaimId, FencingToken, Identity, Key};

pub use contender::RedisContender;
pub use fence::{RedisFence, RedisFenceError};
pub use options::{AcksOn, Eviction, RedisOptions};
pub use redlock::{Redlock, RedlockContender, RedlockOptions, RedlockUrlError, Young};
pub use url::RedisUrlError;

use cards::Card;
use inbox::{CLAIM_WINDOW, Inbox};
use link::{Link, Words};
use options::Address;
use record::Tag;
use reply::Reply;
use route::{Manner, Redirect, Route, Step};
use scripts::Script;

/// The oldest server that knows `WAITAOF`.
const WAITS_FOR_DISKS: (u32, u32) = (7, 2);

/// How many lines are looked at in one go when keys are listed.
const LIST_CHUNK: usize = 128;

/// Locks on a Redis primary, on the primary that sentinels name, or on a cluster.
///
/// Clones are the same engine, with the same connections.
///
/// # Guarantees
/// Stated by [`Engine::facts`] from what the server says of itself when it is opened: exclusion is best effort unless
/// the server is alone, has no replicas and writes each command to its disk before it answers (`appendfsync always`).
/// Tokens rise over any loss of data as long as the clocks of successive primaries differ by less than the time a
/// failover takes.
#[derive(Clone, Debug)]
pub struct Redis {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) route: Route,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) acks: u32,
    pub(crate) acks_timeout: Duration,
    pub(crate) acks_on: AcksOn,
    facts: Facts,
}

impl Redis {
    /// Connects to a server, and checks that it may keep locks. Of a cluster, one node that serves slots is checked at
    /// once, and each of the others when it is first needed.
    ///
    /// Callers with a tokio runtime (with I/O and time enabled) are served on it, others by a thread of the engine.
    ///
    /// # Errors
    /// When no server can be reached, or it refuses us, or is no primary of version 6.2 or newer that keeps what it is
    /// told; when no sentinel answers, or they know no primary of that name.
    ///
    /// # Cancel safety
    /// Safe: nothing is left behind.
    pub async fn open(options: &RedisOptions) -> Result<Self, EngineError> {
        let inbox = Arc::new(Inbox::default());
        let route = Route::new(options, &inbox);
        let (link, replicas) = route.first().await?;
        if options.acks > replicas {
            let message = format!(
                "{} has {replicas} replicas, so {} can never acknowledge a grant: change acks in the URL, or add \
                 replicas",
                options.address(),
                options.acks
            );
            return Err(Trouble::unsupported(message).into());
        }
        if options.acks > 0 && options.acks_on == AcksOn::Disk && link.server.version < WAITS_FOR_DISKS {
            let message = format!(
                "{} is too old to wait for the disks of replicas: 7.2 or newer is needed, or acks-on=memory",
                options.address()
            );
            return Err(Trouble::unsupported(message).into());
        }
        let facts = facts(&link, &options.address);
        let (acks, acks_timeout, acks_on) = (options.acks, options.acks_timeout, options.acks_on);
        Ok(Self { shared: Arc::new(Shared { route, inbox, acks, acks_timeout, acks_on, facts }) })
    }

    /// A node of a quorum, which need not be there yet.
    pub(crate) fn unopened(options: &RedisOptions) -> Self {
        let inbox = Arc::new(Inbox::default());
        let (route, facts) = (Route::new(options, &inbox), Facts::of_leases("redis"));
        let (acks, acks_timeout, acks_on) = (options.acks, options.acks_timeout, options.acks_on);
        Self { shared: Arc::new(Shared { route, inbox, acks, acks_timeout, acks_on, facts }) }
    }

    /// The connection to its server.
    pub(crate) async fn link(&self) -> Result<Arc<Link>, Trouble> {
        let mut links = self.shared.route.primaries().await?;
        links.pop().ok_or_else(|| Trouble::away("no server"))
    }

    /// Listens for a claim.
    pub(crate) fn listen(&self, claim: ClaimId) -> inbox::Ear {
        self.shared.inbox.listen(claim, None)
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
fn facts(link: &Link, address: &Address) -> Facts {
    let mut facts = Facts::of_leases("redis");
    // Where others stand by to take over, they may do so without what was acknowledged last.
    let alone = matches!(address, Address::Tcp(_) | Address::Unix(_)) && link.server.replicas == 0;
    let keeps = alone && link.server.durable && !link.server.evicts;
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
    async fn read(&self, key: &Key) -> Result<Read, EngineError> {
        let hash = names::hash_of(key);
        let mut trail = self.route.trail(hash.as_bytes());
        // A trail ends by itself.
        let (link, answer) = loop {
            let Step { link, manner } = trail.step().await?;
            match link.script(manner, Script::Inspect, &[hash.as_bytes()], &[]).await {
                Ok(answer) => break (link, answer),
                Err(failed) => trail.turn(failed)?,
            }
        };
        let parts = answer.list().and_then(|list| <[Value; 2]>::try_from(list).ok());
        let [time, fields] = parts.ok_or_else(|| link.confused(&"not two parts"))?;
        Ok(Read::parse(&link, &hash, time, fields)?.settled())
    }

    /// Which of the keys of one server are in use, at one moment for all.
    async fn read_many(&self, link: &Link, keys: &[Key]) -> Result<Vec<bool>, EngineError> {
        let hashes: Vec<_> = keys.iter().map(names::hash_of).collect();
        let mut reads = vec![vec![&b"TIME"[..]]];
        reads.extend(hashes.iter().map(|hash| vec![&b"HGETALL"[..], hash.as_bytes()]));
        let mut answers = link.commands(&reads).await?.into_iter();
        // There are as many answers as commands.
        let time = answers.next().unwrap_or_else(|| Err(Trouble::away("no answer").into()))?;
        let mut in_use = Vec::with_capacity(keys.len());
        for ((key, hash), answer) in keys.iter().zip(&hashes).zip(answers) {
            let read = match answer {
                Ok(fields) => Read::parse(link, hash, time.clone(), fields).map_err(EngineError::from),
                // It has moved since it was found.
                Err(failed) if matches!(failed.redirect, Some(Redirect::Moved { .. } | Redirect::Ask(_))) => {
                    self.read(key).await
                }
                Err(failed) => Err(failed.into()),
            };
            in_use.push(match read {
                Ok(read) => !read.settled().ledger.places.is_empty(),
                // What somebody else keeps under a name of ours is no line.
                Err(error) if error.kind() == EngineErrorKind::Foreign => false,
                Err(error) => return Err(error),
            });
        }
        Ok(in_use)
    }

    /// Who is behind the places, as far as their cards are still there.
    async fn identities(&self, ledger: &Ledger<Tag>) -> Result<HashMap<u64, Arc<Identity>>, EngineError> {
        let mut cards: Vec<_> = ledger.places.iter().map(|place| place.tag.card).collect();
        cards.sort_unstable();
        cards.dedup();
        let mut identities = HashMap::new();
        for card in cards {
            let name = names::card_of(card);
            let text = self.route.command(name.as_bytes(), &[b"GET", name.as_bytes()]).await?;
            if let Some(identity) = text.text().and_then(Card::read) {
                identities.insert(card, identity);
            }
        }
        Ok(identities)
    }

    /// All hashes of ours with this prefix on one server.
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
            let answer = link.command(Manner::Plain, &scan).await?;
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
        let Read { ledger, now } = self.shared.read(key).await?;
        let identities = self.shared.identities(&ledger).await?;
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

    /// The keys in use. Goes once round all keys of each primary, whatever else is in it.
    async fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, EngineError> {
        let mut all = Vec::new();
        for link in self.shared.route.primaries().await? {
            let mut found = self.shared.scan(&link, prefix).await?;
            found.retain(|key| key.as_str().starts_with(prefix) && after.is_none_or(|after| key > after));
            let mut used = Vec::new();
            for chunk in found.chunks(LIST_CHUNK) {
                let reads = self.shared.read_many(&link, chunk).await?;
                let in_use =
                    chunk.iter().zip(reads).filter(|(_, in_use)| *in_use).map(|(key, _)| key.clone());
                used.extend(in_use.take(limit - used.len()));
                if used.len() == limit {
                    break;
                }
            }
            all.extend(used);
        }
        // A key that moved meanwhile may have been found twice.
        all.sort_unstable();
        all.dedup();
        all.truncate(limit);
        Ok(all)
    }

    async fn evict(&self, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
        let (hash, mine) = (names::hash_of(key), names::mine(claim));
        let of = Words { key, hash: &hash, words: "-", mine: &mine };
        let mut trail = self.shared.route.trail(hash.as_bytes());
        // A trail ends by itself.
        loop {
            let Step { link, manner } = trail.step().await?;
            match link.verb(manner, Script::Evict, &of).await {
                Ok(line) => {
                    return answers::withdrawn(&line).ok_or_else(|| link.confused(&line).into());
                }
                Err(failed) => trail.turn(failed)?,
            }
        }
    }
}
