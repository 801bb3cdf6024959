//! One claim's verbs over all nodes: what is asked, and what a majority makes of it.
//!
//! A claim has a place in the line of each node. It holds when a majority of the nodes has granted it *and* written the
//! same token, above all that any of them has given; a node marks a place so agreed on (see `raise.lua`), and only
//! marked places prove a hold later. Lines of different nodes may differ in order, so a claim may be granted at some
//! nodes and wait at others. It then waits a moment for more, and gives back what it has: the fewer, the sooner.
//!
//! # Invariants
//! 1. What was granted by less than a majority is given back before the round is over.
//! 2. A token is reported only when a majority of nodes, at which the hold still stands, has it and has given nothing
//!    above it.
//! 3. A node that does not hold is joined anew only after a majority has proved the hold, and never counts for the
//!    proof that it was joined after.

use std::sync::Arc;
use std::time::Duration;

use tenure_core::engine::{
    Attempt, Contender, Effect, EngineError, EngineErrorKind, Gone, Grant, Renewal, Restamp, Retry, Stray,
    Validity, Waiting, Withdrawn, answers,
};
use tenure_core::flaw::{Flaw, planted};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tenure_core::{Claim, IfBusy, TokenBlock, TokenSource};
use tokio::time::{sleep, timeout};

use super::claims::{Course, State};
use super::ears::Ears;
use super::nodes::Nodes;
use super::tally::{self, Vote};
use crate::contender::{Proof, Raised};

/// How often an attempt asks all nodes again because one has told it something.
const ROUNDS_MAX: u32 = 8;

/// How often a token is raised because a node had given a higher one meanwhile.
const RAISES_MAX: u32 = 8;

/// The longest time for which a withdrawal that a node has not heard is repeated.
const REPEATED_FOR: Duration = Duration::from_secs(60);

/// The slot of a place that a majority has agreed on.
const AGREED: u32 = 1;

/// One claim at all nodes.
#[derive(Clone, Debug)]
pub(crate) struct Ballot {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) claim: Claim,
    pub(crate) course: Arc<Course>,
}

/// What the nodes said to an attempt.
struct Count {
    granted: usize,
    gone: Vec<Gone>,
    counted: usize,
    waiting: Option<Waiting>,
}

impl Count {
    fn of(votes: &[Vote<Attempt>]) -> Self {
        let mut count = Self { granted: 0, gone: Vec::new(), counted: 0, waiting: None };
        for vote in votes {
            count.counted += usize::from(vote.counted().is_some());
            count.granted += usize::from(matches!(vote.counted(), Some(Attempt::Granted(_))));
            match vote.said() {
                Some(Attempt::Gone(gone)) => count.gone.push(*gone),
                Some(Attempt::Waiting(waiting) | Attempt::Busy(waiting)) => {
                    count.waiting = Some(count.waiting.map_or(*waiting, |other| further(other, *waiting)));
                }
                Some(Attempt::Granted(_)) | None => {}
            }
        }
        count
    }
}

/// The place that is further back, with the earlier moment to look again.
fn further(one: Waiting, other: Waiting) -> Waiting {
    let look_in = match (one.look_in, other.look_in) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let (ahead, last_token) = (one.ahead.max(other.ahead), one.last_token.max(other.last_token));
    Waiting { ahead, look_in, last_token }
}

impl Ballot {
    fn patience(&self) -> Duration {
        self.nodes.patience(self.claim.ttl)
    }

    fn quorum(&self) -> usize {
        self.nodes.quorum()
    }

    /// How many nodes can say no before a majority cannot say yes.
    fn minority(&self) -> usize {
        self.nodes.len() - self.quorum()
    }

