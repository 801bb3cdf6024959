//! The PostgreSQL engine of `tenure`: locks beside the data, with transactions that only a holder can commit.
//!
//! The line of each key lies in tables; each verb is one statement that calls one function, so a lock costs one round
//! trip and one durable commit, and its release another. A hold that is alone lies in its key's row, and its verbs
//! update that. Otherwise a function locks the key's row, then reads the server's clock, acts, and tells exactly those
//! whom it enables by a notification that carries the grant. No row is locked between two round trips, so a client that
//! is paused blocks nobody, and a pooler may be in between.
//!
//! Holds end by lease, or, with [`Dialect::Advisory`], with a session: then all verbs go over one connection, which has
//! an advisory lock for as long as it stands.
//!
//! The crate needs Rust 1.89, and 1.94 with the feature `sqlx`.
//!
//! # Invariants
//! 1. A verb is one statement, and so is applied as a whole or not at all.
//! 2. Every answer names the claim. One that names another ends the connection.
//! 3. The functions keep the same books as [`tenure_core::engine::ledger`]; a test compares them verb by verb.
//! 4. The clock is read after the key's row is locked; before that, only by a verb of a hold that is alone, which
//!    judges nobody else by it.
//! 5. What is answered was committed durably, whatever the defaults of the session say; of a session's hold that is
//!    alone, this may be only a bound of its tokens.
//! 6. A place that a transaction of its holder has pinned stays until that transaction ends, and no verb waits for it.
//! 7. A hold of a session that lives stays, whatever its lease; one of a session that has ended is never taken over.
//!
//! Where to look: `sql/version_1.sql` for what happens on the server, `dial` for what a server must be like, `link` for
//! connections and statements, `migration` for the tables, `trouble` for what each error means.
#![forbid(unsafe_code)]

mod contender;
mod dial;
mod fence;
mod guarded;
#[cfg(feature = "sqlx")]
mod guarded_sqlx;
mod link;
mod migration;
#[cfg(test)]
mod mirror;
mod options;
mod passfile;
mod record;
mod trouble;
mod verbs;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tenure_core::engine::inbox::CLAIM_WINDOW;
use tenure_core::engine::ledger::{Expiry, Ledger, Place, Terms};
use tenure_core::engine::links::Links;
use tenure_core::engine::{
    Engine, EngineError, Exclusion, Facts, Line, Liveness, PlaceView, TokenDurability, Trouble, Withdrawn,
    answers,
};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_core::{Claim, ClaimId, FencingToken, Key};

pub use contender::PostgresContender;
pub use fence::{FencedTable, FencedTableError};
pub use guarded::{GuardedTx, GuardedTxError, Hold, NotHeld};
#[cfg(feature = "sqlx")]
pub use guarded_sqlx::{SqlxGuardedTx, SqlxGuardedTxError};
pub use migration::{Migrated, migrate, migration_sql};
pub use options::{Dialect, PostgresOptions, PostgresUrlError};

use dial::Server;
use link::{Dialer, Inbox, Link, Value};
use record::{Read, Tag};
use verbs::Verb;

/// How often waiters look where nothing can be pushed to them.
const POLL: Duration = Duration::from_millis(250);

/// How often idle keys are swept, how many at a time, and how long a key is idle before.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const SWEEP_MOST: i32 = 1_000;
const IDLE: Duration = Duration::from_secs(3600);

/// Locks in a PostgreSQL database.
///
/// Clones are the same engine, with the same connections.
///
/// # Guarantees
/// Stated by [`Engine::facts`] from what the server says of itself when it is opened: exclusion is within clock rates
/// unless the server does not wait for its disk, has standbys for none of which it waits, or holds end with a session.
/// Each token, or a bound that is not below it, is on the disk before its grant is reported, and none is given out
/// twice as long as the disk or the clock remembers.
#[derive(Clone, Debug)]
pub struct Postgres {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) links: Links<Dialer>,
    pub(crate) inbox: Arc<Inbox>,
    facts: Facts,
    /// Where the sweep of idle keys goes on, and when.
    sweep: Mutex<Sweep>,
}

#[derive(Debug)]
struct Sweep {
    after: String,
    last: Moment,
}

impl Postgres {
    /// Connects to a server and checks that it may keep locks, and that the tables are there.
    ///
    /// Callers with a tokio runtime (with I/O and time enabled) are served on it, others by a thread of the engine.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses us, is a standby, is older than version 12, or when its database has
    /// no tables of ours, which [`migrate`] makes.
    ///
    /// # Cancel safety
    /// Safe: nothing is left behind.
    pub async fn open(options: &PostgresOptions) -> Result<Self, EngineError> {
        let inbox = Arc::new(Inbox::default());
        let dialer = Dialer::new(options.clone(), Arc::clone(&inbox));
        let links = match options.dialect {
            Dialect::Table => Links::new(dialer),
            Dialect::Advisory => Links::on_own_thread(dialer),
        };
        let link = links.link().await?;
        let facts = facts(&link.server, options.dialect, links.dial().is_pooled());
        let sweep = Mutex::new(Sweep { after: String::new(), last: SystemClock.now() });
        Ok(Self { shared: Arc::new(Shared { links, inbox, facts, sweep }) })
    }
}

