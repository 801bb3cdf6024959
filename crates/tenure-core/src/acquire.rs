//! From a wish to a hold: the caller's lane.
//!
//! The acquiring future itself drives `attempt` and `changed`, so that a lock costs no thread hop. What must not
//! depend on the caller is left to the keeper: refreshing the place while the caller's runtime is blocked, timers,
//! and the withdrawal when the future is dropped.
//!
//! # Invariants
//! 1. A [`Pending`] exists before the first request; dropped unsettled, it has its claim withdrawn.
//! 2. Each attempt is stamped before it is sent, and its answer is judged by that stamp.
//! 3. A wake is a hint: only a grant, or an attempt after the wake, makes a hold.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{
    Attempt, DynContender, Effect, EngineError, EngineErrorKind, Gone, Grant, Retry, Validity, Waiting, Wake,
};
use crate::event::What;
use crate::flaw::{self, Flaw};
use crate::hold::Hold;
use crate::keeper::{Alarm, rings};
use crate::lease::{Lease, Moment};
use crate::shared::Shared;
use crate::strays::Strays;
use crate::waiting::{News, Wait};
use crate::{Claim, Error, ErrorKind, IfBusy, TokenSource, keeping, withdrawal};

/// How often an attempt is made again because its grant came too late to be worth having.
const LATE_GRANTS_MAX: u32 = 10;

/// A claim that was or may have been sent, and does not hold yet.
pub(crate) struct Pending {
    shared: Arc<Shared>,
    claim: Claim,
    strays: Strays,
    wait: Option<Arc<Wait>>,
    /// Speaks for the claim on the caller's lane; taken out while it does.
    contender: Option<Box<dyn DynContender>>,
    /// Whether anything was sent: a claim that never was needs no withdrawal.
    sent: bool,
}

/// How an acquisition ended.
pub(crate) enum Settled {
    Held(Arc<Hold>),
    /// Busy or timed out, with how many places were ahead.
    GaveUp(usize),
}

/// One step of an acquisition.
enum Step {
    Held(Arc<Hold>),
    Waits(usize),
    LookAgain,
    /// A grant with too little validity left to be worth having.
    Late,
    GivesUp(usize),
    Gone(Gone),
    Failed(EngineError),
}

/// How a pause ended.
enum Paused {
    Done,
    TimedOut,
}

impl Pending {
    pub(crate) fn new(shared: Arc<Shared>, claim: Claim) -> Self {
        Self { shared, claim, strays: Strays::default(), wait: None, contender: None, sent: false }
    }

    /// Drives the claim until it holds, is given up, or fails. Dropped in between, it goes on where it was when it
    /// is driven again.
    pub(crate) async fn settle(&mut self, deadline: Option<Moment>) -> Result<Settled, Error> {
        let alarm = deadline.map(|at| self.shared.keeper.alarm(at));
        let mut trouble = Trouble::default();
        let mut late = 0;
        let mut step = self.attempt().await;
        loop {
            step = match step {
                Step::Held(hold) => return Ok(Settled::Held(hold)),
                Step::GivesUp(ahead) => return Ok(Settled::GaveUp(ahead)),
                Step::Gone(gone) => return Err(self.gone(gone)),
                Step::Late => {
                    late += 1;
                    if late > LATE_GRANTS_MAX {
                        return Err(self.too_slow());
                    }
                    // The same attempt again keeps the place and gives the same hold a fresh stamp.
                    self.attempt().await
                }
                Step::LookAgain => self.attempt().await,
                Step::Waits(ahead) => {
                    trouble = Trouble::default();
                    if deadline.is_some_and(|at| self.shared.clock.now().reached(at)) {
                        return Ok(Settled::GaveUp(ahead));
                    }
                    self.wait(alarm.as_ref()).await
                }
                Step::Failed(error) => {
                    let Some(pause) = self.weather(&mut trouble, &error) else {
                        return Err(self.error(error));
                    };
                    match sleep(&self.shared, pause, alarm.as_ref()).await {
                        Paused::Done => self.attempt().await,
                        // Nobody knows whether the key is busy.
                        Paused::TimedOut => return Err(self.error(error)),
                    }
                }
            };
        }
    }

