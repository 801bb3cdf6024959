//! One claim's verbs: each is one call of a procedure.

use std::sync::Arc;
use std::time::Duration;

use tenure_core::engine::inbox::Ear;
use tenure_core::engine::{
    Attempt, Contender, EngineError, Grant, Renewal, Restamp, Stray, Trouble, Validity, Wake, Withdrawn,
    answers,
};
use tenure_core::{Claim, FencingToken, IfBusy};

use crate::Shared;
use crate::link::{Dialer, Value};
use crate::options::Dialect;
use crate::polls::{self, Interest};
use crate::session;

pub(crate) const ATTEMPT: &str = "CALL tenure_attempt(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
pub(crate) const RENEW: &str = "CALL tenure_renew(?, ?, ?, ?)";
pub(crate) const RESTAMP: &str = "CALL tenure_restamp(?, ?, ?, ?, ?)";
pub(crate) const WITHDRAW: &str = "CALL tenure_withdraw(?, ?, ?, ?)";

/// The longest identity that a row has room for.
const IDENTITY_MAX: usize = 2048;

/// Speaks for one claim at a [`MySql`](crate::MySql).
#[derive(Debug)]
pub struct MySqlContender {
    shared: Arc<Shared>,
    claim: Claim,
    ear: Option<Ear<Dialer>>,
    /// What the claim was last known to need to hear of.
    interest: Interest,
}

impl MySqlContender {
    pub(crate) fn new(shared: Arc<Shared>, claim: Claim) -> Self {
        Self { shared, claim, ear: None, interest: Interest::Eviction }
    }

    fn look(&mut self) {
        if let Some(ear) = &mut self.ear {
            ear.look();
        }
    }

    /// The line that the verb answers.
    async fn verb(
        &self,
        statement: &'static str,
        more: impl Fn(i64) -> Vec<Value>,
    ) -> Result<String, EngineError> {
        let values = |session| [key_and_claim(&self.claim).to_vec(), more(session)].concat();
        self.shared.verb(statement, self.claim.id, values).await
    }

    /// Refuses what a session cannot promise.
    fn check(&self) -> Result<(), EngineError> {
        if self.shared.dialect == Dialect::GetLock && !self.claim.quarantine.is_zero() {
            let message = "a session ends for all its holds at once, so none has a quarantine: ask for none, or leave \
                           dialect=get_lock out of the URL";
            return Err(Trouble::unsupported(message).into());
        }
        Ok(())
    }

    /// For how long a hold stands by an answer: with a session, for less than the server keeps that.
    fn stands(&self, validity: Validity) -> Validity {
        match (self.shared.dialect, validity) {
            (Dialect::GetLock, Validity::Lease(term)) => Validity::Lease(term.min(session::VALIDITY)),
            _ => validity,
        }
    }

    fn unreadable(&self, line: &str) -> EngineError {
        crate::nonsense(&line).into()
    }
}

impl Contender for MySqlContender {
    /// Joins the line, looks again, and keeps the place alive: one call.
    ///
    /// # Cancel safety
    /// Safe: the answer is read and thrown away. Whether the attempt was applied is unknown.
    async fn attempt(&mut self) -> Result<Attempt, EngineError> {
        self.look();
        self.check()?;
        let values = |session| attempt_values(&self.claim, self.shared.channel, session);
        let line = self.verb(ATTEMPT, values).await?;
        let attempt = match answers::attempt(&line, &self.claim) {
            Some(Ok(Attempt::Granted(grant))) => {
                Attempt::Granted(Grant { validity: self.stands(grant.validity), ..grant })
            }
            Some(Ok(attempt)) => attempt,
            Some(Err(differs)) => return Err(differs.on(&self.claim.key)),
            None => return Err(self.unreadable(&line)),
        };
        self.interest = match attempt {
            Attempt::Waiting(_) => Interest::Turn,
            _ => Interest::Eviction,
        };
        if self.interest == Interest::Turn && self.ear.is_none() {
            self.ear = Some(self.shared.inbox.listen(self.claim.id, None));
        }
        Ok(attempt)
    }