    /// Joins the line of each node.
    pub(crate) async fn attempt(&self, ears: &mut Ears) -> Result<Attempt, EngineError> {
        let mut state = self.course.state.lock().await;
        state.left = false;
        let mut rounds = 1;
        loop {
            ears.look();
            let begun = SystemClock.now();
            let votes = self.ask_for_it(&self.claim, |_| true).await;
            state.heard(&votes);
            self.remember_strays(&mut state);
            let count = Count::of(&votes);
            if count.granted >= self.quorum()
                && let Some(tokens) = self.agree(&votes).await
            {
                let validity = Validity::Lease(answers::term(&self.claim));
                return Ok(Attempt::Granted(Grant { claim: self.claim.id, tokens, slot: 0, validity }));
            }
            let granted = at(&votes, |vote| matches!(vote.said(), Some(Attempt::Granted(_))));
            if count.counted < self.quorum() || self.may_hold(&votes) {
                // A hold that was agreed on before is not given back because some nodes are slow now.
                self.give_back(&votes, |at| granted.contains(&at) && !self.may_hold(&votes)).await;
                return Err(tally::too_few(&votes, &self.nodes.addresses));
            }
            if count.gone.len() > self.minority() {
                self.give_back(&votes, |at| granted.contains(&at)).await;
                return Ok(Attempt::Gone(tally::worst(count.gone)));
            }
            let busy = Waiting { ahead: 1, look_in: Some(Duration::from_millis(100)), last_token: 0 };
            let waiting = count.waiting.unwrap_or(busy);
            if self.claim.if_busy == IfBusy::Leave {
                self.give_back(&votes, |at| granted.contains(&at) || votes[at].is_unknown()).await;
                return Ok(Attempt::Busy(waiting));
            }
            if granted.is_empty() {
                return Ok(Attempt::Waiting(waiting));
            }
            // Others may be letting go at this moment, or each of several has a part: who has more waits longer.
            let pause = pause_with(granted.len(), SystemClock.now().since(begun));
            if rounds < ROUNDS_MAX && timeout(pause, ears.told()).await.is_ok() {
                rounds += 1;
                continue;
            }
            self.give_back(&votes, |at| granted.contains(&at)).await;
            return Ok(Attempt::Waiting(waiting));
        }
    }

    /// Whether a hold that was agreed on before may stand: at nodes that say so, and at those that said nothing.
    fn may_hold(&self, votes: &[Vote<Attempt>]) -> bool {
        let agreed = |vote: &&Vote<Attempt>| match vote.said() {
            Some(Attempt::Granted(grant)) => grant.slot == AGREED,
            _ => false,
        };
        let agreed = votes.iter().filter(agreed).count();
        let silent = votes.iter().filter(|vote| vote.said().is_none()).count();
        agreed > 0 && agreed + silent >= self.quorum()
    }

    /// One attempt at some nodes.
    async fn ask_for_it(&self, claim: &Claim, whom: impl Fn(usize) -> bool) -> Vec<Vote<Attempt>> {
        let ask = |_, node: Arc<super::nodes::Node>| {
            let mut contender = node.at(claim);
            async move { contender.attempt().await }
        };
        let (quorum, minority) = (self.quorum(), self.minority());
        let decided = move |heard: &[&Vote<Attempt>]| {
            let granted = |vote: &&&Vote<Attempt>| matches!(vote.counted(), Some(Attempt::Granted(_)));
            let yes = heard.iter().filter(granted).count();
            yes >= quorum || heard.len() - yes > minority
        };
        self.nodes.ask(whom, self.patience(), ask, decided).await
    }

    /// Agrees with a majority on a token; none when the hold does not stand at enough nodes any more.
    async fn agree(&self, votes: &[Vote<Attempt>]) -> Option<TokenBlock> {
        let grant = |vote: &Vote<Attempt>| match vote.said() {
            Some(Attempt::Granted(grant)) => Some((grant.tokens, grant.slot)),
            _ => None,
        };
        let agreed = votes.iter().filter(|vote| vote.counted().is_some()).filter_map(grant);
        let agreed: Vec<_> = agreed.filter(|(_, slot)| *slot == AGREED).map(|(tokens, _)| tokens).collect();
        if agreed.len() >= self.quorum() {
            // It was granted before, and has been asked for again.
            return highest(agreed);
        }
        let goal = highest(votes.iter().filter_map(grant).map(|(tokens, _)| tokens))?;
        if planted(Flaw::NoWriteBack) {
            // Each keeps what it has given by itself.
            for (at, vote) in votes.iter().enumerate() {
                if let Some((tokens, _)) = grant(vote) {
                    self.ask_to_raise(&[at], tokens, false).await;
                }
            }
            return Some(goal);
        }
        self.raise(&at(votes, |vote| grant(vote).is_some()), goal).await
    }

    /// Has a majority write a token that is above all that they have given.
    async fn raise(&self, whom: &[usize], mut goal: TokenBlock) -> Option<TokenBlock> {
        for _ in 0..RAISES_MAX {
            let votes = self.ask_to_raise(whom, goal, false).await;
            let raised = |vote: &&Vote<Raised>| matches!(vote.counted(), Some(Raised::Written));
            if votes.iter().filter(raised).count() >= self.quorum() {
                return Some(goal);
            }
            let higher = votes.iter().filter_map(|vote| match vote.said() {
                Some(Raised::Higher { last, now }) => {
                    let floor = Some(goal.last());
                    TokenSource { last: *last, clock_micros: *now, floor }.next(goal.spare)
                }
                _ => None,
            });
            goal = highest(higher)?;
        }
        None
    }