    /// One attempt on the caller's lane.
    async fn attempt(&mut self) -> Step {
        self.sent = true;
        let mut contender = self.take_contender();
        let sent = self.shared.clock.now();
        let under_way = self.strays.sent();
        let answer = tokio::select! {
            biased;
            answer = contender.attempt() => answer,
            error = no_answer(&self.shared, &self.claim, sent) => Err(error),
        };
        if !matches!(&answer, Err(error) if error.effect() == Effect::Unknown) {
            under_way.answered();
        }
        self.contender = Some(contender);
        match answer {
            Ok(Attempt::Granted(grant)) => self.granted(grant, sent),
            Ok(Attempt::Waiting(waiting)) => self.waiting(sent, waiting),
            Ok(Attempt::Busy(waiting)) => {
                self.sent = false;
                Step::GivesUp(waiting.ahead)
            }
            Ok(Attempt::Gone(gone)) => Step::Gone(gone),
            Err(error) => Step::Failed(error),
        }
    }

    /// Waits for a wake, the keeper's news or the deadline.
    async fn wait(&mut self, alarm: Option<&Alarm>) -> Step {
        let Some(wait) = self.wait.clone() else { return Step::LookAgain };
        let mut contender = self.take_contender();
        let wake = tokio::select! {
            biased;
            news = wait.news() => return match news {
                News::Granted(grant, sent) => self.granted(grant, sent),
                News::Gone(gone) => Step::Gone(gone),
                News::Unreachable => Step::LookAgain,
            },
            wake = contender.changed() => wake,
            () = rings(alarm) => return Step::GivesUp(wait.ahead()),
        };
        self.contender = Some(contender);
        match wake.map(|wake| believe(wake, &self.claim)) {
            Ok(Wake::LookAgain) => Step::LookAgain,
            Ok(Wake::Granted(grant)) => self.pushed(grant, &wait),
            Err(_) => {
                // Pushes are broken for now. The keeper's own look goes on; ours must not spin.
                let pause = self.shared.jitter(Duration::from_millis(100));
                match sleep(&self.shared, self.shared.clock.now().after(pause), alarm).await {
                    Paused::Done => Step::LookAgain,
                    Paused::TimedOut => Step::GivesUp(wait.ahead()),
                }
            }
        }
    }

    /// A grant that came as a wake. With a token above that of the last answer it is younger than that answer, so its
    /// validity counts from there; otherwise it was meant for a place that has lapsed since.
    fn pushed(&mut self, grant: Grant, wait: &Wait) -> Step {
        let (sent, last_token) = wait.last_waiting();
        // An offer stands for the claim window, which has no quarantine in it. Once it is confirmed, the engine counts
        // the TTL from the confirmation on, which may end before the window would have.
        let offered = match grant.validity {
            Validity::Lease(window) => Validity::Lease(window.min(self.claim.ttl.duration())),
            Validity::Lifetime => Validity::Lifetime,
        };
        let lease = offered.lease(sent, Duration::ZERO);
        if grant.tokens.first.get() <= last_token || self.is_late(lease) {
            return Step::LookAgain;
        }
        match self.hold(grant, lease) {
            Ok(hold) => {
                // The offer stands only for the claim window: whoever keeps the hold confirms it first.
                hold.confirm_soon();
                keeping::adopt_soon(&hold);
                Step::Held(hold)
            }
            Err(error) => Step::Failed(error),
        }
    }

    /// A grant that answered an attempt sent at `sent`.
    fn granted(&mut self, grant: Grant, sent: Moment) -> Step {
        let sent = if flaw::planted(Flaw::ValidityFromReply) { self.shared.clock.now() } else { sent };
        let lease = grant.validity.lease(sent, self.claim.quarantine);
        if self.is_late(lease) {
            self.shared.emit(&self.claim, What::GrantedLate);
            return Step::Late;
        }
        match self.hold(grant, lease) {
            Ok(hold) => {
                keeping::adopt_soon(&hold);
                Step::Held(hold)
            }
            Err(error) => Step::Failed(error),
        }
    }

    /// Whether too little validity is left to be worth having.
    fn is_late(&self, lease: Option<Lease>) -> bool {
        lease.is_some_and(|lease| lease.is_late(self.shared.clock.now()))
    }

    fn hold(&mut self, grant: Grant, lease: Option<Lease>) -> Result<Arc<Hold>, EngineError> {
        if grant.claim != self.claim.id {
            let message = format!("asked for claim {} and was answered for {}", self.claim.id, grant.claim);
            return Err(EngineError::new(
                EngineErrorKind::Protocol,
                Effect::Unknown,
                Retry::Useless,
                message,
            ));
        }
        self.end_wait();
        self.sent = false;
        self.shared.saw(grant.tokens.last());
        let (shared, strays) = (Arc::clone(&self.shared), self.strays.clone());
        let contender = self.contender.take();
        Ok(Arc::new(Hold::new(shared, self.claim.clone(), &grant, lease, strays, contender)))
    }

