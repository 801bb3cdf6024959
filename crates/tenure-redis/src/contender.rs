//! One claim's verbs: each is one command.

use std::sync::Arc;

use redis::Value;
use tenure_core::engine::{
    Attempt, Contender, EngineError, Gone, Renewal, Restamp, Stray, Trouble, Wake, Withdrawn, answers,
};
use tenure_core::{Claim, FencingToken, IfBusy, TokenBlock};

use crate::Shared;
use crate::inbox::Ear;
use crate::link::{Link, Words};
use crate::names;
use crate::options::AcksOn;
use crate::route::{Failed, Manner, Step};
use crate::scripts::Script;
use crate::wording;

/// Speaks for one claim at a [`Redis`](crate::Redis).
#[derive(Debug)]
pub struct RedisContender {
    shared: Arc<Shared>,
    claim: Claim,
    /// The claim and the hash of its key, as they are sent.
    mine: String,
    hash: String,
    ear: Option<Ear>,
}

impl RedisContender {
    pub(crate) fn new(shared: Arc<Shared>, claim: Claim) -> Self {
        let (mine, hash) = (names::mine(claim.id), names::hash_of(&claim.key));
        Self { shared, claim, mine, hash, ear: None }
    }

    /// A verb at whichever server keeps the key, with the connection over which it was answered.
    async fn verb(&self, script: Script, words: &str) -> Result<(Arc<Link>, String), EngineError> {
        let mut trail = self.shared.route.trail(self.hash.as_bytes());
        // A trail ends by itself.
        loop {
            let step = trail.step().await?;
            if script == Script::Renew {
                step.link.show(&self.claim.identity).await;
            }
            match self.verb_at(&step, script, words).await {
                Ok(line) => return Ok((step.link, line)),
                Err(failed) => trail.turn(failed)?,
            }
        }
    }

    async fn verb_at(&self, step: &Step, script: Script, words: &str) -> Result<String, Failed> {
        let of = self.with(words);
        if script == Script::Renew {
            // Renewals come from the keeper, many at a time.
            return step.link.verb_soon(step.manner, script, &of).await;
        }
        step.link.verb(step.manner, script, &of).await
    }

    fn with<'a>(&'a self, words: &'a str) -> Words<'a> {
        Words { key: &self.claim.key, hash: &self.hash, words, mine: &self.mine }
    }

    /// One attempt at whichever server keeps the key.
    async fn look(&self) -> Result<(Arc<Link>, Attempt), EngineError> {
        let mut trail = self.shared.route.trail(self.hash.as_bytes());
        // A trail ends by itself.
        loop {
            let step = trail.step().await?;
            match self.look_at(&step).await {
                Ok(line) => {
                    let attempt = self.read_attempt(&step.link, &line)?;
                    return Ok((step.link, attempt));
                }
                Err(failed) => trail.turn(failed)?,
            }
        }
    }

    /// What the wish says depends on the server: it names a connection to it, over which to be told.
    async fn look_at(&self, step: &Step) -> Result<String, Failed> {
        let link = &step.link;
        let card = link.show(&self.claim.identity).await;
        if self.ear.is_some() && self.home_at(link).is_none() {
            // Our connection has ended and was made anew, or leads to where the key was before.
            self.shared.inbox.settle(self.claim.id, link);
        }
        // Whoever keeps the place alive does not draw the wake away from who waits.
        let home = self.home_at(link);
        let looks_after = home.is_some() && self.ear.is_none();
        let connection = home.as_ref().unwrap_or(link).name;
        let words = wording::attempt(&self.claim, connection, &card.name);
        if looks_after {
            return link.verb_soon(step.manner, Script::Attempt, &self.with(&words)).await;
        }
        self.verb_at(step, Script::Attempt, &words).await
    }

    /// The connection on which our waiter listens, if it leads to the same server.
    fn home_at(&self, link: &Link) -> Option<Arc<Link>> {
        self.shared.inbox.home_of(self.claim.id).filter(|home| home.leads_where(link))
    }

    fn read_attempt(&self, link: &Link, line: &str) -> Result<Attempt, EngineError> {
        match answers::attempt(line, &self.claim) {
            Some(Ok(attempt)) => Ok(attempt),
            Some(Err(differs)) => Err(differs.on(&self.claim.key)),
            None => Err(link.confused(&line).into()),
        }
    }

    /// Waits until enough replicas have the grant; undoes it when they do not come.
    async fn acknowledge(&self, link: &Arc<Link>) -> Result<(), EngineError> {
        let (wanted, timeout) = (self.shared.acks, self.shared.acks_timeout);
        let millis = timeout.as_millis().max(1).to_string();
        let wanted_text = wanted.to_string();
        let (wait, waitaof) = (
            [&b"WAIT"[..], wanted_text.as_bytes(), millis.as_bytes()],
            [&b"WAITAOF"[..], b"0", wanted_text.as_bytes(), millis.as_bytes()],
        );
        let wait = match self.shared.acks_on {
            AcksOn::Memory => &wait[..],
            AcksOn::Disk => &waitaof[..],
        };
        // Where the answer does not come, the grant stands: the keeper withdraws it.
        let unknown = Trouble::with_unknown_effect;
        let answer = link.command(Manner::Plain, wait).await.map_err(|failed| unknown(failed.into()))?;
        let acks = match &answer {
            Value::Int(acks) => *acks,
            // Disks here, which were not asked for, and there.
            Value::Array(disks) => match disks[..] {
                [Value::Int(_), Value::Int(acks)] => acks,
                _ => return Err(link.confused(&answer).into()),
            },
            _ => return Err(link.confused(&answer).into()),
        };
        if acks >= i64::from(wanted) {
            return Ok(());
        }
        // The attempt was answered, so none is on its way and no tombstone is needed: it may be made again.
        let step = Step { link: Arc::clone(link), manner: Manner::Plain };
        let undone =
            self.verb_at(&step, Script::Withdraw, &wording::withdrawal(&self.claim, Stray::Impossible)).await;
        let message = format!("only {acks} of {wanted} replicas acknowledged the grant within {timeout:?}");
        let mut trouble = Trouble::away(message);
        if undone.is_err() {
            trouble = unknown(trouble);
        }
        Err(trouble.into())
    }
}

