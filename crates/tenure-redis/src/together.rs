//! Verbs that fall due together go out together, as few commands: each has a part of a server's time of its own.
//!
//! - **Soon.** The keeper plans what it does for its holds and places on a coarse grid, so that many are due at the
//!   same moment. What is submitted within a moment is sent together.
//! - **Now.** A caller waits for an attempt or a withdrawal. It goes out alone, unless many of this connection are
//!   under way, or were in the last turn in which any went together: then with whatever else is asked for in this turn
//!   of the runtime, for which nobody waits longer.
//!
//! Verbs of one kind are one script for many keys, with an answer for each; an error is that of each alone, or of all
//! when the server has run nothing. When the answer is lost, what became of it is unknown for all of them.
//!
//! # Invariants
//! 1. A script has [`SOON`] or [`NOW`] keys at most: nobody else waits long for the server.
//! 2. A claim that is not asked for any more takes nothing from the others: what is sent is nobody's task but ours.
//! 3. A server that keeps only some slots gets no script for many keys: they would lie in different ones.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::Value;
use tenure_core::engine::Trouble;
use tokio::sync::oneshot;

use crate::link::{Link, Words, lock};
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
    soon: Mutex<Waiting>,
    now: Mutex<Waiting>,
    /// How many callers wait for an answer.
    asking: AtomicUsize,
    /// Whether many asked in the last turn in which anybody asked with others: then those who ask next do so together,
    /// before eight of them wait. Who asks alone behind a crowd pays for it once, with a task.
    crowded: AtomicBool,
    /// How many scripts for many keys were sent.
    sent: AtomicU64,
}

/// Verbs that are to be sent.
#[derive(Default)]
struct Waiting {
    ones: Vec<One>,
    /// What each of them says.
    text: String,
}

/// One claim's verb.
struct One {
    script: Script,
    /// Where in the text its key begins, its words behind it, its claim behind them, and where that ends.
    at: [usize; 4],
    answer: oneshot::Sender<Result<String, Failed>>,
}

impl Waiting {
    /// Whether it is the first.
    fn push(&mut self, script: Script, of: &Words<'_>) -> (bool, oneshot::Receiver<Result<String, Failed>>) {
        let (answer, answered) = oneshot::channel();
        let begin = self.text.len();
        let (words, mine) = (begin + of.hash.len(), begin + of.hash.len() + of.words.len());
        self.text.extend([of.hash, of.words, of.mine]);
        self.ones.push(One { script, at: [begin, words, mine, self.text.len()], answer });
        (self.ones.len() == 1, answered)
    }
}