    fn take_contender(&mut self) -> Box<dyn DynContender> {
        self.contender.take().unwrap_or_else(|| self.shared.engine.contend(self.claim.clone()))
    }

    fn waiting(&mut self, sent: Moment, waiting: Waiting) -> Step {
        if let Some(wait) = &self.wait {
            wait.still_waiting(sent, waiting);
            if waiting.look_in.is_some() {
                wait.plan_refresh();
            }
        } else {
            self.shared.emit(&self.claim, What::Waiting { ahead: waiting.ahead });
            let (shared, claim) = (Arc::clone(&self.shared), self.claim.clone());
            let wait = Arc::new(Wait::new(shared, claim, self.strays.clone(), sent, waiting));
            wait.plan_refresh();
            self.wait = Some(wait);
        }
        Step::Waits(waiting.ahead)
    }

    fn withdraw(&mut self) {
        self.end_wait();
        if std::mem::take(&mut self.sent) {
            withdrawal::order(&self.shared, self.claim.clone(), self.strays.stray());
        }
    }

    fn end_wait(&mut self) {
        if let Some(wait) = self.wait.take() {
            wait.finish();
        }
    }

    /// How long to pause after a failed attempt; none to give up. An engine that cannot be reached is an answer that
    /// the caller must hear, so retries end after one term.
    fn weather(&self, trouble: &mut Trouble, error: &EngineError) -> Option<Moment> {
        let now = self.shared.clock.now();
        let since = *trouble.since.get_or_insert(now);
        let patient = self.claim.if_busy == IfBusy::Join && now.since(since) < self.claim.ttl.duration();
        if error.retry() == Retry::Useless || !patient {
            return None;
        }
        trouble.pause = (trouble.pause * 2).clamp(Duration::from_millis(5), Duration::from_secs(1));
        Some(now.after(self.shared.jitter(trouble.pause)))
    }

    fn error(&self, error: EngineError) -> Error {
        Error::of_engine(self.shared.facts.engine, "lock", Some(&self.claim.key), error)
    }

    fn gone(&self, gone: Gone) -> Error {
        let key = &self.claim.key;
        match gone {
            Gone::Evicted => {
                Error::new(ErrorKind::Evicted, format!("the wait for {key:?} was ended by an operator"))
            }
            Gone::Withdrawn | Gone::Absent => {
                let message = format!("claim {} on {key:?} was withdrawn while it waited", self.claim.id);
                Error::new(ErrorKind::Protocol, message)
            }
        }
    }

    fn too_slow(&self) -> Error {
        let (engine, key, ttl) = (self.shared.facts.engine, &self.claim.key, self.claim.ttl);
        let message =
            format!("{engine}: answers take too long for a TTL of {ttl} on {key:?}: use a longer one");
        Error::new(ErrorKind::Unreachable, message)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// How long attempts have been failing.
#[derive(Default)]
struct Trouble {
    since: Option<Moment>,
    pause: Duration,
}

/// Sleeps at the keeper until a moment, or until the deadline if that comes first.
async fn sleep(shared: &Arc<Shared>, until: Moment, deadline: Option<&Alarm>) -> Paused {
    let pause = shared.keeper.alarm(until);
    tokio::select! {
        biased;
        () = rings(deadline) => Paused::TimedOut,
        () = pause.rings() => Paused::Done,
    }
}

/// The error of an attempt that was not answered within one TTL: a later answer is worth nothing. Costs nothing while
/// the answer is there at once.
async fn no_answer(shared: &Arc<Shared>, claim: &Claim, sent: Moment) -> EngineError {
    shared.keeper.alarm(sent.after(claim.ttl.duration())).rings().await;
    let message = format!("no answer within one TTL of {}", claim.ttl);
    EngineError::new(EngineErrorKind::Unreachable, Effect::Unknown, Retry::Useless, message)
}

/// Passes a wake on, or, with [`Flaw::WakeWithoutRecheck`], takes it for a grant.
fn believe(wake: Wake, claim: &Claim) -> Wake {
    if !flaw::planted(Flaw::WakeWithoutRecheck) {
        return wake;
    }
    let Some(tokens) = (TokenSource { last: 0, clock_micros: 1, floor: claim.floor }).next(0) else {
        return wake;
    };
    Wake::Granted(Grant { claim: claim.id, tokens, slot: 0, validity: Validity::Lease(claim.term()) })
}
