//! The stream of watches of one connection: who wants to know of what happens to which key.
//!
//! # Invariants
//! 1. A watch is a level: once something has happened, whoever asks is told, again and again.
//! 2. What happens after the revision at which a watch began is never missed: a watch that cannot go on tells so.
//! 3. A watch that nobody has any more is ended at the server, too.
//!
//! A watch begins at the server's present, never at a revision of the past: etcd makes up for what such a watch has
//! missed in rounds of a tenth of a second, and it tells of nothing until its round has come, not even of what happens
//! now. So whoever watches asks afterwards whether something has happened before the watch began.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream;
use tenure_core::engine::Trouble;
use tokio::sync::{mpsc, watch};
use tonic::Request;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use crate::link::Life;
use crate::rpc::{
    EventType, FilterType, RequestUnion, WatchCancelRequest, WatchClient, WatchCreateRequest, WatchRequest,
    WatchResponse,
};

/// Of what a watch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// That the key is deleted.
    Deletions,
    /// That it is deleted or written.
    Changes,
}

/// What a watch has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// The server has not said yet that it watches.
    Ordered,
    /// Nothing since this revision.
    Nothing(i64),
    Something,
    /// It cannot go on, for this reason.
    Refused(String),
}

type Table = Arc<Mutex<HashMap<i64, watch::Sender<Seen>>>>;

/// The watches of one connection.
pub(crate) struct Watches {
    orders: mpsc::UnboundedSender<WatchRequest>,
    table: Table,
    next: AtomicI64,
}

/// Tells of what happens to one key.
#[derive(Debug)]
pub(crate) struct Watch {
    id: i64,
    seen: watch::Receiver<Seen>,
    orders: mpsc::UnboundedSender<WatchRequest>,
    table: Table,
}

impl Watches {
    /// Opens the stream, and reads it on a task of the current runtime until the connection ends.
    pub(crate) fn start(channel: Channel, metadata: MetadataMap, life: Life) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let table = Table::default();
        let told = Arc::clone(&table);
        tokio::spawn(async move {
            tokio::select! {
                () = life.ended() => {}
                () = read(channel, metadata, inbox, &told, &life) => life.end(),
            }
            // Whoever listens is told by the end of its sender.
            lock(&told).clear();
        });
        Self { orders, table, next: AtomicI64::new(1) }
    }

    pub(crate) fn watch(&self, key: Vec<u8>, sight: Sight) -> Watch {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, seen) = watch::channel(Seen::Ordered);
        let filters = match sight {
            Sight::Deletions => vec![FilterType::Noput as i32],
            Sight::Changes => Vec::new(),
        };
        let create = WatchCreateRequest { key, filters, watch_id: id, ..Default::default() };
        lock(&self.table).insert(id, tell);
        let order = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        if self.orders.send(order).is_err() {
            // The connection has ended: the watch says so at once.
            lock(&self.table).remove(&id);
        }
        Watch { id, seen, orders: self.orders.clone(), table: Arc::clone(&self.table) }
    }
}

impl Watch {
    /// Waits until something has happened, or the connection has ended, after which anything may have.
    ///
    /// # Cancel safety
    /// Safe: what one call would have reported, the next one reports.
    pub(crate) async fn told(&mut self) -> Result<(), Trouble> {
        let told = |seen: &Seen| matches!(seen, Seen::Something | Seen::Refused(_));
        match self.seen.wait_for(told).await.as_deref() {
            Ok(Seen::Refused(why)) => Err(Trouble::lost(format!("a watch was refused: {why}"))),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The revision of the server when the watch began; none when there is something to be told already.
    ///
    /// # Cancel safety
    /// Safe: a later call gives the same answer.
    pub(crate) async fn begun(&mut self) -> Option<i64> {
        match self.seen.wait_for(|seen| *seen != Seen::Ordered).await.as_deref() {
            Ok(Seen::Nothing(since)) => Some(*since),
            Ok(_) | Err(_) => None,
        }
    }

    /// Whether it goes on, and has seen nothing.
    pub(crate) fn is_quiet(&self) -> bool {
        self.seen.has_changed().is_ok() && matches!(*self.seen.borrow(), Seen::Ordered | Seen::Nothing(_))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if lock(&self.table).remove(&self.id).is_some() {
            let cancel = WatchCancelRequest { watch_id: self.id };
            // A connection that has ended watches nothing.
            let _ =
                self.orders.send(WatchRequest { request_union: Some(RequestUnion::CancelRequest(cancel)) });
        }
    }
}

async fn read(
    channel: Channel,
    metadata: MetadataMap,
    mut inbox: mpsc::UnboundedReceiver<WatchRequest>,
    table: &Table,
    life: &Life,
) {
    let mut request = Request::new(stream::poll_fn(move |context| inbox.poll_recv(context)));
    *request.metadata_mut() = metadata;
    let Ok(answers) = WatchClient::new(channel).watch(request).await else { return };
    let mut answers = answers.into_inner();
    while let Ok(Some(answer)) = answers.message().await {
        let Some(seen) = seen(&answer) else { continue };
        if matches!(seen, Seen::Refused(_)) {
            // Perhaps the login of the stream has run out; with the next connection it is made anew.
            life.end();
        }
        if let Some(tell) = lock(table).get(&answer.watch_id) {
            tell.send_replace(seen);
        }
    }
}

/// What an answer means for its watch; none when it means nothing.
fn seen(answer: &WatchResponse) -> Option<Seen> {
    if answer.canceled && !answer.cancel_reason.is_empty() && answer.compact_revision == 0 {
        return Some(Seen::Refused(answer.cancel_reason.clone()));
    }
    // What was compacted away may have been anything.
    let happened = answer.canceled
        || answer.compact_revision != 0
        || answer.events.iter().any(|event| matches!(event.r#type(), EventType::Put | EventType::Delete));
    match &answer.header {
        _ if happened => Some(Seen::Something),
        Some(header) if answer.created => Some(Seen::Nothing(header.revision)),
        _ => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
