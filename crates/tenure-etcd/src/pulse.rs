//! The stream of keep-alives of one connection.
//!
//! # Invariants
//! 1. Each beat has an answer of its own: one that was sent later is never answered by an earlier one, so its answer
//!    counts from its own send.
//! 2. When the stream ends, so does the connection, and whoever waits for an answer is told.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream;
use tenure_core::engine::Trouble;
use tokio::sync::{mpsc, oneshot};
use tonic::Request;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use crate::link::Life;
use crate::rpc::{LeaseClient, LeaseKeepAliveRequest, LeaseKeepAliveResponse};

/// Beats that were sent and not answered, of each lease in the order of their sends.
type Waiting = Arc<Mutex<HashMap<i64, VecDeque<oneshot::Sender<i64>>>>>;

/// The stream of one connection.
pub(crate) struct Pulse {
    beats: mpsc::UnboundedSender<LeaseKeepAliveRequest>,
    waiting: Waiting,
}

impl Pulse {
    /// Opens the stream, and reads it on a task of the current runtime until the connection ends.
    pub(crate) fn start(channel: Channel, metadata: MetadataMap, life: Life) -> Self {
        let (beats, inbox) = mpsc::unbounded_channel();
        let waiting = Waiting::default();
        let answers = Arc::clone(&waiting);
        tokio::spawn(async move {
            tokio::select! {
                () = life.ended() => {}
                () = read(channel, metadata, inbox, &answers) => life.end(),
            }
            // Whoever waits is told by the end of its sender.
            lock(&answers).clear();
        });
        Self { beats, waiting }
    }

    /// Sends a beat; its answer is what is left, in seconds.
    pub(crate) fn beat(&self, lease: i64) -> Result<oneshot::Receiver<i64>, Trouble> {
        let (tell, told) = oneshot::channel();
        // Sent under the lock, so that answers come in the order in which they are waited for.
        let mut waiting = lock(&self.waiting);
        let sent = self.beats.send(LeaseKeepAliveRequest { id: lease });
        sent.map_err(|_| Trouble::away("the connection has ended"))?;
        waiting.entry(lease).or_default().push_back(tell);
        Ok(told)
    }
}

async fn read(
    channel: Channel,
    metadata: MetadataMap,
    mut inbox: mpsc::UnboundedReceiver<LeaseKeepAliveRequest>,
    waiting: &Waiting,
) {
    let mut request = Request::new(stream::poll_fn(move |context| inbox.poll_recv(context)));
    *request.metadata_mut() = metadata;
    let Ok(answers) = LeaseClient::new(channel).lease_keep_alive(request).await else { return };
    let mut answers = answers.into_inner();
    while let Ok(Some(LeaseKeepAliveResponse { id, ttl, .. })) = answers.message().await {
        let mut waiting = lock(waiting);
        let tell = waiting.get_mut(&id).and_then(VecDeque::pop_front);
        if waiting.get(&id).is_some_and(VecDeque::is_empty) {
            waiting.remove(&id);
        }
        if let Some(tell) = tell {
            // Whoever has sent it may have gone meanwhile.
            let _ = tell.send(ttl);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
