//! The local directory engine of `tenure`: locks between the processes of one machine.
//!
//! It needs nothing but a directory: no server, no daemon, no configuration. The line of each key lies in a small
//! file; the kernel serialises who changes it, and says which processes are alive. So a lock is free the moment its
//! holder dies, and is never taken from a holder that lives, however slow it is.
//!
//! # Invariants
//! 1. A place belongs to a member (an open [`Local`]), and dies with it, never before.
//! 2. A verb is one change of one file, under a latch that is held for microseconds.
//! 3. Whom a change concerns is told after the latch is given back, so that nobody wakes up to wait for it.
//!
//! Where to look: `directory` for what is refused, `keyfile` for the latch, `record` for the bytes, `member` for who
//! is alive, `post` for wakes.
#![forbid(unsafe_code)]

mod contender;
mod directory;
mod filesystems;
mod keyfile;
mod member;
mod member_id;
mod names;
mod options;
mod patience;
mod post;
mod record;
mod trouble;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::Dir;
use tenure_core::engine::ledger::{Expiry, Ledger, Terms, Told};
use tenure_core::engine::signals::Signals;
use tenure_core::engine::{
    Effect, Engine, EngineError, EngineErrorKind, Exclusion, Facts, Line, Liveness, Order, PlaceView, Retry,
    TokenDurability, Wake, Withdrawn,
};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{Claim, ClaimId, FencingToken, Identity, Key};

pub use contender::LocalContender;
pub use options::{FileSystems, LocalOptions, LocalUrlError, SyncMode};

use directory::Directory;
use filesystems::Trust;
use keyfile::{KeyFiles, Missing, Peeked};
use member::{Member, Members};
use member_id::MemberId;
use names::Named;
use post::{Ear, Outbox};

/// How long an offer waits for its waiter: thrice as long as a waiter that lives takes to look.
const CLAIM_WINDOW: Duration = Duration::from_secs(3);

/// Locks between the processes of one machine, kept in a directory.
///
/// Clones are the same instance. Two instances are strangers to one another, also in one process.
///
/// # Guarantees
/// - Two exclusive holders of a key never exist at once, while the kernel keeps its word and nobody deletes or edits
///   the files.
/// - The holds of a process end when it ends, however it ends, and only then: a stopped process keeps them. When the
///   last clone and contender of an instance are dropped, what it still holds is free as well.
/// - Tokens rise through the crash of any process; through a power cut by the wall clock, or with
///   [`SyncMode::Always`] by the disk.
///
/// After `fork` the child must open its own instance: the verbs of an inherited one are refused, and dropping it does
/// not disturb the parent.
///
/// ```
/// use tenure_core::engine::{Attempt, Contender, Engine, Stray};
/// use tenure_core::{Claim, ClaimId, Key};
/// use tenure_local::{Local, LocalOptions};
///
/// # let scratch = tempfile::tempdir()?;
/// # let path = scratch.path().join("locks");
/// # futures_executor::block_on(async {
/// let local = Local::open(&LocalOptions::at(path))?;
/// let mut contender = local.contend(Claim::new(Key::new("orders/42")?, ClaimId::from_bits(1)));
/// assert!(matches!(contender.attempt().await?, Attempt::Granted(_)));
/// contender.withdraw(Stray::Impossible).await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Local {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
    keys: KeyFiles,
    members: Arc<Members>,
    signals: Arc<Signals>,
    /// The process that opened it: a forked child shares our locks, and would not be excluded by them.
    pid: u32,
    own: OnceLock<Member>,
    /// Taken while the member comes to life or the ear is opened.
    beginning: Mutex<()>,
    ear: OnceLock<Option<Ear>>,
    outbox: Outbox,
    /// The claims that may have a place. With none, nobody waits for our death.
    placed: Mutex<HashSet<ClaimId>>,
    bequeathed: AtomicBool,
}

impl Local {
    /// Opens the directory, and makes it when only it is missing.
    ///
    /// Takes a handful of system calls and starts no thread; a thread (`tenure-ear`) is started by the first claim
    /// that has to wait.
    ///
    /// # Errors
    /// - `Foreign`: the directory has other things in it, or is of another version. Nothing was touched.
    /// - `Denied`: it belongs to somebody else, or everybody can write to it.
    /// - `Unsupported`: its file system is not known to be local, or its locks do not exclude; or `sync=always` was
    ///   asked for where nothing is kept.
    /// - `Unreachable`, `Full`: it cannot be opened or made.
    pub fn open(options: &LocalOptions) -> Result<Self, EngineError> {
        Self::open_with_clock(options, Arc::new(SystemClock))
    }

