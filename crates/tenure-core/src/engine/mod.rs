//! The contract between `tenure` and an engine: all that an engine has to write.
//!
//! The contract is for those who write engines; users meet `Lock`, `RwLock` and `Semaphore`. It has no default
//! methods: a wrapper that forgets a verb must not compile.
//!
//! # The rules
//! Each has a case of its name in the conformance suite.
//! 1. Every verb names the claim, never only the key. A repeated or delayed verb is harmless; a release can never hit
//!    somebody else.
//! 2. [`Contender::attempt`] is idempotent: it never makes a second place. A place that is not re-attempted within the
//!    engine's own bound expires, so that a dead waiter does not block the line.
//! 3. [`Contender::changed`] is a hint: cancel-safe and level-triggered. Spurious wakes are allowed; a lost wake is
//!    bounded by the keeper's own look. Where the engine grants inside a release, the wake may be the grant; a grant
//!    that nobody confirms (by attempt or renew) lapses after [`Facts::claim_window`].
//! 4. [`Contender::renew`] proves the hold now, and never creates one.
//! 5. [`Contender::withdraw`] is legal in every state and idempotent. When an attempt of the claim may still be on its
//!    way ([`Stray::Possible`]) it leaves a tombstone for one term, which refuses that attempt.
//! 6. Tokens rise strictly per key over all grants, to the durability that [`Facts`] state.
//! 7. [`Effect::None`] only when it is certain that nothing was applied.
//! 8. Expiry is judged by the engine's clock. No client's wall clock is stored or compared in shared state.
//!
//! Every verb is cancel-safe: dropping its future leaves it unknown whether it was applied, and the contender can be
//! asked again. The keeper does not wait for an answer longer than it is worth having.
//!
//! Two contenders for the same claim may exist at once, one on the caller's lane and one on the keeper's; verbs name
//! the claim, so the two need no order between them.

pub mod answers;
pub mod distant;
mod erased;
mod error;
pub mod inbox;
pub mod ledger;
pub mod line;
pub mod links;
pub mod memory;
pub mod signals;
mod trouble;
pub mod url;

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use erased::{DynContender, DynEngine};
pub use error::{Effect, EngineError, EngineErrorKind, Retry};
pub use trouble::Trouble;

use crate::lease::{Lease, Moment};
use crate::{Claim, ClaimId, FencingToken, Identity, Key, Mode, TokenBlock};

/// Shared storage that keeps the line of each key.
pub trait Engine: Send + Sync + Debug + 'static {
    /// What speaks for one claim.
    type Contender: Contender;

    /// What this engine, as configured, can promise.
    fn facts(&self) -> Facts;

    /// Something that can speak for the claim. Does no I/O.
    fn contend(&self, claim: Claim) -> Self::Contender;

    /// The line of a key as it is now; changes nothing.
    fn inspect(&self, key: &Key) -> impl Future<Output = Result<Line, EngineError>> + Send;

    /// The keys that begin with `prefix`, have a line and come after `after`, in order, at most `limit` of them.
    fn keys(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Key>, EngineError>> + Send;

    /// Takes a claim out of the line in the name of an operator, and tells its owner as soon as it can.
    fn evict(&self, key: &Key, claim: ClaimId)
    -> impl Future<Output = Result<Withdrawn, EngineError>> + Send;
}