    /// Waits until something may have changed for the claim; asks the server now and then.
    ///
    /// # Cancel safety
    /// Safe: what one call would have reported, the next one reports.
    async fn changed(&mut self) -> Result<Wake, EngineError> {
        let ear = match &mut self.ear {
            Some(ear) => ear,
            // Who has not looked may have missed something.
            None => {
                self.ear = Some(self.shared.inbox.listen(self.claim.id, None));
                return Ok(Wake::LookAgain);
            }
        };
        let asked = async {
            let link = self.shared.links.link().await?;
            polls::ask(&link, &self.shared.inbox, self.shared.channel, self.interest).await;
            Ok::<(), EngineError>(())
        };
        tokio::select! {
            biased;
            wake = ear.told() => Ok(wake),
            // The connection has ended: what it would have told may have been missed.
            asked = asked => asked.map(|()| Wake::LookAgain),
        }
    }

    async fn renew(&mut self) -> Result<Renewal, EngineError> {
        self.look();
        let line = self.verb(RENEW, |session| renew_values(&self.claim, session)).await?;
        self.interest = Interest::Eviction;
        match answers::renewal(&line, &self.claim) {
            Some(Renewal::Renewed(validity)) => Ok(Renewal::Renewed(self.stands(validity))),
            Some(gone) => Ok(gone),
            None => Err(self.unreadable(&line)),
        }
    }

    async fn restamp(&mut self) -> Result<Restamp, EngineError> {
        let line = self.verb(RESTAMP, |session| restamp_values(&self.claim, session)).await?;
        answers::restamp(&line).ok_or_else(|| self.unreadable(&line))
    }

    async fn withdraw(&mut self, stray: Stray) -> Result<Withdrawn, EngineError> {
        let line = self.verb(WITHDRAW, |_| withdraw_values(&self.claim, stray)).await?;
        answers::withdrawn(&line).ok_or_else(|| self.unreadable(&line))
    }
}

fn key_and_claim(claim: &Claim) -> [Value; 2] {
    [Value::Bytes(claim.key.as_str().as_bytes().to_vec()), Value::Text(claim.id.to_string())]
}

/// What an attempt says after key and claim.
pub(crate) fn attempt_values(claim: &Claim, channel: i64, session: i64) -> Vec<Value> {
    let (mode, limit) = answers::mode_words(claim.mode);
    let mut identity = serde_json::to_vec(&*claim.identity).unwrap_or_default();
    if identity.len() > IDENTITY_MAX {
        identity.clear();
    }
    vec![
        Value::Text(mode.to_owned()),
        Value::Number(limit.into()),
        micros(answers::term(claim)),
        spare(claim),
        floor(claim),
        Value::Number((claim.if_busy == IfBusy::Leave).into()),
        Value::Number(channel),
        Value::Number(session),
        Value::Bytes(identity),
    ]
}

pub(crate) fn renew_values(claim: &Claim, session: i64) -> Vec<Value> {
    vec![micros(answers::term(claim)), Value::Number(session)]
}

pub(crate) fn restamp_values(claim: &Claim, session: i64) -> Vec<Value> {
    vec![spare(claim), floor(claim), Value::Number(session)]
}

pub(crate) fn withdraw_values(claim: &Claim, stray: Stray) -> Vec<Value> {
    vec![micros(answers::term(claim)), Value::Number((stray == Stray::Possible).into())]
}

fn spare(claim: &Claim) -> Value {
    Value::Number(claim.spare_tokens.into())
}

fn floor(claim: &Claim) -> Value {
    number(claim.floor.map_or(0, FencingToken::get))
}

fn micros(duration: Duration) -> Value {
    number(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

fn number(number: u64) -> Value {
    Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
}