    /// [`Local::open`] on a clock of your own. Every process of the directory must have the same.
    ///
    /// # Errors
    /// As [`Local::open`].
    pub fn open_with_clock(options: &LocalOptions, clock: Arc<dyn Clock>) -> Result<Self, EngineError> {
        let directory = Arc::new(Directory::open(options)?);
        let shared = Shared {
            clock: Arc::clone(&clock),
            keys: KeyFiles::new(Arc::clone(&directory), clock),
            members: Arc::new(Members::new(Arc::clone(&directory))),
            directory,
            signals: Arc::default(),
            pid: std::process::id(),
            own: OnceLock::new(),
            beginning: Mutex::default(),
            ear: OnceLock::new(),
            outbox: Outbox::default(),
            placed: Mutex::default(),
            bequeathed: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.shared.directory.path
    }

    /// The life of this instance as a descriptor that is *not* closed by `exec`.
    ///
    /// While any process has it open, every hold of this instance stands, also when this process has been killed.
    /// A launcher takes it, spawns the command, and drops it: the lock is then not given to anybody else while the
    /// command still runs, even if the launcher is killed with a signal that cannot be caught.
    ///
    /// - It is inherited by *every* child spawned while it is open, by any thread, and by their children in turn: a
    ///   daemon that the command leaves behind keeps the holds, unless it closes its descriptors.
    /// - A release frees the key at once, whoever still has the descriptor. So does an operator's `break`.
    /// - From this call on, dropping the instance no longer ends its unreleased holds; closing the last copy does.
    /// - Nobody answers for an instance whose process is gone: its waiting places are passed over when their turn
    ///   comes and the claim window has gone by.
    ///
    /// # Errors
    /// When the instance cannot come to life in the directory, or has no descriptor left.
    pub fn bequeath(&self) -> Result<OwnedFd, EngineError> {
        self.shared.living_member(&Identity::of_this_process())?;
        // The member came to life in the line above.
        let Some(member) = self.shared.own.get() else { return Err(self.shared.deleted()) };
        self.shared.bequeathed.store(true, Ordering::Relaxed);
        let path = self.directory();
        member.share().map_err(|error| trouble::system("bequeath the locks of", path, Effect::None, error))
    }
}

impl Engine for Local {
    type Contender = LocalContender;

    fn facts(&self) -> Facts {
        let mut facts = Facts::of_leases("local");
        facts.liveness = Liveness::Process;
        facts.exclusion = match self.shared.directory.trust {
            Trust::Disk | Trust::Memory => Exclusion::Always,
            Trust::None => Exclusion::BestEffort,
        };
        facts.token_durability = match self.shared.directory.sync {
            SyncMode::Clock => TokenDurability::Process,
            SyncMode::Always => TokenDurability::Disk,
        };
        facts.order = Order::Arrival;
        facts.claim_window = CLAIM_WINDOW;
        facts.refresh_every = post::REFRESH_EVERY;
        facts
    }

    fn contend(&self, claim: Claim) -> LocalContender {
        LocalContender::new(Arc::clone(&self.shared), claim)
    }

    /// The line of a key as it is now. Takes no latch, so it also answers while a stopped process has it.
    async fn inspect(&self, key: &Key) -> Result<Line, EngineError> {
        let shared = &self.shared;
        let mut ledger = shared.keys.peek(key)?.unwrap_or_default();
        let terms = shared.terms();
        let mut memo = HashMap::new();
        // The copy is settled, not the line: looking changes nothing.
        ledger.settle(&terms, &mut |id| shared.is_alive(*id, &mut memo));
        let mut cards = HashMap::new();
        let view = |place: &tenure_core::engine::ledger::Place<MemberId>| PlaceView {
            claim: place.claim,
            mode: place.mode,
            standing: Ledger::standing(place, terms.now),
            since: Duration::from_micros(terms.now.saturating_sub(place.since)),
            identity: cards.entry(place.tag).or_insert_with(|| shared.members.identity(place.tag)).clone(),
        };
        Ok(Line {
            key: key.clone(),
            last_token: FencingToken::new(ledger.last_token),
            places: ledger.places.iter().map(view).collect(),
        })
    }

    async fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, EngineError> {
        let shared = &self.shared;
        let failed = |error| trouble::system("list the keys of", &shared.directory.path, Effect::None, error);
        let mut named = Vec::new();
        for entry in Dir::read_from(&shared.directory.keys).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let key = match names::named(name) {
                Some(Named::Key(key)) => key,
                Some(Named::Hashed) => match shared.keys.peek_named(name)? {
                    Some(Peeked { key: Some(key), .. }) if names::file_name(&key) == name => key,
                    _ => continue,
                },
                None => continue,
            };
            if key.as_str().starts_with(prefix) && after.is_none_or(|after| key > *after) {
                named.push(key);
            }
        }
        named.sort_unstable();
        let mut memo = HashMap::new();
        let mut used = Vec::new();
        for key in named {
            if used.len() == limit {
                break;
            }
            let ledger = shared.keys.peek(&key)?.unwrap_or_default();
            if ledger.places.iter().any(|place| shared.is_alive(place.tag, &mut memo)) {
                used.push(key);
            }
        }
        Ok(used)
    }