    async fn ask_to_raise(&self, whom: &[usize], goal: TokenBlock, joined: bool) -> Vec<Vote<Raised>> {
        let ask = |_, node: Arc<super::nodes::Node>| {
            let contender = node.at(&self.claim);
            async move { contender.raise(goal, joined).await }
        };
        let (quorum, asked) = (self.quorum(), whom.len());
        let decided = move |heard: &[&Vote<Raised>]| {
            let raised = |vote: &&&Vote<Raised>| matches!(vote.counted(), Some(Raised::Written));
            let yes = heard.iter().filter(raised).count();
            yes >= quorum || asked - (heard.len() - yes) < quorum
        };
        self.nodes.ask(|at| whom.contains(&at), self.patience(), ask, decided).await
    }

    /// Gives back what was granted by too few. At a node that said nothing, what may arrive later is kept out.
    async fn give_back<T>(&self, votes: &[Vote<T>], whom: impl Fn(usize) -> bool) {
        if (0..votes.len()).any(&whom) {
            let stray = |at: usize| if votes[at].is_unknown() { Stray::Possible } else { Stray::Impossible };
            self.ask_to_withdraw(whom, stray).await;
        }
    }

    async fn ask_to_withdraw(
        &self,
        whom: impl Fn(usize) -> bool,
        stray: impl Fn(usize) -> Stray,
    ) -> Vec<Vote<Withdrawn>> {
        let ask = |at, node: Arc<super::nodes::Node>| {
            let (mut contender, stray) = (node.at(&self.claim), stray(at));
            async move { contender.withdraw(stray).await }
        };
        let quorum = self.quorum();
        let decided = move |heard: &[&Vote<Withdrawn>]| {
            heard.iter().filter(|vote| vote.said().is_some()).count() >= quorum
        };
        self.nodes.ask(whom, self.patience(), ask, decided).await
    }

    /// Has a majority prove the hold.
    async fn prove(&self) -> Vec<Vote<Proof>> {
        let ask = |_, node: Arc<super::nodes::Node>| {
            let contender = node.at(&self.claim);
            async move { contender.prove().await }
        };
        let (quorum, minority) = (self.quorum(), self.minority());
        let decided = move |heard: &[&Vote<Proof>]| {
            let proved = |vote: &&&Vote<Proof>| matches!(vote.counted(), Some(Proof::Stands { .. }));
            let yes = heard.iter().filter(proved).count();
            yes >= quorum || heard.len() - yes > minority
        };
        self.nodes.ask(|_| true, self.patience(), ask, decided).await
    }

    /// What the proofs prove: nothing when the hold stands, or why it is gone for ever.
    ///
    /// # Errors
    /// When too few nodes have answered to know.
    async fn judge(&self, votes: &[Vote<Proof>]) -> Result<Option<Gone>, EngineError> {
        let stands = |vote: &Vote<Proof>| matches!(vote.said(), Some(Proof::Stands { .. }));
        if votes.iter().filter(|vote| vote.counted().is_some() && stands(vote)).count() >= self.quorum() {
            return Ok(None);
        }
        let gone: Vec<_> = votes.iter().filter_map(|vote| vote.said()?.gone()).collect();
        if gone.len() <= self.minority() {
            return Err(tally::too_few(votes, &self.nodes.addresses));
        }
        // What is left of it keeps others out, and is worth nothing.
        self.give_back(votes, |at| stands(&votes[at])).await;
        Ok(Some(tally::worst(gone)))
    }

    /// Proves the hold and keeps it for another term.
    pub(crate) async fn renew(&self) -> Result<Renewal, EngineError> {
        let _state = self.course.state.lock().await;
        let begun = SystemClock.now();
        let votes = self.prove().await;
        if let Some(gone) = self.judge(&votes).await? {
            return Ok(Renewal::Gone(gone));
        }
        let missing = at(&votes, |vote| vote.said().and_then(Proof::gone) == Some(Gone::Absent));
        if let (false, Some(tokens)) = (missing.is_empty(), highest(votes.iter().filter_map(tokens_of))) {
            let this = self.clone();
            tokio::spawn(async move { this.join_anew(&missing, tokens, begun).await });
        }
        Ok(Renewal::Renewed(Validity::Lease(answers::term(&self.claim))))
    }

    /// Joins nodes that have lost a hold which a majority has proved at `begun`.
    async fn join_anew(&self, missing: &[usize], tokens: TokenBlock, begun: Moment) {
        let mut state = self.course.state.lock().await;
        if state.left || SystemClock.now().since(begun) > self.claim.ttl.duration() / 2 {
            return;
        }
        let mut claim = self.claim.clone();
        (claim.if_busy, claim.spare_tokens) = (IfBusy::Leave, 0);
        let votes = self.ask_for_it(&claim, |at| missing.contains(&at)).await;
        for at in missing {
            state.strays[*at] |= votes[*at].is_unknown();
        }
        self.remember_strays(&mut state);
        let joined = at(&votes, |vote| matches!(vote.said(), Some(Attempt::Granted(_))));
        if !joined.is_empty() {
            self.ask_to_raise(&joined, tokens, true).await;
        }
    }

