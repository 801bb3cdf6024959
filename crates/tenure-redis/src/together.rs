//! Verbs that fall due together go out together: the renewals and looks of one turn of the keeper are one command.
//!
//! The keeper plans what it does for its holds and places on a coarse grid, so that many are due at the same moment.
//! What is submitted within a moment is sent as one script for many keys, with an answer for each; an error is that of
//! each alone, or of all when the server has run nothing.
//!
//! # Invariants
//! 1. A script has [`MANY`] keys at most: nobody else waits long for the server.
//! 2. A claim that is not asked for any more takes nothing from the others: what is sent is nobody's task but ours.
//! 3. A server that keeps only some slots gets no script for many keys: they would lie in different ones.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::Value;
use tenure_core::engine::Trouble;
use tokio::sync::oneshot;

use crate::link::{Link, lock};
use crate::route::{Failed, Manner};
use crate::scripts::Script;
use crate::slots::Served;

/// For how long others are waited for: timers that are set for one moment go off within two ticks of a runtime's clock.
const MOMENT: Duration = Duration::from_millis(1);

/// How many keys a script has at most.
pub(crate) const MANY: usize = 100;

/// Verbs that wait to be sent.
pub(crate) type Waiting = Mutex<Vec<One>>;

/// One claim's verb.
pub(crate) struct One {
    script: Script,
    hash: Box<str>,
    args: Vec<Box<[u8]>>,
    answer: oneshot::Sender<Result<Value, Failed>>,
}

impl Link {
    /// Whether a verb can be sent together with others of its kind.
    pub(crate) fn takes_many(&self, manner: Manner) -> bool {
        manner == Manner::Plain && self.served == Served::All
    }

    /// A verb that is not in a hurry, with whatever else is due in this turn.
    pub(crate) async fn together(
        self: &Arc<Self>,
        script: Script,
        hash: &str,
        args: &[&[u8]],
    ) -> Result<Value, Failed> {
        let (answer, answered) = oneshot::channel();
        let args = args.iter().map(|arg| Box::from(*arg)).collect();
        let first = {
            let mut waiting = lock(&self.waiting);
            waiting.push(One { script, hash: hash.into(), args, answer });
            waiting.len() == 1
        };
        if first {
            let link = Arc::clone(self);
            self.runtime.spawn(async move {
                tokio::time::sleep(MOMENT).await;
                link.send_together().await;
            });
        }
        answered.await.map_err(|_| Trouble::lost("the runtime of the connection has ended"))?
    }

    async fn send_together(&self) {
        let mut waiting = std::mem::take(&mut *lock(&self.waiting));
        // In order of kind; of one kind, in order of arrival.
        waiting.sort_by_key(|one| one.script as usize);
        let mut sending = Vec::new();
        while let Some(first) = waiting.first() {
            let script = first.script;
            let same = waiting.iter().take(MANY).take_while(|one| one.script == script).count();
            let rest = waiting.split_off(same);
            sending.push(self.send_chunk(script, std::mem::replace(&mut waiting, rest)));
        }
        futures_util::future::join_all(sending).await;
    }

    async fn send_chunk(&self, script: Script, chunk: Vec<One>) {
        let keys: Vec<_> = chunk.iter().map(|one| one.hash.as_bytes()).collect();
        let args: Vec<_> = chunk.iter().flat_map(|one| one.args.iter().map(|arg| &**arg)).collect();
        let answers = match (chunk.len(), script.for_many()) {
            (2.., Some(many)) => {
                self.script(Manner::Plain, many, &keys, &args).await.and_then(|answer| match answer {
                    Value::Array(answers) if answers.len() == chunk.len() => Ok(answers),
                    other => Err(self.confused(&other).into()),
                })
            }
            _ => self.script(Manner::Plain, script, &keys, &args).await.map(|answer| vec![answer]),
        };
        match answers {
            Ok(answers) => {
                for (one, answer) in chunk.into_iter().zip(answers) {
                    // Who asked may have gone.
                    let _ = one.answer.send(self.answered(answer));
                }
            }
            Err(failed) => {
                for one in chunk {
                    let _ = one.answer.send(Err(failed.clone()));
                }
            }
        }
    }
}
