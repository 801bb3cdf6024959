//! Writes of one connection that are due at the same time, sent as one transaction.
//!
//! Each write costs etcd a request, an entry in its log and a round of its own, which is much more than what is
//! written. While a few writes are under way, those that come wait for one of them, and are then sent together: each
//! as a transaction inside, with its own conditions.
//!
//! # Invariants
//! 1. A write that finds room is sent at once: nobody waits for others to come.
//! 2. Of the writes that are sent together no two are for one key, so each finds its line as if it were alone. A write
//!    for a key that is being written already is sent by itself.
//! 3. When one of them is refused, so are all, and none was made; then each is sent alone, to hear of its own refusal.
//! 4. Whoever waits is answered: by a request, or by the end of the connection's runtime. It does not depend on others
//!    who wait: what is under way is driven by the runtime of the connection, not by whoever asked for it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use tenure_core::Key;
use tenure_core::engine::{Effect, EngineErrorKind, Trouble};
use tokio::sync::oneshot;

use crate::link::{Failed, Link, Turn};
use crate::ops::{self, Answers};
use crate::rpc::{TxnRequest, TxnResponse};

/// How many writes are sent together: etcd takes 128 operations in one transaction, those inside included.
const TOGETHER_MAX: usize = 64;

/// How many requests with writes are under way at once.
const UNDER_WAY_MAX: usize = 2;

type Answer = Result<TxnResponse, Failed>;

/// The writes of a connection.
#[derive(Default)]
pub(crate) struct Writes(Mutex<State>);

#[derive(Default)]
struct State {
    /// No two of them are for one key.
    waiting: VecDeque<Wish>,
    /// The keys of those that wait, and of those that are under way and were counted.
    keys: HashSet<Key>,
    under_way: usize,
    /// The server takes fewer operations at once, or smaller requests, than is usual: each write is sent alone.
    alone: bool,
}

/// A write that waits, and who waits for it.
struct Wish {
    key: Key,
    txn: TxnRequest,
    tell: oneshot::Sender<Answer>,
}

enum Entered {
    /// To be sent at once, and counted.
    Counted(Wish),
    /// To be sent at once, beside the others.
    Beside(TxnRequest),
    Later,
}

/// Sends a write, and then what waits, until nothing does.
struct Sender {
    link: Arc<Link>,
    batch: Vec<Wish>,
    /// Of the writes that are under way.
    keys: Vec<Key>,
}

impl Writes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, wish: Wish) -> Entered {
        let mut state = self.state();
        if state.alone || !state.keys.insert(wish.key.clone()) {
            return Entered::Beside(wish.txn);
        }
        if state.under_way < UNDER_WAY_MAX {
            state.under_way += 1;
            return Entered::Counted(wish);
        }
        state.waiting.push_back(wish);
        Entered::Later
    }

    /// A request with these keys has ended: what is to be sent in its place.
    fn next(&self, ended: &[Key]) -> Vec<Wish> {
        let mut state = self.state();
        for key in ended {
            state.keys.remove(key);
        }
        let mut batch = Vec::new();
        while batch.len() < TOGETHER_MAX
            && let Some(wish) = state.waiting.pop_front()
        {
            if wish.tell.is_closed() {
                // Nobody waits for it any more, and it was not sent.
                state.keys.remove(&wish.key);
            } else {
                batch.push(wish);
            }
        }
        if batch.is_empty() {
            state.under_way -= 1;
        }
        batch
    }

    /// The runtime has ended: nothing is sent any more.
    fn abandon(&self) {
        let abandoned = {
            let mut state = self.state();
            state.under_way -= 1;
            state.keys.clear();
            std::mem::take(&mut state.waiting)
        };
        // Whoever waits is told by this.
        drop(abandoned);
    }
}

impl Sender {
    async fn run(mut self) {
        // Ends when nothing waits; each round is a request, which ends in time.
        while !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            self.keys = batch.iter().map(|wish| wish.key.clone()).collect();
            self.link.write_together(batch).await;
            self.batch = self.link.writes.next(&self.keys);
            self.keys.clear();
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Dropped while a request is under way, or before the first: by the end of the runtime.
        if !(self.keys.is_empty() && self.batch.is_empty()) {
            self.link.writes.abandon();
        }
    }
}

impl Link {
    /// Makes a transaction that writes in the line of a key and nowhere else, perhaps together with others. When it is
    /// sent by itself it needs a turn, unless it has one.
    pub(crate) async fn write(
        self: &Arc<Self>,
        key: &Key,
        txn: TxnRequest,
        turn: Option<Turn<'_>>,
    ) -> Answer {
        let (tell, told) = oneshot::channel();
        match self.writes.enter(Wish { key: key.clone(), txn, tell }) {
            Entered::Counted(wish) => {
                let sender = Sender { link: Arc::clone(self), batch: vec![wish], keys: Vec::new() };
                self.in_background(sender.run());
            }
            Entered::Beside(txn) => return self.write_alone(txn, turn).await,
            Entered::Later => {}
        }
        drop(turn);
        told.await.unwrap_or_else(|_| Err(Trouble::lost("the connection broke").into()))
    }

    /// Makes such a transaction by itself.
    pub(crate) async fn write_alone(&self, txn: TxnRequest, turn: Option<Turn<'_>>) -> Answer {
        match turn {
            Some(turn) => self.txn_in(&turn, txn).await,
            None => self.txn(txn).await,
        }
    }

    /// Sends what has waited, and tells each what has become of it.
    async fn write_together(&self, batch: Vec<Wish>) {
        if batch.len() > 1 && !self.writes.state().alone {
            let txns = batch.iter().map(|wish| ops::inside(wish.txn.clone())).collect();
            match self.txn(ops::txn(Vec::new(), txns, Vec::new())).await {
                Ok(answer) => {
                    let mut answers = Answers::from(answer);
                    for wish in batch {
                        // Whoever has asked may have gone meanwhile.
                        let _ = wish.tell.send(answers.response().map_err(Failed::from));
                    }
                    return;
                }
                Err(failed) if was_refused(&failed) => {
                    let too_many = failed.trouble.kind == EngineErrorKind::Unsupported;
                    self.writes.state().alone |= too_many;
                }
                Err(failed) => {
                    for wish in batch {
                        let _ = wish.tell.send(Err(failed.clone()));
                    }
                    return;
                }
            }
        }
        join_all(batch.into_iter().map(async |Wish { txn, tell, .. }| {
            let _ = tell.send(self.txn(txn).await);
        }))
        .await;
    }
}

/// Whether a server has refused to make any part of a transaction.
fn was_refused(failed: &Failed) -> bool {
    let answered = failed.no_lease || failed.trouble.kind != EngineErrorKind::Unreachable;
    answered && failed.trouble.effect == Effect::None
}
