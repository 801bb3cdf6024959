//! One claim's verbs: each is one change of its key's file.
//!
//! The verbs do their few microseconds of file work inline, in the future that is polled: handing them to a thread
//! would cost ten times as much. Only a disk that is waited for (`sync=always`) and a process that was stopped in the
//! middle of a verb make them slow; the latter is bounded and ends in an error.

use std::sync::Arc;

use tenure_core::engine::signals::Listener;
use tenure_core::engine::{Attempt, Contender, EngineError, Gone, Renewal, Restamp, Stray, Wake, Withdrawn};
use tenure_core::{Claim, IfBusy};

use crate::Shared;
use crate::keyfile::Missing;

/// Speaks for one claim at a [`Local`](crate::Local).
#[derive(Debug)]
pub struct LocalContender {
    shared: Arc<Shared>,
    claim: Claim,
    listener: Option<Listener>,
}

impl LocalContender {
    pub(crate) fn new(shared: Arc<Shared>, claim: Claim) -> Self {
        Self { shared, claim, listener: None }
    }

    fn listen(&mut self) -> Result<(), EngineError> {
        self.shared.open_ear(&self.claim.identity)?;
        let signals = &self.shared.signals;
        self.listener.get_or_insert_with(|| signals.listen(self.claim.id)).look();
        Ok(())
    }

    fn look(&mut self) -> Result<Attempt, EngineError> {
        if let Some(listener) = &mut self.listener {
            listener.look();
        }
        let claim = &self.claim;
        let member = self.shared.living_member(&claim.identity)?;
        // Before the file knows of the claim, so that it is never forgotten.
        self.shared.placed().insert(claim.id);
        let attempt = self.shared.act(&claim.key, Missing::Create, |ledger, terms, alive| {
            Ok(ledger.attempt(claim, &member, terms, alive))
        })?;
        let attempt = attempt.transpose().map_err(|differs| differs.on(&claim.key))?;
        match attempt {
            Some(Attempt::Busy(_) | Attempt::Gone(_)) => {
                self.shared.placed().remove(&claim.id);
            }
            Some(Attempt::Granted(_) | Attempt::Waiting(_)) | None => {}
        }
        // The file is made when it is missing, so there is always an answer.
        Ok(attempt.unwrap_or(Attempt::Gone(Gone::Absent)))
    }
}

impl Contender for LocalContender {
    /// Joins the line, looks again, and keeps the place alive.
    ///
    /// # Cancel safety
    /// It never suspends: a future that was polled has ended.
    async fn attempt(&mut self) -> Result<Attempt, EngineError> {
        let attempt = self.look()?;
        // Only those who wait listen. What happened since they looked, a second look sees.
        if matches!(attempt, Attempt::Waiting(_))
            && self.listener.is_none()
            && self.claim.if_busy == IfBusy::Join
        {
            self.listen()?;
            return self.look();
        }
        Ok(attempt)
    }

    /// Waits until something may have changed for the claim.
    ///
    /// # Cancel safety
    /// Safe: what one call would have reported, the next one reports.
    async fn changed(&mut self) -> Result<Wake, EngineError> {
        match &mut self.listener {
            Some(listener) => Ok(listener.told().await),
            None => {
                self.listen()?;
                Ok(Wake::LookAgain)
            }
        }
    }

    async fn renew(&mut self) -> Result<Renewal, EngineError> {
        if let Some(listener) = &mut self.listener {
            listener.look();
        }
        let claim = &self.claim;
        // Without a file of our own the others may have taken us for dead, and the key.
        let Some(member) = self.shared.member().filter(|member| member.is_linked()) else {
            return Ok(Renewal::Gone(Gone::Absent));
        };
        let renewal = self.shared.act(&claim.key, Missing::Leave, |ledger, terms, alive| {
            Ok(ledger.renew(claim, &member.id, terms, alive))
        })?;
        Ok(renewal.unwrap_or(Renewal::Gone(Gone::Absent)))
    }

    async fn restamp(&mut self) -> Result<Restamp, EngineError> {
        let claim = &self.claim;
        let restamp = self.shared.act(&claim.key, Missing::Leave, |ledger, terms, alive| {
            Ok(ledger.restamp(claim, terms, alive))
        })?;
        Ok(restamp.unwrap_or(Restamp::Gone(Gone::Absent)))
    }

    async fn withdraw(&mut self, stray: Stray) -> Result<Withdrawn, EngineError> {
        let claim = &self.claim;
        let missing = match stray {
            Stray::Possible => Missing::Create,
            Stray::Impossible => Missing::Leave,
        };
        let withdrawn = self.shared.act(&claim.key, missing, |ledger, terms, alive| {
            Ok(ledger.withdraw(claim, stray, terms, alive))
        })?;
        self.shared.placed().remove(&claim.id);
        Ok(withdrawn.unwrap_or(Withdrawn::Absent))
    }
}
