//! A resource on Redis that refuses the writes of a stale holder.
//!
//! The marks are kept beside the data, in the data's slot, and a script compares and writes in one step. A user's own
//! script does the same: `docs/engines/redis.md` shows how.

use std::sync::Arc;

use redis::Value;
use tenure_core::engine::{EngineError, Trouble};
use tenure_core::{FencingToken, Stale};

use crate::Shared;
use crate::reply::Reply;
use crate::route::Step;
use crate::scripts::Script;

/// Refuses stale holders at a resource that is kept on the same server as the lines.
///
/// # Guarantees
/// The mark of a slot never falls while the server keeps what it has acknowledged, and a token below it is refused.
/// No decision falls between the check and the write of [`RedisFence::set`].
#[derive(Clone, Debug)]
pub struct RedisFence {
    shared: Arc<Shared>,
    /// The hash with the marks.
    key: String,
}

/// Why a write was not made.
#[derive(Debug, thiserror::Error)]
#[allow(clippy::exhaustive_enums, reason = "refused or broken: a caller must tell these apart")]
pub enum RedisFenceError {
    /// The holder is stale: its hold is lost.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// The server could not be asked, or did not answer; then the write may have been made.
    #[error("the fence cannot decide: {0}")]
    Trouble(#[source] EngineError),
}

impl RedisFence {
    pub(crate) fn new(shared: Arc<Shared>, key: String) -> Self {
        Self { shared, key }
    }

    /// Lets a new holder in and keeps every older one out; called before the holder's first read.
    ///
    /// # Errors
    /// When a newer holder has entered, or the server cannot be asked.
    ///
    /// # Cancel safety
    /// The mark may be raised; entering again is harmless.
    pub async fn enter(&self, token: FencingToken, slot: u32) -> Result<(), RedisFenceError> {
        self.pass(&[self.key.as_bytes()], token, slot, &[]).await
    }

    /// Sets a string, unless the holder is stale.
    ///
    /// On a cluster, the fence and the data must share a hash tag.
    ///
    /// # Errors
    /// As [`enter`](Self::enter); a stale holder has changed nothing.
    ///
    /// # Cancel safety
    /// Not: the string may be set or not.
    pub async fn set(
        &self,
        token: FencingToken,
        slot: u32,
        key: &str,
        value: &[u8],
    ) -> Result<(), RedisFenceError> {
        self.pass(&[self.key.as_bytes(), key.as_bytes()], token, slot, &[value]).await
    }

    async fn pass(
        &self,
        keys: &[&[u8]],
        token: FencingToken,
        slot: u32,
        values: &[&[u8]],
    ) -> Result<(), RedisFenceError> {
        let trouble = |trouble: Trouble| RedisFenceError::Trouble(trouble.into());
        let (offered, slot_name) = (token.to_string(), slot.to_string());
        let mut args = vec![offered.as_bytes(), slot_name.as_bytes()];
        args.extend(values);
        let mut trail = self.shared.route.trail(self.key.as_bytes());
        // A trail ends by itself.
        let (link, answer) = loop {
            let Step { link, manner } = trail.step().await.map_err(trouble)?;
            match link.script(manner, Script::Fence, keys, &args).await {
                Ok(answer) => break (link, answer),
                Err(failed) => trail.turn(failed).map_err(RedisFenceError::Trouble)?,
            }
        };
        let verdict = match &answer {
            Value::Array(list) => match list.as_slice() {
                [Value::Int(passed), mark] => mark
                    .text()
                    .and_then(|mark| FencingToken::new(mark.parse().ok()?))
                    .map(|mark| (*passed, mark)),
                _ => None,
            },
            _ => None,
        };
        match verdict {
            Some((1, mark)) if mark == token => Ok(()),
            Some((0, mark)) if mark > token => Err(Stale { slot, offered: token, mark }.into()),
            _ => Err(trouble(link.confused(&answer))),
        }
    }
}
