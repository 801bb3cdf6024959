//! Verbs that fall due together go out together, as few commands: each has a part of a server's time of its own.
//!
//! - **Soon.** The keeper plans what it does for its holds and places on a coarse grid, so that many are due at the
//!   same moment. What is submitted within a moment is sent together.
//! - **Now.** A caller waits for an attempt or a withdrawal. It goes out alone, unless many of this connection are
//!   under way: then with whatever else is asked for in this turn of the runtime, for which nobody waits longer.
//!
//! Verbs of one kind are one script for many keys, with an answer for each; an error is that of each alone, or of all
//! when the server has run nothing. When the answer is lost, what became of it is unknown for all of them.
//!
//! # Invariants
//! 1. A script has [`SOON`] or [`NOW`] keys at most: nobody else waits long for the server.
//! 2. A claim that is not asked for any more takes nothing from the others: what is sent is nobody's task but ours.
//! 3. A server that keeps only some slots gets no script for many keys: they would lie in different ones.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Arg, Cmd, Value};
use tenure_core::engine::Trouble;
use tokio::sync::oneshot;

use crate::link::{Link, lock};
use crate::route::{Failed, Manner};
use crate::scripts::Script;
use crate::slots::Served;

/// For how long others are waited for: timers that are set for one moment go off within two ticks of a runtime's clock.
const MOMENT: Duration = Duration::from_millis(1);

/// How many keys a script of the keeper has at most.
pub(crate) const SOON: usize = 100;

/// How many keys a script has at most for which callers wait.
const NOW: usize = 16;

/// How many callers must be waiting for answers before verbs wait for each other: between fewer it costs more than it
/// saves.
const CROWD: usize = 8;

/// What is to be sent on a connection.
#[derive(Default)]
pub(crate) struct Together {
    soon: Mutex<Vec<One>>,
    now: Mutex<Vec<One>>,
    /// How many callers wait for an answer.
    asking: AtomicUsize,
}

/// One claim's verb.
struct One {
    script: Script,
    hash: Box<str>,
    args: Cmd,
    answer: oneshot::Sender<Result<Value, Failed>>,
}

impl One {
    fn new(script: Script, hash: &str, args: &[&[u8]]) -> (Self, oneshot::Receiver<Result<Value, Failed>>) {
        let (answer, answered) = oneshot::channel();
        let mut list = Cmd::new();
        list.arg(args);
        (Self { script, hash: hash.into(), args: list, answer }, answered)
    }
}

/// One caller who waits for an answer.
struct Asking<'a>(&'a AtomicUsize);

impl<'a> Asking<'a> {
    /// One more, and whether there are many.
    fn begin(asking: &'a AtomicUsize) -> (Self, bool) {
        let others = asking.fetch_add(1, Ordering::Relaxed);
        (Self(asking), others >= CROWD)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Link {
    /// Whether verbs of a kind can be sent together.
    pub(crate) fn takes_many(&self, manner: Manner) -> bool {
        manner == Manner::Plain && self.served == Served::All
    }

    /// A verb that is not in a hurry, with whatever else is due in this moment.
    pub(crate) async fn soon(
        self: &Arc<Self>,
        script: Script,
        hash: &str,
        args: &[&[u8]],
    ) -> Result<Value, Failed> {
        let (one, answered) = One::new(script, hash, args);
        if push(&self.together.soon, one) {
            let link = Arc::clone(self);
            self.runtime.spawn(async move {
                tokio::time::sleep(MOMENT).await;
                link.send_all(&link.together.soon, SOON).await;
            });
        }
        answered.await.map_err(|_| Trouble::lost("the runtime of the connection has ended"))?
    }

    /// A verb that somebody waits for: alone, or with whatever else is asked for in this turn of the runtime.
    pub(crate) async fn now(
        self: &Arc<Self>,
        script: Script,
        hash: &str,
        args: &[&[u8]],
    ) -> Result<Value, Failed> {
        let (_asking, crowded) = Asking::begin(&self.together.asking);
        if !crowded || script.for_many().is_none() {
            return self.script(Manner::Plain, script, &[hash.as_bytes()], args).await;
        }
        let (one, answered) = One::new(script, hash, args);
        if push(&self.together.now, one) {
            let link = Arc::clone(self);
            self.runtime.spawn(async move {
                // Whoever can go on in this turn asks before we send.
                tokio::task::yield_now().await;
                link.send_all(&link.together.now, NOW).await;
            });
        }
        answered.await.map_err(|_| Trouble::lost("the runtime of the connection has ended"))?
    }

    async fn send_all(&self, waiting: &Mutex<Vec<One>>, many: usize) {
        let mut waiting = mem::take(&mut *lock(waiting));
        // In order of kind, withdrawals first: others may want what they free. Of one kind, in order of arrival.
        waiting.sort_by_key(|one| (one.script != Script::Withdraw, one.script as usize));
        let mut sending = Vec::new();
        while let Some(first) = waiting.first() {
            let script = first.script;
            let same = waiting.iter().take(many).take_while(|one| one.script == script).count();
            let rest = waiting.split_off(same);
            sending.push(self.send_chunk(script, mem::replace(&mut waiting, rest)));
        }
        futures_util::future::join_all(sending).await;
    }

    async fn send_chunk(&self, script: Script, chunk: Vec<One>) {
        let keys: Vec<_> = chunk.iter().map(|one| one.hash.as_bytes()).collect();
        let args = chunk.iter().flat_map(|one| one.args.args_iter());
        let args: Vec<_> = args.filter_map(simple).collect();
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

/// Whether it is the first.
fn push(waiting: &Mutex<Vec<One>>, one: One) -> bool {
    let mut waiting = lock(waiting);
    waiting.push(one);
    waiting.len() == 1
}

fn simple(arg: Arg<&[u8]>) -> Option<&[u8]> {
    match arg {
        Arg::Simple(arg) => Some(arg),
        _ => None,
    }
}