/// Speaks for one claim at an engine.
pub trait Contender: Send + 'static {
    /// Joins the line, looks again, and keeps the place alive.
    ///
    /// # Cancel safety
    /// Safe: the same attempt may be made again. Whether the dropped one was applied is unknown.
    fn attempt(&mut self) -> impl Future<Output = Result<Attempt, EngineError>> + Send;

    /// Waits until something may have changed for the claim since this contender's last attempt or renewal.
    ///
    /// The first call on a contender that has not looked yet may return [`Wake::LookAgain`] at once.
    ///
    /// # Cancel safety
    /// Safe: what one call would have reported, the next one reports.
    fn changed(&mut self) -> impl Future<Output = Result<Wake, EngineError>> + Send;

    /// Proves the hold now and keeps it for another term; confirms a grant that came as a wake.
    fn renew(&mut self) -> impl Future<Output = Result<Renewal, EngineError>> + Send;

    /// A fresh token for the hold, above every token of the key, written as durably as that of a grant, and as many
    /// spare ones as the claim of this contender asks for.
    fn restamp(&mut self) -> impl Future<Output = Result<Restamp, EngineError>> + Send;

    /// Takes the claim out of the line, whatever its state.
    fn withdraw(&mut self, stray: Stray) -> impl Future<Output = Result<Withdrawn, EngineError>> + Send;
}

/// What an attempt found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "the keeper must answer every outcome")]
pub enum Attempt {
    /// The claim holds.
    Granted(Grant),
    /// The claim waits in the line.
    Waiting(Waiting),
    /// The key is busy, and the claim did not want to wait. Nothing was left behind.
    Busy(Waiting),
    /// The claim was taken out of the line before, and can never hold.
    Gone(Gone),
}

/// A claim that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The claim; a reply that names another one than was asked for is a protocol error.
    pub claim: ClaimId,
    /// The token of the hold, with those reserved for handovers.
    pub tokens: TokenBlock,
    /// Which of the `limit` permits it is, from zero; zero for other modes.
    pub slot: u32,
    /// For how long, counted from before the request; of a grant that came as a wake, from before the last attempt
    /// that was answered with [`Attempt::Waiting`].
    pub validity: Validity,
}

/// For how long a hold is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "guards must judge every kind")]
pub enum Validity {
    /// For this long, unless renewed. It includes the quarantine that was asked for.
    Lease(Duration),
    /// As long as the process that holds it lives: the kernel guards it.
    Lifetime,
}

impl Validity {
    /// The lease that an answer to a request sent at `sent` gives: without the quarantine, on which the holder must
    /// not count. None for a hold that cannot expire.
    pub(crate) fn lease(self, sent: Moment, quarantine: Duration) -> Option<Lease> {
        match self {
            Self::Lease(granted) => Some(Lease::new(sent, granted.saturating_sub(quarantine))),
            Self::Lifetime => None,
        }
    }
}

/// A claim that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// How many places are before it.
    pub ahead: usize,
    /// When the next deadline before it ends by the engine's clock, if there is one: a good time to look again.
    pub look_in: Option<Duration>,
    /// The highest token of the key when the claim was seen to wait; zero when there is none. A grant that comes as a
    /// wake with a higher token is certainly younger than this answer; with a lower one it is a late wake for a place
    /// that has lapsed, and worth nothing.
    pub last_token: u64,
}

/// What a waiter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "the keeper must answer every wake")]
pub enum Wake {
    /// The claim holds; confirm it by renewing.
    Granted(Grant),
    /// Something may have changed.
    LookAgain,
}

/// What a renewal proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "the keeper must answer every outcome")]
pub enum Renewal {
    /// The hold stands, for this long from before the request.
    Renewed(Validity),
    /// The claim does not hold, for ever.
    Gone(Gone),
}

/// What asking for a fresh token gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "the keeper must answer every outcome")]
pub enum Restamp {
    /// The fresh token, with spare ones.
    Fresh(TokenBlock),
    /// The claim does not hold, for ever.
    Gone(Gone),
}

/// Why a claim is no longer in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "the keeper maps each to a cause of loss")]
pub enum Gone {
    /// It was withdrawn by its client.
    Withdrawn,
    /// An operator took it out.
    Evicted,
    /// The engine does not know it: it has expired, or was forgotten.
    Absent,
}

/// Whether an attempt of the claim may still arrive after its withdrawal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "engines must answer both")]
pub enum Stray {
    /// Every attempt was answered: none is on its way.
    Impossible,
    /// One was sent and not answered: leave a tombstone.
    Possible,
}