/// What a hold's proof says at one node of a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It stands, with these tokens; the last token and the time at the node.
    Stands { tokens: TokenBlock, last: u64, now: u64 },
    /// It does not, or a majority has never agreed on it.
    Gone(Gone),
}

impl Proof {
    pub(crate) fn gone(&self) -> Option<Gone> {
        match self {
            Self::Gone(gone) => Some(*gone),
            Self::Stands { .. } => None,
        }
    }
}

/// What one node of a quorum says to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raised {
    /// It is written, and the hold counts from now on.
    Written,
    /// The node has given a higher one to somebody else: its last token, and the time there.
    Higher { last: u64, now: u64 },
    /// The hold does not stand there.
    Gone,
}

/// The verbs of a node of a quorum, besides those of the contract.
impl RedisContender {
    /// Proves a hold on which a majority has agreed, and keeps it for another term here.
    pub(crate) async fn prove(&self) -> Result<Proof, EngineError> {
        let (link, line) = self.verb(Script::Prove, &wording::renewal(&self.claim)).await?;
        let words: Vec<_> = line.split(' ').collect();
        let proof = match words[..] {
            ["proved", first, spare, last, now] => (|| {
                let tokens =
                    TokenBlock { first: FencingToken::new(first.parse().ok()?)?, spare: spare.parse().ok()? };
                Some(Proof::Stands { tokens, last: last.parse().ok()?, now: now.parse().ok()? })
            })(),
            ["gone", why] => answers::gone(why).map(Proof::Gone),
            _ => None,
        };
        proof.ok_or_else(|| link.confused(&line).into())
    }

    /// Writes the token that a majority is to agree on, or has: then the hold was `joined` here after a proof.
    pub(crate) async fn raise(&self, tokens: TokenBlock, joined: bool) -> Result<Raised, EngineError> {
        let how = if joined { "joined" } else { "fresh" };
        let words = format!("{} {} {how}", tokens.first, tokens.spare);
        let (link, line) = self.verb(Script::Raise, &words).await?;
        let words: Vec<_> = line.split(' ').collect();
        let raised = match words[..] {
            ["raised"] => Some(Raised::Written),
            ["higher", last, now] => {
                last.parse().ok().zip(now.parse().ok()).map(|(last, now)| Raised::Higher { last, now })
            }
            ["gone", _] => Some(Raised::Gone),
            _ => None,
        };
        raised.ok_or_else(|| link.confused(&line).into())
    }
}

impl Contender for RedisContender {
    /// Joins the line, looks again, and keeps the place alive: one command, and with acknowledged grants a second.
    ///
    /// # Cancel safety
    /// Safe: the answer is read and thrown away. Whether the attempt was applied is unknown.
    async fn attempt(&mut self) -> Result<Attempt, EngineError> {
        if let Some(ear) = &mut self.ear {
            ear.look();
        }
        let (link, attempt) = self.look().await?;
        match &attempt {
            Attempt::Granted(_) if self.shared.acks > 0 => self.acknowledge(&link).await?,
            // Who only keeps the place alive for another does not listen.
            Attempt::Waiting(_)
                if self.ear.is_none()
                    && self.claim.if_busy == IfBusy::Join
                    && self.shared.inbox.home_of(self.claim.id).is_none() =>
            {
                self.ear = Some(self.shared.inbox.listen(self.claim.id, Some(&link)));
            }
            _ => {}
        }
        Ok(attempt)
    }

    /// Waits until something may have changed for the claim.
    ///
    /// # Cancel safety
    /// Safe: what one call would have reported, the next one reports.
    async fn changed(&mut self) -> Result<Wake, EngineError> {
        match &mut self.ear {
            Some(ear) => match ear.told().await {
                // An offer is not acknowledged by anybody; the attempt that confirms it is.
                Wake::Granted(_) if self.shared.acks > 0 => Ok(Wake::LookAgain),
                wake => Ok(wake),
            },
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
        let (link, line) = self.verb(Script::Renew, &wording::renewal(&self.claim)).await?;
        answers::renewal(&line, &self.claim).ok_or_else(|| link.confused(&line).into())
    }

    async fn restamp(&mut self) -> Result<Restamp, EngineError> {
        let (link, line) = self.verb(Script::Restamp, &wording::restamp(&self.claim)).await?;
        answers::restamp(&line).ok_or_else(|| link.confused(&line).into())
    }

    async fn withdraw(&mut self, stray: Stray) -> Result<Withdrawn, EngineError> {
        let (link, line) = self.verb(Script::Withdraw, &wording::withdrawal(&self.claim, stray)).await?;
        answers::withdrawn(&line).ok_or_else(|| link.confused(&line).into())
    }
}
