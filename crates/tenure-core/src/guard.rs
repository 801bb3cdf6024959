//! The guard: who has it may act.
//!
//! A guard cannot be cloned, and a release consumes it: the guard is the ownership, whatever thread or task it is on.

use std::fmt;
use std::time::{Duration, Instant};

use crate::event::{Via, What};
use crate::handover::Grip;
use crate::hold::Hold;
use crate::keeper::rings;
use crate::lease::Moment;
use crate::{ClaimId, Error, FencingToken, Key, Loss, LossCause, Released};

/// The part of `until` that [`Guard::run`] leaves unused, so that dropping the work takes place inside the lease.
const GRACE_SHARE: u32 = 20;
const GRACE_MAX: Duration = Duration::from_millis(100);

/// A hold. It is renewed as long as the guard lives, and given up when the guard is dropped.
///
/// # Guarantees
/// While [`Guard::is_held`] says so, nobody else holds the key in a way that excludes this hold, under the
/// assumptions that the engine's [`Facts`](crate::engine::Facts) state. That proves nothing about the next
/// instruction: a process may be paused between the check and the act. A resource that checks [`Guard::token`] is
/// protected even then.
///
/// Dropping a guard waits for no answer, and the hold is given up whatever becomes of the caller, its task and its
/// runtime. On the tokio runtime on which the guard was acquired, its withdrawal goes out before whatever is asked for
/// next; an engine that has no server does its few microseconds of work in the drop. Anywhere else, and while a thread
/// unwinds, the keeper withdraws the hold in the background; it also does when the runtime has not heard an answer
/// after 100 ms, or has ended. A process that ends at once after the drop may end before that:
/// [`Tenure::shutdown`](crate::Tenure::shutdown) waits. [`Guard::release`] waits for the answer, and says whether the
/// hold was still yours.
#[must_use = "a guard that is dropped at once gives the lock up at once"]
pub struct Guard {
    grip: Grip,
}

impl Guard {
    /// A guard for a caller that has waited since `since`.
    pub(crate) fn new(mut grip: Grip, max_hold: Option<Duration>, since: Moment) -> Self {
        grip.taken_here();
        // With a hold that was passed on comes the longest hold of its new guard.
        if grip.passed.is_none() && max_hold.is_some() {
            grip.hold.set_max_hold(max_hold);
        }
        if grip.hold.shared.is_observed() {
            let now = grip.hold.shared.clock.now();
            let via = grip.passed.map_or(Via::Engine, |passed| Via::Handover { gap: now.since(passed) });
            grip.hold.emit(What::Granted { token: grip.token, waited: now.since(since), via });
        }
        Self { grip }
    }

    /// The key that is held.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.hold().claim.key
    }

    /// The name of the claim, as operators see it.
    #[must_use]
    pub fn claim(&self) -> ClaimId {
        self.hold().claim.id
    }

    /// The fencing token of this hold.
    ///
    /// # Guarantees
    /// Higher than the token of every hold of the key before it.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.grip.token
    }

    /// Which permit this is, from zero; zero for locks without permits. Fence permits per slot.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.hold().slot
    }

    /// Whether the hold stands, judged by this machine's clocks. Does no I/O.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.check().is_ok()
    }

    /// As [`Guard::is_held`], with the loss as an error, for `?`.
    ///
    /// # Errors
    /// The [`Loss`], if the hold has ended.
    pub fn check(&self) -> Result<(), Loss> {
        self.hold().check()
    }

    /// How long the hold lasts unless it is renewed; none when it lasts as long as this process.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let until = self.hold().until()?;
        Some(if self.is_held() { self.hold().shared.clock.now().until(until) } else { Duration::ZERO })
    }

    /// Until when the hold lasts unless it is renewed; none when it lasts as long as this process.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "callers count in instants of the standard library")]
    pub fn until(&self) -> Option<Instant> {
        self.remaining().map(|remaining| Instant::now() + remaining)
    }

    /// As [`Guard::until`], on the clocks by which the hold is judged; other processes of the machine share them, so
    /// that a referee can compare the claims of several. Of a hold that has ended, when it would have ended by itself.
    #[must_use]
    pub fn until_moment(&self) -> Option<Moment> {
        self.hold().until()
    }

    /// Waits until the hold is lost.
    ///
    /// # Guarantees
    /// Returns no later than the end of the lease, even when the engine is silent.
    ///
    /// # Cancel safety
    /// Safe: a loss is final, and is reported to whoever asks later.
    pub async fn lost(&self) -> Loss {
        self.hold().lost().await
    }

    /// Asks the engine now whether the hold stands; good after a pause, when nobody could be told of a loss.
    ///
    /// # Errors
    /// When the engine cannot be asked. The hold then stands for as long as [`Guard::is_held`] says.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn verify(&self) -> Result<Result<(), Loss>, Error> {
        use crate::engine::Renewal;
        if let Err(loss) = self.check() {
            return Ok(Err(loss));
        }
        let (shared, claim) = (&self.hold().shared, &self.hold().claim);
        let sent = shared.clock.now();
        let renewal = shared.engine.contend(claim.clone()).renew().await;
        match renewal
            .map_err(|error| Error::of_engine(shared.facts.engine, "verify", Some(&claim.key), error))?
        {
            Renewal::Renewed(validity) => {
                self.hold().extend(sent, validity);
            }
            Renewal::Gone(gone) => {
                self.hold().lose(gone.into());
            }
        }
        Ok(self.check())
    }

    /// Runs work that ends with the hold: if the hold is lost, the work is dropped, before the lease has ended.
    ///
    /// # Errors
    /// The [`Loss`] that ended the work.
    ///
    /// # Cancel safety
    /// As safe as the work is.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, Loss> {
        let mut work = std::pin::pin!(work);
        loop {
            let deadline = self.hold().deadline();
            let alarm = deadline.map(|(at, cause)| {
                let shared = &self.hold().shared;
                let grace = match cause {
                    LossCause::Expired => (self.hold().claim.ttl.duration() / GRACE_SHARE).min(GRACE_MAX),
                    // Nobody else is let in at the end of the longest hold.
                    _ => Duration::ZERO,
                };
                let now = shared.clock.now();
                shared.keeper.alarm(now.after(now.until(at).saturating_sub(grace)))
            });
            tokio::select! {
                biased;
                loss = self.hold().lost() => return Err(loss),
                done = &mut work => return Ok(done),
                () = rings(alarm.as_ref()) => {
                    if self.hold().deadline() == deadline
                        && let Some((_, cause)) = deadline
                    {
                        self.hold().lose(cause);
                    }
                }
            }
        }
    }

    /// Gives the hold up and waits until it is free, or passed on inside this process.
    ///
    /// # Errors
    /// When the engine cannot be told. The keeper goes on telling it in the background; the hold is yours no more.
    ///
    /// # Cancel safety
    /// Safe: dropped in between, the keeper finishes the withdrawal.
    pub async fn release(self) -> Result<Released, Error> {
        self.grip.release().await
    }

    fn hold(&self) -> &Hold {
        &self.grip.hold
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("key", self.key())
            .field("claim", &self.claim())
            .field("token", &self.token())
            .field("held", &self.is_held())
            .finish()
    }
}
