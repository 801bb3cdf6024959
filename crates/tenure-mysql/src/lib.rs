//! The MariaDB and MySQL engine of `tenure`: locks beside the data, with transactions that only a holder can commit.
//!
//! The line of each key lies in a few rows. Each verb is one call of a stored procedure, which runs one short
//! transaction: it locks the key's row, then reads the server's clock, decides, and commits. A client that is paused
//! between two messages therefore never keeps anything locked.
//!
//! # Invariants
//! 1. A verb is one transaction on the server, applied as a whole or not at all.
//! 2. Every answer names the claim. One that names another ends the connection.
//! 3. The procedures keep the same books as [`tenure_core::engine::ledger`]; a test compares them verb by verb.
//! 4. A place whose hold guards an open transaction is not taken away, whatever the time.
//! 5. A place that has a session lives and ends with it, and is never adopted by another.
//! 6. A token is never issued again: what is cleaned up leaves a floor under all that come later.
//!
//! Where to look: `sql/` for what happens on the server, `schema` for how it gets there, `login` for the way in, `dial`
//! for what a server must be like, `link` for connections and statements, `session` for what the places of one dialect
//! end with, `polls` for wakes, `trouble` for what each error means.
#![forbid(unsafe_code)]

mod contender;
mod dial;
mod fence;
mod guarded;
mod link;
mod login;
#[cfg(test)]
mod mirror;
mod options;
mod polls;
mod record;
mod schema;
mod session;
mod trouble;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use tenure_core::engine::inbox::{CLAIM_WINDOW, Inbox};
use tenure_core::engine::ledger::{Expiry, Ledger, Place, Terms};
use tenure_core::engine::links::Links;
use tenure_core::engine::{
    Effect, Engine, EngineError, Exclusion, Facts, Line, Liveness, PlaceView, Retry, TokenDurability,
    Trouble, Withdrawn, answers,
};
use tenure_core::{Claim, ClaimId, FencingToken, Key};

pub use contender::MySqlContender;
pub use fence::{FencedTable, FencedTableError};
pub use guarded::{GuardedTx, GuardedTxError};
pub use options::{Dialect, MySqlOptions, MySqlUrlError, Tls};
pub use schema::{migrate, migration_sql};

use dial::Server;
use link::{Dialer, Value};
use record::Tag;

const EVICT: &str = "CALL tenure_evict(?, ?)";

const KEYS: &str = "SELECT DISTINCT `key` FROM tenure_places WHERE `key` > ? AND `key` >= ? \
    AND state IN ('waiting', 'offered', 'held') \
    AND (ends_us > TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) OR (session <> 0 AND state = 'held')) \
    AND (session = 0 OR NOT IS_FREE_LOCK(CONCAT('tenure ', session))) \
    AND LEFT(`key`, ?) = ? ORDER BY `key` LIMIT ?";

/// Locks in the tables of a MariaDB or MySQL database.
///
/// Clones are the same engine, with the same connections: one for each runtime that uses it, which are two in most
/// processes, that of the caller and that of the keeper; with `dialect=get_lock` a single one.
///
/// # Guarantees
/// Stated by [`Engine::facts`] from what the server says of itself when it is opened. Exclusion is best effort where a
/// crash or a failover may forget what was answered.
#[derive(Clone, Debug)]
pub struct MySql {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) links: Links<Dialer>,
    pub(crate) inbox: Arc<Inbox<Dialer>>,
    /// What the places of this client have in common, by which it finds what is new for them.
    pub(crate) channel: i64,
    pub(crate) dialect: Dialect,
    facts: Facts,
}

impl MySql {
    /// Connects to a database and checks that it may keep locks.
    ///
    /// Callers with a tokio runtime (with I/O and time enabled) are served on it, others by a thread of the engine.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses us, is too old or read-only, or when the database has no schema of
    /// this version: see [`migrate`].
    ///
    /// # Cancel safety
    /// Safe: nothing is left behind.
    pub async fn open(options: &MySqlOptions) -> Result<Self, EngineError> {
        let dialer = Dialer::new(options.clone());
        let dialect = options.dialect;
        let links = match dialect {
            Dialect::Table => Links::new(dialer),
            Dialect::GetLock => Links::on_own_thread(dialer),
        };
        let link = links.link().await?;
        let facts = facts(&link.server, dialect);
        let channel = i64::from_ne_bytes(rand::random::<u64>().to_ne_bytes());
        Ok(Self { shared: Arc::new(Shared { links, inbox: Arc::default(), channel, dialect, facts }) })
    }
}

