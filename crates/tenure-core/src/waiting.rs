//! A waiting claim, as its two lanes share it: the caller listens for wakes, the keeper keeps the place alive.
//!
//! # Invariants
//! 1. While the wait is not over, the keeper has a note for its next look, or is looking.
//! 2. A look that hangs ends within one TTL, and one that fails is told to the caller.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use crate::Claim;
use crate::engine::{Attempt, Effect, EngineError, EngineErrorKind, Gone, Grant, Retry, Waiting};
use crate::keeper::{Due, Ticket};
use crate::lease::Moment;
use crate::shared::Shared;
use crate::strays::Strays;

/// What the two lanes of a waiting claim share.
pub(crate) struct Wait {
    pub(crate) shared: Arc<Shared>,
    pub(crate) claim: Claim,
    pub(crate) strays: Strays,
    state: Mutex<WaitState>,
    /// Notified when there is news, and when the wait is over.
    nudge: Notify,
}

struct WaitState {
    news: Option<News>,
    last_waiting: Moment,
    waiting: Waiting,
    over: bool,
    ticket: Option<Ticket>,
}

impl WaitState {
    /// The news. What decides the claim stays; that the keeper's look has failed is news only once.
    fn take_news(&mut self) -> Option<News> {
        match self.news {
            Some(News::Unreachable) => self.news.take(),
            news => news,
        }
    }
}

/// What the keeper's lane found.
#[derive(Clone, Copy)]
pub(crate) enum News {
    Granted(Grant, Moment),
    Gone(Gone),
    /// Its look has failed: the caller's lane must look for itself, and say so if that goes on.
    Unreachable,
}

impl Wait {
    pub(crate) fn new(
        shared: Arc<Shared>,
        claim: Claim,
        strays: Strays,
        sent: Moment,
        waiting: Waiting,
    ) -> Self {
        let state = WaitState { news: None, last_waiting: sent, waiting, over: false, ticket: None };
        Self { shared, claim, strays, state: Mutex::new(state), nudge: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, WaitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn still_waiting(&self, sent: Moment, waiting: Waiting) {
        let mut state = self.state();
        if sent.reached(state.last_waiting) {
            state.last_waiting = sent;
            state.waiting = waiting;
        }
    }

    fn granted(&self, grant: Grant, sent: Moment) {
        self.state().news = Some(News::Granted(grant, sent));
        self.nudge.notify_waiters();
    }

    fn gone(&self, gone: Gone) {
        self.state().news = Some(News::Gone(gone));
        self.nudge.notify_waiters();
    }

    fn unreachable(&self) {
        self.state().news.get_or_insert(News::Unreachable);
        self.nudge.notify_waiters();
    }

    fn is_over(&self) -> bool {
        self.state().over
    }

    /// Waits until nobody waits any more.
    async fn over(&self) {
        loop {
            let nudge = self.nudge.notified();
            if self.state().over {
                return;
            }
            nudge.await;
        }
    }

    /// Leaves the keeper a note for the next look: when the engine wants one, and when a deadline ahead has passed.
    pub(crate) fn plan_refresh(self: &Arc<Self>) {
        let now = self.shared.clock.now();
        let every = self.shared.facts.refresh_every;
        // Those who look because it is time do so together: an engine can make one request of it.
        let in_time = now.again_together(every, self.shared.phase);
        let at = match self.state().waiting.look_in {
            // A little later than the deadline itself, or the look would come too early.
            Some(look_in) => in_time.earliest(now.after(look_in + Duration::from_millis(1))),
            None => in_time,
        };
        let ticket = self.shared.keeper.note(at, Arc::clone(self) as _);
        let mut state = self.state();
        let stale = state.ticket.replace(ticket);
        let over = state.over;
        drop(state);
        let stale = if over { Some(ticket) } else { stale };
        if let Some(stale) = stale {
            self.shared.keeper.forget(stale);
        }
    }

    pub(crate) fn finish(&self) {
        let ticket = {
            let mut state = self.state();
            state.over = true;
            state.ticket.take()
        };
        if let Some(ticket) = ticket {
            self.shared.keeper.forget(ticket);
        }
        self.nudge.notify_waiters();
    }

    /// When the last attempt was sent that was answered with Waiting, and the key's last token in that answer.
    pub(crate) fn last_waiting(&self) -> (Moment, u64) {
        let state = self.state();
        (state.last_waiting, state.waiting.last_token)
    }

    pub(crate) fn ahead(&self) -> usize {
        self.state().waiting.ahead
    }

    pub(crate) async fn news(&self) -> News {
        loop {
            let nudge = self.nudge.notified();
            if let Some(news) = self.state().take_news() {
                return news;
            }
            nudge.await;
        }
    }
}

impl Due for Wait {
    fn task(self: Arc<Self>) -> Option<BoxFuture<'static, ()>> {
        Some(refresh(self).boxed())
    }
}

/// Keeps a waiting place alive with one attempt on the keeper's lane, and plans the next.
async fn refresh(wait: Arc<Wait>) {
    let shared = Arc::clone(&wait.shared);
    if wait.is_over() {
        return;
    }
    let mut contender = shared.engine.contend(wait.claim.clone());
    let sent = shared.clock.now();
    let under_way = wait.strays.sent();
    let answer = tokio::select! {
        biased;
        () = wait.over() => return,
        answer = contender.attempt() => answer,
        // Nothing else looks after the place while this look hangs.
        () = shared.keeper.sleep_until(sent.after(wait.claim.ttl.duration())) => {
            let message = "no answer within one TTL";
            Err(EngineError::new(EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth, message))
        }
    };
    match answer {
        Ok(Attempt::Waiting(waiting)) => {
            under_way.answered();
            wait.still_waiting(sent, waiting);
            wait.plan_refresh();
        }
        Ok(Attempt::Granted(grant)) => {
            under_way.answered();
            wait.granted(grant, sent);
        }
        Ok(Attempt::Gone(gone)) => {
            under_way.answered();
            wait.gone(gone);
        }
        // A claim that wants to wait is not told that the key is busy.
        Ok(Attempt::Busy(_)) => under_way.answered(),
        Err(error) => {
            if error.effect() == Effect::None {
                under_way.answered();
            }
            wait.plan_refresh();
            wait.unreachable();
        }
    }
}