    async fn evict(&self, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
        let evicted = self
            .shared
            .act(key, Missing::Leave, |ledger, terms, alive| Ok(ledger.evict(claim, terms, alive)))?;
        Ok(evicted.unwrap_or(Withdrawn::Absent))
    }
}

impl Shared {
    /// Lets one verb change a line, and tells those whom it concerned.
    pub(crate) fn act<A>(
        &self,
        key: &Key,
        missing: Missing,
        verb: impl FnOnce(
            &mut Ledger<MemberId>,
            &Terms,
            &mut dyn FnMut(&MemberId) -> bool,
        ) -> Result<(A, Vec<Told<MemberId>>), EngineError>,
    ) -> Result<Option<A>, EngineError> {
        self.check_process()?;
        let mut memo = HashMap::new();
        let mut alive = |id: &MemberId| self.is_alive(*id, &mut memo);
        let acted = self.keys.act(key, missing, |ledger| verb(ledger, &self.terms(), &mut alive))?;
        let Some((answer, told)) = acted else { return Ok(None) };
        for Told { claim, tag, .. } in told {
            if Some(tag) == self.own_id() {
                self.signals.tell(claim, Wake::LookAgain);
            } else {
                self.outbox.send(&self.directory, tag, claim);
            }
        }
        Ok(Some(answer))
    }

    /// The member, which comes to life with its first claim.
    pub(crate) fn living_member(&self, identity: &Identity) -> Result<MemberId, EngineError> {
        if self.own.get().is_none() {
            self.check_process()?;
            let _beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
            if self.own.get().is_none() {
                let member = Member::new(&self.directory, identity)?;
                // One in sixteen tidies up, so that what the killed leave behind stays little.
                if member.id.bits() % 16 == 0 {
                    self.members.sweep();
                }
                let _ = self.own.set(member);
            }
        }
        let now = self.clock.now().boot_micros();
        self.own.get().filter(|own| own.was_linked(now)).map(|own| own.id).ok_or_else(|| self.deleted())
    }

    /// The member, if it has come to life.
    pub(crate) fn member(&self) -> Option<&Member> {
        self.own.get()
    }

    /// Listens for wakes from now on, as well as the system lets us.
    pub(crate) fn open_ear(&self, identity: &Identity) -> Result<(), EngineError> {
        let own = self.living_member(identity)?;
        self.ear.get_or_init(|| Ear::new(&self.members, own, &self.signals));
        Ok(())
    }

    pub(crate) fn placed(&self) -> MutexGuard<'_, HashSet<ClaimId>> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own_id(&self) -> Option<MemberId> {
        self.own.get().map(|own| own.id)
    }

    /// Whether a member lives; asked once per verb and member.
    fn is_alive(&self, id: MemberId, memo: &mut HashMap<MemberId, bool>) -> bool {
        Some(id) == self.own_id() || *memo.entry(id).or_insert_with(|| self.members.is_alive(id))
    }

    fn terms(&self) -> Terms {
        Terms {
            now: self.clock.now().boot_micros(),
            wall_micros: self.clock.wall_micros(),
            window: u64::try_from(CLAIM_WINDOW.as_micros()).unwrap_or(u64::MAX),
            expiry: Expiry::Owner,
        }
    }

    fn check_process(&self) -> Result<(), EngineError> {
        if std::process::id() == self.pid {
            return Ok(());
        }
        let what = "was opened before a fork: open it again in the child";
        Err(trouble::unsupported(&self.directory.path, what))
    }

    fn deleted(&self) -> EngineError {
        let message = format!(
            "somebody has deleted the file of this process in {}: open the directory again",
            self.directory.path.join("members").display()
        );
        EngineError::new(EngineErrorKind::Unreachable, Effect::None, Retry::Useless, message)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            // A forked child must neither end its parent's life nor stop its ear.
            if let Some(ear) = self.ear.take().flatten() {
                std::mem::forget(ear);
            }
            return;
        }
        drop(self.ear.take());
        let Some(own) = self.own.take() else { return };
        if self.placed().is_empty() {
            // Nobody waits for us: without its name the file is closed silently.
            self.members.forget(own.id);
        } else if self.bequeathed.load(Ordering::Relaxed) {
            return;
        }
        own.die();
    }
}
