//! One claim's verbs: each is one statement.

use std::sync::Arc;
use std::time::Duration;

use tenure_core::engine::{
    Attempt, Contender, EngineError, Renewal, Restamp, Stray, Trouble, Wake, Withdrawn, answers,
};
use tenure_core::{Claim, FencingToken, IfBusy, Ttl};

use crate::Shared;
use crate::link::{Ear, Link, Value};
use crate::options::Dialect;
use crate::verbs::Verb;

/// For how long a hold is valid from before an answer, at most, where it lasts as long as a session.
///
/// The server ends the session of a machine that it cannot reach 20 s after it has last heard of it, however long the
/// TTL is; see `dial::KEPT_ALIVE`. A quarter of that is left for what lies between the two.
const SESSION_VALIDITY: Duration = Duration::from_secs(15);

/// Speaks for one claim at a [`Postgres`](crate::Postgres).
#[derive(Debug)]
pub struct PostgresContender {
    shared: Arc<Shared>,
    claim: Claim,
    ear: Option<Ear>,
}

impl PostgresContender {
    pub(crate) fn new(shared: Arc<Shared>, mut claim: Claim) -> Self {
        if shared.links.dial().options.dialect == Dialect::Advisory {
            claim.ttl = Ttl::new(claim.ttl.duration().min(SESSION_VALIDITY)).unwrap_or(claim.ttl);
        }
        Self { shared, claim, ear: None }
    }

    /// Key and claim, with which the values of every verb begin.
    fn named(&self, values: impl IntoIterator<Item = Value>) -> Vec<Value> {
        let names = [self.claim.key.as_str().to_owned(), self.claim.id.to_string()].map(Value::Text);
        let wait = Value::Small(self.shared.lock_millis());
        names.into_iter().chain(values).chain([wait]).collect()
    }

    fn term(&self) -> Value {
        micros(answers::term(&self.claim))
    }

    fn spare(&self) -> Value {
        Value::Number(self.claim.spare_tokens.into())
    }

    fn floor(&self) -> Value {
        token(self.claim.floor)
    }

    async fn verb(&self, link: &Link, verb: Verb, values: Vec<Value>) -> Result<String, EngineError> {
        link.verb(self.shared.links.dial(), verb, self.claim.id, self.named(values)).await
    }

    async fn look(&self, link: &Arc<Link>) -> Result<Attempt, EngineError> {
        let (mode, limit) = answers::mode_words(self.claim.mode);
        // Whoever keeps the place alive does not draw the wake away from who waits.
        let home = self.shared.inbox.home_of(self.claim.id);
        let channel = home.as_ref().unwrap_or(link).channel.clone();
        // An identity is three plain fields, which always have a JSON form.
        let identity = serde_json::to_string(&*self.claim.identity).unwrap_or_default();
        let values = vec![
            Value::Text(mode.to_owned()),
            Value::Number(limit.into()),
            self.term(),
            self.spare(),
            self.floor(),
            Value::Truth(self.claim.if_busy == IfBusy::Leave),
            Value::Text(channel),
            Value::Text(identity),
            Value::Number(link.session),
        ];
        let line = self.verb(link, Verb::Attempt, values).await?;
        match answers::attempt(&line, &self.claim) {
            Some(Ok(attempt)) => Ok(attempt),
            Some(Err(differs)) => Err(differs.on(&self.claim.key)),
            None => Err(link.confused(&line).into()),
        }
    }
}

impl Contender for PostgresContender {
    /// Joins the line, looks again, and keeps the place alive: one statement.
    ///
    /// # Cancel safety
    /// Safe: the statement goes on, and its answer is thrown away. Whether the attempt was applied is unknown.
    async fn attempt(&mut self) -> Result<Attempt, EngineError> {
        if let Some(ear) = &mut self.ear {
            ear.look();
        }
        let link = self.shared.links.link().await?;
        if link.session != 0 && !self.claim.quarantine.is_zero() {
            return Err(Trouble::unsupported(
                "a session ends for all its holds at once, so none has a quarantine: ask for none, or leave out \
                 dialect=advisory",
            )
            .into());
        }
        if self.ear.is_some() && self.shared.inbox.home_of(self.claim.id).is_none() {
            // Our connection has ended and was made anew.
            self.shared.inbox.settle(self.claim.id, &link);
        }
        let attempt = self.look(&link).await?;
        if matches!(attempt, Attempt::Waiting(_)) && self.ear.is_none() && self.claim.if_busy == IfBusy::Join
        {
            self.ear = Some(self.shared.inbox.listen(self.claim.id, Some(&link)));
        }
        Ok(attempt)
    }

    /// Waits until something may have changed for the claim.
    ///
    /// # Cancel safety
    /// Safe: what one call would have reported, the next one reports.
    async fn changed(&mut self) -> Result<Wake, EngineError> {
        match &mut self.ear {
            Some(ear) => Ok(ear.told().await),
            None => {
                self.ear = Some(self.shared.inbox.listen(self.claim.id, None));
                Ok(Wake::LookAgain)
            }
        }
    }

    async fn renew(&mut self) -> Result<Renewal, EngineError> {
        if let Some(ear) = &mut self.ear {
            ear.look();
        }
        let link = self.shared.links.link().await?;
        let session = Value::Number(link.session);
        let line = self.verb(&link, Verb::Renew, vec![self.term(), session]).await?;
        answers::renewal(&line, &self.claim).ok_or_else(|| link.confused(&line).into())
    }

    async fn restamp(&mut self) -> Result<Restamp, EngineError> {
        let link = self.shared.links.link().await?;
        let session = Value::Number(link.session);
        let line = self.verb(&link, Verb::Restamp, vec![self.spare(), self.floor(), session]).await?;
        answers::restamp(&line).ok_or_else(|| link.confused(&line).into())
    }

    async fn withdraw(&mut self, stray: Stray) -> Result<Withdrawn, EngineError> {
        let link = self.shared.links.link().await?;
        let session = Value::Number(link.session);
        let values = vec![self.term(), Value::Truth(stray == Stray::Possible), session];
        let line = self.verb(&link, Verb::Withdraw, values).await?;
        self.shared.sweep(&link);
        answers::withdrawn(&line).ok_or_else(|| link.confused(&line).into())
    }
}

/// A token as a number; zero for none.
fn token(token: Option<FencingToken>) -> Value {
    // A token is below 2^53.
    Value::Number(i64::try_from(token.map_or(0, FencingToken::get)).unwrap_or(i64::MAX))
}

fn micros(duration: Duration) -> Value {
    Value::Number(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
}