/// What such a server can promise.
fn facts(server: &Server, dialect: Dialect) -> Facts {
    let mut facts = Facts::of_leases("mysql");
    let in_session = dialect == Dialect::GetLock;
    if in_session {
        facts.liveness = Liveness::Session;
    }
    let keeps = server.durable && !server.followed && !server.clustered && !in_session;
    facts.exclusion = if keeps { Exclusion::WithinClockRates } else { Exclusion::BestEffort };
    facts.token_durability = if server.durable { TokenDurability::Disk } else { TokenDurability::Volatile };
    facts.claim_window = CLAIM_WINDOW;
    let cautions = [
        (
            !server.durable,
            "commits are not on the disk when they are answered: set innodb_flush_log_at_trx_commit=1, and \
          sync_binlog=1 where there is a binary log",
        ),
        (server.followed, "a failover to an asynchronous replica may forget holds"),
        (server.clustered, "Galera has not been tested"),
        (
            in_session,
            "the server frees a key as soon as it ends the connection of its holder, which may learn of it a little \
             later",
        ),
    ];
    facts.cautions =
        cautions.iter().filter(|(is_so, _)| *is_so).map(|(_, caution)| (*caution).to_owned()).collect();
    facts
}

/// An answer that makes no sense.
pub(crate) fn nonsense(answer: &dyn fmt::Debug) -> Trouble {
    Trouble::nonsense(format!("the server answered something that makes no sense: {answer:?}"))
}

impl Shared {
    /// A verb of a claim; the line of its answer. Whom it has enabled in this process is told.
    pub(crate) async fn verb(
        &self,
        statement: &'static str,
        claim: ClaimId,
        values: impl Fn(i64) -> Vec<Value>,
    ) -> Result<String, EngineError> {
        let link = self.links.link().await?;
        let answer = match link.verb(statement, claim, values(link.session)).await {
            // The connection had ended before, unnoticed; nothing was sent on it.
            Err(trouble)
                if (trouble.effect, trouble.retry) == (Effect::None, Retry::Worth) && link.has_ended() =>
            {
                let link = self.links.link().await?;
                link.verb(statement, claim, values(link.session)).await?
            }
            answer => answer?,
        };
        for told in answer.told.iter().flat_map(|told| told.split(',')) {
            self.inbox.take(told);
        }
        Ok(answer.line)
    }

    /// A line as it is, brought to the server's present. The copy is settled, not the line: looking changes nothing.
    async fn read(&self, key: &Key) -> Result<(Ledger<Tag>, u64), EngineError> {
        let link = self.links.link().await?;
        let rows = link.ask(record::READ, vec![Value::Bytes(key.as_str().as_bytes().to_vec())]).await?;
        let (mut ledger, now) = record::read(&rows)
            .ok_or_else(|| Trouble::foreign(format!("the rows of {key:?} were not written by tenure")))?;
        let window = u64::try_from(CLAIM_WINDOW.as_micros()).unwrap_or(u64::MAX);
        ledger.settle(&Terms { now, wall_micros: now, window, expiry: Expiry::Lease }, &mut |_| true);
        Ok((ledger, now))
    }
}

impl Engine for MySql {
    type Contender = MySqlContender;

    fn facts(&self) -> Facts {
        self.shared.facts.clone()
    }

    fn contend(&self, claim: Claim) -> MySqlContender {
        MySqlContender::new(Arc::clone(&self.shared), claim)
    }

    async fn inspect(&self, key: &Key) -> Result<Line, EngineError> {
        let (ledger, now) = self.shared.read(key).await?;
        let view = |place: &Place<Tag>| PlaceView {
            claim: place.claim,
            mode: place.mode,
            standing: Ledger::standing(place, now),
            since: Duration::from_micros(now.saturating_sub(place.since)),
            identity: serde_json::from_slice(&place.tag.identity).ok().map(Arc::new),
        };
        Ok(Line {
            key: key.clone(),
            last_token: FencingToken::new(ledger.last_token),
            places: ledger.places.iter().map(view).collect(),
        })
    }

    async fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, EngineError> {
        let bytes = |text: &str| Value::Bytes(text.as_bytes().to_vec());
        let length = |length: usize| Value::Number(i64::try_from(length).unwrap_or(i64::MAX));
        let after = after.map_or("", Key::as_str);
        let values = vec![bytes(after), bytes(prefix), length(prefix.len()), bytes(prefix), length(limit)];
        let rows = self.shared.links.link().await?.ask(KEYS, values).await?;
        let key = |row: &sqlx::mysql::MySqlRow| {
            Key::new(String::from_utf8(row.try_get::<Vec<u8>, _>(0).ok()?).ok()?).ok()
        };
        Ok(rows.iter().filter_map(key).collect())
    }

    async fn evict(&self, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
        let values = vec![Value::Bytes(key.as_str().as_bytes().to_vec()), Value::Text(claim.to_string())];
        let line = self.shared.verb(EVICT, claim, |_| values.clone()).await?;
        answers::withdrawn(&line).ok_or_else(|| nonsense(&line).into())
    }
}