/// What a withdrawal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "a release must tell these apart")]
pub enum Withdrawn {
    /// The claim held until now.
    Held,
    /// The claim waited.
    Waited,
    /// The claim was not in the line.
    Absent,
}

/// The line of a key, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The key.
    pub key: Key,
    /// The last token that the engine remembers.
    pub last_token: Option<FencingToken>,
    /// The places in order.
    pub places: Vec<PlaceView>,
}

/// One place of a line, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceView {
    /// The claim.
    pub claim: ClaimId,
    /// Its mode.
    pub mode: Mode,
    /// What it does.
    pub standing: Standing,
    /// Since when it does, before now.
    pub since: Duration,
    /// Who claims, as far as the engine knows.
    pub identity: Option<Arc<Identity>>,
}

/// What a place does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "a place waits or holds")]
pub enum Standing {
    /// It waits.
    Waits,
    /// It holds.
    Holds {
        /// With this token.
        token: FencingToken,
        /// Which permit it is.
        slot: u32,
        /// Until it expires, if it can.
        expires_in: Option<Duration>,
    },
}

/// What an engine, as configured, can promise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// The engine's name, as in its URLs.
    pub engine: &'static str,
    /// What frees the key of a holder that vanished.
    pub liveness: Liveness,
    /// When two holders are possible.
    pub exclusion: Exclusion,
    /// What the order of tokens survives.
    pub token_durability: TokenDurability,
    /// Whose numbers the tokens are.
    pub token_origin: TokenOrigin,
    /// In which order waiters are granted.
    pub order: Order,
    /// Whether there are semaphores.
    pub permits: Permits,
    /// For how long a grant waits for the waiter to confirm it.
    pub claim_window: Duration,
    /// How often a waiting place must be attempted again.
    pub refresh_every: Duration,
    /// What users should know of this very server, such as a known bug of its version; for people.
    pub cautions: Vec<String>,
}

impl Facts {
    /// The facts of an engine whose places expire by lease, in order of arrival, with volatile tokens; change what
    /// differs.
    #[must_use]
    pub fn of_leases(engine: &'static str) -> Self {
        Self {
            engine,
            liveness: Liveness::Lease,
            exclusion: Exclusion::WithinClockRates,
            token_durability: TokenDurability::Volatile,
            token_origin: TokenOrigin::Line,
            order: Order::Arrival,
            permits: Permits::Kept,
            claim_window: Duration::from_secs(3),
            refresh_every: Duration::from_secs(1),
            cautions: Vec::new(),
        }
    }
}

/// What frees the key of a holder that vanished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Liveness {
    /// Its lease runs out.
    Lease,
    /// The kernel notices that its process has ended.
    Process,
    /// The server notices that its session has ended.
    Session,
}

/// When two holders are possible at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exclusion {
    /// Never while the operating system keeps its word; only an operator's `break` ends a living hold.
    Always,
    /// Never while clocks run at nearly the same rate (1 %) and the engine keeps what it has acknowledged.
    WithinClockRates,
    /// A failover may let two in; only the token refuses the loser.
    BestEffort,
}

/// What the order of tokens survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenDurability {
    /// Nothing is kept: after a restart, the engine's clock keeps them rising.
    Volatile,
    /// A crash of any process; after a power cut, the clock keeps them rising.
    Process,
    /// A power cut: each token is on disk before its grant is reported.
    Disk,
    /// The loss of a minority of servers.
    Quorum,
}

/// Whose numbers the tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenOrigin {
    /// Numbers that the line of the key keeps; the next one can be above anything that a client has seen.
    Line,
    /// The engine's own revision, which nobody can raise. A client that has seen a higher token, as after a restore of
    /// an old backup, is refused a grant.
    Revision,
}

/// In which order waiters are granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// In order of arrival.
    Arrival,
    /// In no particular order.
    Any,
}

/// Whether there are semaphores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Permits {
    /// There are never more permits than the limit.
    Kept,
    /// A claim for a permit is refused: nothing would bound how many are held.
    Refused,
}