/// What such a server can promise.
fn facts(server: &Server, dialect: Dialect, pooled: bool) -> Facts {
    let mut facts = Facts::of_leases("postgres");
    let keeps = server.durable && (server.standbys == 0 || server.waits_for_standbys);
    facts.exclusion = if keeps { Exclusion::WithinClockRates } else { Exclusion::BestEffort };
    facts.token_durability = if keeps { TokenDurability::Disk } else { TokenDurability::Volatile };
    facts.claim_window = CLAIM_WINDOW;
    if dialect == Dialect::Advisory {
        facts.liveness = Liveness::Session;
        // The server may end a session at once, as when it is killed, and a holder that is cut off does not hear of it.
        facts.exclusion = Exclusion::BestEffort;
    }
    if pooled {
        facts.refresh_every = POLL;
        facts.cautions.push(format!(
            "a pooler is between us and the server, so nothing can be pushed: waiters look every {POLL:?}"
        ));
    }
    if !server.durable {
        facts
            .cautions
            .push("fsync is off: what the server acknowledges may be gone after a crash".to_owned());
    }
    facts
}

impl Shared {
    pub(crate) fn lock_millis(&self) -> i32 {
        let millis = self.links.dial().options.lock_timeout.as_millis();
        i32::try_from(millis).unwrap_or(i32::MAX).max(1)
    }

    async fn read(&self, link: &Link, key: &Key) -> Result<Read, EngineError> {
        let values = vec![Value::Text(key.as_str().to_owned())];
        let rows = link.ask(Arc::clone(&link.verbs.inspect), values).await?;
        let unknown = || {
            let message = format!("the rows of {key:?} are not as tenure writes them");
            EngineError::from(Trouble::foreign(message))
        };
        let mut read = record::read(&rows).ok_or_else(unknown)?;
        // Brought to the server's present: the copy is settled, not the line. Looking changes nothing.
        let window = u64::try_from(CLAIM_WINDOW.as_micros()).unwrap_or(u64::MAX);
        let terms = Terms { now: read.now, wall_micros: read.now, window, expiry: Expiry::Lease };
        read.ledger.settle(&terms, &mut |_| true);
        Ok(read)
    }

    /// Sweeps some idle keys, when it is time. Nobody waits for it, and nobody misses it when it fails.
    pub(crate) fn sweep(self: &Arc<Self>, link: &Arc<Link>) {
        let now = SystemClock.now();
        let mut sweep = self.sweep.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(sweep.last) < SWEEP_EVERY {
            return;
        }
        sweep.last = now;
        let after = std::mem::take(&mut sweep.after);
        drop(sweep);
        let (shared, link) = (Arc::clone(self), Arc::clone(link));
        link.runtime().clone().spawn(async move {
            let idle = i64::try_from(IDLE.as_micros()).unwrap_or(i64::MAX);
            let values = vec![Value::Text(after), Value::Number(idle), Value::Small(SWEEP_MOST)];
            let Ok(rows) = link.ask(Arc::clone(&link.verbs.sweep), values).await else { return };
            let next = rows.first().and_then(|row| row.try_get::<_, Option<String>>(0).ok().flatten());
            shared.sweep.lock().unwrap_or_else(PoisonError::into_inner).after = next.unwrap_or_default();
        });
    }
}

impl Engine for Postgres {
    type Contender = PostgresContender;

    fn facts(&self) -> Facts {
        self.shared.facts.clone()
    }

    fn contend(&self, claim: Claim) -> PostgresContender {
        PostgresContender::new(Arc::clone(&self.shared), claim)
    }

    /// The line as it is now. A hold that has expired and is kept by an open transaction of its holder alone is not
    /// shown.
    async fn inspect(&self, key: &Key) -> Result<Line, EngineError> {
        let link = self.shared.links.link().await?;
        let Read { ledger, now } = self.shared.read(&link, key).await?;
        let view = |place: &Place<Tag>| PlaceView {
            claim: place.claim,
            mode: place.mode,
            standing: Ledger::standing(place, now),
            since: Duration::from_micros(now.saturating_sub(place.since)),
            identity: place.tag.identity(),
        };
        Ok(Line {
            key: key.clone(),
            last_token: FencingToken::new(ledger.last_token),
            places: ledger.places.iter().map(view).collect(),
        })
    }

    async fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, EngineError> {
        let link = self.shared.links.link().await?;
        let after = after.map_or("", Key::as_str);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values =
            vec![Value::Text(prefix.to_owned()), Value::Text(after.to_owned()), Value::Number(limit)];
        let rows = link.ask(Arc::clone(&link.verbs.keys), values).await?;
        let names = rows.iter().filter_map(|row| row.try_get::<_, String>(0).ok());
        // A row that somebody else has made may have a name that is no key.
        Ok(names.filter_map(|name| Key::new(name).ok()).collect())
    }

    async fn evict(&self, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
        let link = self.shared.links.link().await?;
        let values = vec![
            Value::Text(key.as_str().to_owned()),
            Value::Text(claim.to_string()),
            Value::Small(self.shared.lock_millis()),
        ];
        let line = link.verb(self.shared.links.dial(), Verb::Evict, claim, values).await?;
        answers::withdrawn(&line).ok_or_else(|| link.confused(&line).into())
    }
}