impl One {
    fn hash<'a>(&self, text: &'a str) -> &'a str {
        &text[self.at[0]..self.at[1]]
    }

    fn words<'a>(&self, text: &'a str) -> &'a str {
        &text[self.at[1]..self.at[2]]
    }

    fn mine<'a>(&self, text: &'a str) -> &'a str {
        &text[self.at[2]..self.at[3]]
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
    pub(crate) async fn soon(self: &Arc<Self>, script: Script, of: &Words<'_>) -> Result<String, Failed> {
        let (first, answered) = lock(&self.together.soon).push(script, of);
        if first {
            let link = Arc::clone(self);
            self.runtime.spawn(async move {
                tokio::time::sleep(MOMENT).await;
                link.send_all(&link.together.soon, SOON).await;
            });
        }
        answered.await.map_err(|_| Trouble::lost("the runtime of the connection has ended"))?
    }

    /// A verb that somebody waits for: alone, or with whatever else is asked for in this turn of the runtime.
    pub(crate) async fn now(self: &Arc<Self>, script: Script, of: &Words<'_>) -> Result<String, Failed> {
        let (_asking, many) = Asking::begin(&self.together.asking);
        let crowded = many || self.together.crowded.load(Ordering::Relaxed);
        if !crowded || script.for_many().is_none() {
            return self.ask_alone(Manner::Plain, script, of.hash, of.words, of.mine).await;
        }
        let (first, answered) = lock(&self.together.now).push(script, of);
        if first {
            let link = Arc::clone(self);
            self.runtime.spawn(async move {
                // Whoever can go on in this turn asks before we send.
                tokio::task::yield_now().await;
                let many = lock(&link.together.now).ones.len() >= CROWD;
                link.together.crowded.store(many, Ordering::Relaxed);
                link.send_all(&link.together.now, NOW).await;
            });
        }
        answered.await.map_err(|_| Trouble::lost("the runtime of the connection has ended"))?
    }

    async fn send_all(&self, waiting: &Mutex<Waiting>, many: usize) {
        let Waiting { mut ones, text } = mem::take(&mut *lock(waiting));
        // In order of kind, withdrawals first: others may want what they free. Of one kind, in order of arrival.
        ones.sort_by_key(|one| (one.script != Script::Withdraw, one.script as usize));
        let mut sending = Vec::new();
        while let Some(first) = ones.first() {
            let script = first.script;
            let same = ones.iter().take(many).take_while(|one| one.script == script).count();
            let rest = ones.split_off(same);
            sending.push(self.send_chunk(script, mem::replace(&mut ones, rest), &text));
        }
        futures_util::future::join_all(sending).await;
    }

    async fn send_chunk(&self, script: Script, chunk: Vec<One>, text: &str) {
        let answers = match (&chunk[..], script.for_many()) {
            ([_, _, ..], Some(script)) => self.ask_together(script, &chunk, text).await,
            ([one], _) => {
                let alone =
                    self.ask_alone(Manner::Plain, script, one.hash(text), one.words(text), one.mine(text));
                Ok(vec![alone.await])
            }
            _ => Ok(Vec::new()),
        };
        match answers {
            Ok(answers) => {
                for (one, answer) in chunk.into_iter().zip(answers) {
                    // Who asked may have gone.
                    let _ = one.answer.send(answer);
                }
            }
            Err(failed) => {
                for one in chunk {
                    let _ = one.answer.send(Err(failed.clone()));
                }
            }
        }
    }

    /// Asks by one script, whose answer is a line for each behind the number that the script was given: no other on
    /// this connection has it, so whatever begins otherwise is the answer to somebody else.
    async fn ask_together(
        &self,
        script: Script,
        chunk: &[One],
        text: &str,
    ) -> Result<Vec<Result<String, Failed>>, Failed> {
        let number = self.together.sent.fetch_add(1, Ordering::Relaxed).to_string();
        let keys: Vec<_> = chunk.iter().map(|one| one.hash(text).as_bytes()).collect();
        let mut args = Vec::with_capacity(chunk.len() + 2);
        args.push(number.as_bytes());
        let mut said = None;
        for one in chunk {
            // Words stand before the first whose they are.
            let words = one.words(text);
            if said != Some(words) {
                args.push(words.as_bytes());
                said = Some(words);
            }
            args.push(one.mine(text).as_bytes());
        }
        let answer = self.script(Manner::Plain, script, &keys, &args).await?;
        let Value::BulkString(answers) = answer else { return Err(self.confused(&answer).into()) };
        let answers = String::from_utf8(answers).map_err(|error| self.confused(&error))?;
        let mut lines = answers.split('\n');
        if lines.next() != Some(&number) || lines.clone().count() != chunk.len() {
            return Err(self.confused(&answers).into());
        }
        Ok(lines.map(|line| self.told(line)).collect())
    }

    /// One of many answers: behind a dash is an error, as the server would have said it to one who asked alone.
    fn told(&self, line: &str) -> Result<String, Failed> {
        let Some(error) = line.strip_prefix('-') else { return Ok(line.to_owned()) };
        let error = redis::parse_redis_value(format!("-{error}\r\n").as_bytes());
        match error {
            Ok(error @ Value::ServerError(_)) => self.answered(error).map(|_| String::new()),
            _ => Err(self.confused(&line).into()),
        }
    }
}
