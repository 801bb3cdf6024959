//! One claim's verbs, as the keeper and the caller use them.

use std::sync::Arc;

use tenure_core::engine::{
    Attempt, Contender, EngineError, Renewal, Restamp, Stray, Trouble, Wake, Withdrawn,
};
use tenure_core::{Claim, IfBusy, Mode};

use super::Shared;
use super::ballot::Ballot;
use super::ears::Ears;

/// Speaks for one claim at a [`Redlock`](crate::Redlock).
#[derive(Debug)]
pub struct RedlockContender {
    shared: Arc<Shared>,
    ballot: Ballot,
    /// None until it has looked; while a dropped attempt still has them, too.
    ears: Option<Ears>,
}

impl RedlockContender {
    pub(super) fn new(shared: Arc<Shared>, claim: Claim) -> Self {
        let course = shared.claims.course(claim.id, shared.nodes.len());
        let ballot = Ballot { nodes: Arc::clone(&shared.nodes), claim, course };
        Self { shared, ballot, ears: None }
    }

    /// Refuses what no majority can promise.
    fn check(&self) -> Result<(), EngineError> {
        let claim = &self.ballot.claim;
        if matches!(claim.mode, Mode::Permit { .. }) {
            let message = "redlock has no semaphores: a majority for each holder does not bound how many there are; \
                           use one lock for each permit, or another engine";
            return Err(Trouble::unsupported(message).into());
        }
        match self.shared.nodes.longest_ttl() {
            Some(longest) if claim.term() > longest => {
                let message = format!(
                    "the TTL and the quarantine of {:?} are {:?} together, and a node that restarts waits only \
                     {longest:?}: ask for less, or set longest-ttl-ms in the URL of all clients",
                    claim.key,
                    claim.term()
                );
                Err(Trouble::unsupported(message).into())
            }
            _ => Ok(()),
        }
    }

    fn look(&mut self) {
        if let Some(ears) = &mut self.ears {
            ears.look();
        }
    }
}

impl Contender for RedlockContender {
    /// Asks all nodes at once, and once more for the token.
    ///
    /// # Cancel safety
    /// Safe: the round goes on to its end, and what it has granted is withdrawn by who withdraws the claim.
    async fn attempt(&mut self) -> Result<Attempt, EngineError> {
        self.check()?;
        let mut ears = match (self.ears.take(), self.ballot.claim.if_busy) {
            (Some(ears), _) => ears,
            (None, IfBusy::Join) => Ears::new(&self.shared.nodes, self.ballot.claim.id),
            (None, IfBusy::Leave) => Ears::default(),
        };
        let ballot = self.ballot.clone();
        let round = async move {
            let attempt = ballot.attempt(&mut ears).await;
            Ok((attempt, ears))
        };
        let (attempt, ears) = self.shared.run(round).await?;
        self.ears = (!ears.is_deaf()).then_some(ears);
        attempt
    }

    /// Waits until any node tells something.
    ///
    /// # Cancel safety
    /// Safe: what one call would have reported, the next one reports.
    async fn changed(&mut self) -> Result<Wake, EngineError> {
        match &mut self.ears {
            Some(ears) => ears.told().await,
            None => self.ears = Some(Ears::new(&self.shared.nodes, self.ballot.claim.id)),
        }
        Ok(Wake::LookAgain)
    }

    async fn renew(&mut self) -> Result<Renewal, EngineError> {
        self.look();
        let ballot = self.ballot.clone();
        self.shared.run(async move { ballot.renew().await }).await
    }

    async fn restamp(&mut self) -> Result<Restamp, EngineError> {
        let ballot = self.ballot.clone();
        self.shared.run(async move { ballot.restamp().await }).await
    }

    async fn withdraw(&mut self, stray: Stray) -> Result<Withdrawn, EngineError> {
        let ballot = self.ballot.clone();
        self.shared.run(async move { ballot.withdraw(stray).await }).await
    }
}