    /// A fresh token for the hold.
    pub(crate) async fn restamp(&self) -> Result<Restamp, EngineError> {
        let _state = self.course.state.lock().await;
        let votes = self.prove().await;
        if let Some(gone) = self.judge(&votes).await? {
            return Ok(Restamp::Gone(gone));
        }
        let fresh = votes.iter().filter_map(|vote| match vote.said() {
            Some(Proof::Stands { last, now, .. }) => {
                let source = TokenSource { last: *last, clock_micros: *now, floor: self.claim.floor };
                source.next(self.claim.spare_tokens)
            }
            _ => None,
        });
        let raised = match highest(fresh) {
            Some(goal) => self.raise(&at(&votes, |vote| tokens_of(vote).is_some()), goal).await,
            None => None,
        };
        raised.map(Restamp::Fresh).ok_or_else(|| {
            let message = "a majority proved the hold, and too few of its nodes took a fresh token";
            EngineError::new(EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth, message)
        })
    }

    /// Leaves the line of every node, also of those that have been silent.
    pub(crate) async fn withdraw(&self, stray: Stray) -> Result<Withdrawn, EngineError> {
        let mut state = self.course.state.lock().await;
        state.left = true;
        let strays = state.strays.clone();
        let stray = |at: usize| if strays[at] { Stray::Possible } else { stray };
        let votes = self.ask_to_withdraw(|_| true, stray).await;
        let deaf = at(&votes, |vote| vote.said().is_none());
        if !deaf.is_empty() {
            let this = self.clone();
            tokio::spawn(async move { this.withdraw_later(deaf).await });
        }
        if votes.iter().filter(|vote| vote.said().is_some()).count() < self.quorum() {
            return Err(tally::too_few(&votes, &self.nodes.addresses));
        }
        Ok(tally::withdrawn(&votes))
    }

    /// Goes on withdrawing at nodes that have not heard of it, as long as the place could last there.
    async fn withdraw_later(&self, mut deaf: Vec<usize>) {
        let (begun, mut pause) = (SystemClock.now(), Duration::from_millis(50));
        let limit = answers::term(&self.claim).min(REPEATED_FOR);
        while !deaf.is_empty() && SystemClock.now().since(begun) < limit {
            sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
            pause = (pause * 2).min(Duration::from_secs(2));
            let mut state = self.course.state.lock().await;
            if !state.left {
                return;
            }
            let votes = self.ask_to_withdraw(|at| deaf.contains(&at), |_| Stray::Possible).await;
            deaf.retain(|at| votes[*at].said().is_none());
            (0..votes.len()).filter(|at| votes[*at].said().is_some()).for_each(|at| state.strays[at] = false);
        }
    }

    /// Keeps the course of the claim in memory as long as an attempt that nobody has answered could matter.
    fn remember_strays(&self, state: &mut State) {
        if state.lingers || !state.strays.contains(&true) {
            return;
        }
        state.lingers = true;
        let (course, limit) = (Arc::clone(&self.course), answers::term(&self.claim).min(REPEATED_FOR));
        tokio::spawn(async move {
            sleep(limit).await;
            course.state.lock().await.lingers = false;
        });
    }
}

/// The nodes whose vote is such.
fn at<T>(votes: &[Vote<T>], is_such: impl Fn(&Vote<T>) -> bool) -> Vec<usize> {
    votes.iter().enumerate().filter(|(_, vote)| is_such(vote)).map(|(at, _)| at).collect()
}

fn tokens_of(vote: &Vote<Proof>) -> Option<TokenBlock> {
    match vote.said() {
        Some(Proof::Stands { tokens, .. }) => Some(*tokens),
        _ => None,
    }
}

fn highest(tokens: impl IntoIterator<Item = TokenBlock>) -> Option<TokenBlock> {
    tokens.into_iter().max_by_key(|tokens| tokens.first)
}

/// How long to hope for more with what so many nodes have granted, when a round took so long.
fn pause_with(granted: usize, round: Duration) -> Duration {
    let unit = round.clamp(Duration::from_millis(2), Duration::from_millis(50));
    let factor = u32::try_from(granted).unwrap_or(u32::MAX).min(4);
    unit * factor + unit.mul_f64(rand::random::<f64>())
}
