//! Waiting for the turn, and for the end of the own node: a task for each place that waits or is listened to.
//!
//! A place that waits watches one node before it and its own. Of the node before it, it wants to know two things. That
//! it *holds*: then nobody who does not fit with it is left before it, and when an exclusive one of these goes, the
//! turn has come without another look at the line. A place that is granted after a wait writes so to its node, and so
//! the one behind it learns it in time. And that it *goes*: that is told by a watch of its children, of which it never
//! has any, because that watch is not disturbed by writes to the node.
//!
//! Its own node it watches only when it has waited for a moment: that somebody deletes it is rare, and most waits in a
//! busy line are over before.
//!
//! A release so wakes one waiter, which makes one write, however long the line is. Only when a place goes that did not
//! hold, or that shared with others, is the line read again, by the one who watched it. The first in line for a permit
//! watches all who hold one.
//!
//! # Invariants
//! 1. A watch is set before, or in the same request as, the look that it follows.
//! 2. The task ends when its place holds, goes, or loses its session; and with the node's value.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::{Either, join_all, select, select_all};
use tenure_core::engine::Wake;
use tenure_core::engine::line::{self, Verdict};
use tenure_core::engine::signals::Signals;
use tenure_core::{ClaimId, Mode};
use tokio::task::AbortHandle;
use zookeeper_client::{Error, EventType, OneshotWatcher, WatchedEvent};

use crate::layout::{Entry, Layout};
use crate::place::{Node, Place};
use crate::record::Card;
use crate::session::Session;
use crate::{CLAIM_WINDOW, Shared, trouble};

/// How long to wait before a watch that could not be set is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// After how long a place that waits watches its own node as well.
const OWN_AFTER: Duration = Duration::from_millis(100);

/// A task that watches for a place; it ends with this value.
#[derive(Debug)]
pub(crate) struct Watching(AbortHandle);

impl Watching {
    /// Watches those before a waiting place, and offers it its turn.
    pub(crate) fn for_the_turn(
        shared: &Arc<Shared>,
        place: &Arc<Place>,
        node: &Node,
        ahead: Vec<Ahead>,
    ) -> Self {
        let watcher = Watcher::new(shared, place, node);
        Self(tokio::spawn(watcher.until_the_turn(ahead)).abort_handle())
    }

    /// Watches the node of a place that holds.
    pub(crate) fn for_its_end(shared: &Arc<Shared>, place: &Arc<Place>, node: &Node) -> Self {
        let watcher = Watcher::new(shared, place, node);
        Self(tokio::spawn(watcher.until_the_end()).abort_handle())
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A place before ours.
#[derive(Clone, Debug)]
pub(crate) struct Ahead {
    entry: Entry,
    /// Whether nobody is left before it who does not fit with it.
    holds: bool,
    /// Its data has changed since we have read it.
    news: bool,
}

impl Ahead {
    pub(crate) fn new(entry: Entry, holds: bool) -> Self {
        Self { entry, holds, news: false }
    }
}

/// What ends a wait.
enum End {
    /// All before us, in order, fit with us.
    TurnCame(Vec<Ahead>),
    /// Our node is gone.
    Vanished,
    /// Our session is over.
    SessionOver,
}

type Event<'a> = Pin<Box<dyn Future<Output = WatchedEvent> + Send + 'a>>;

struct Watcher {
    shared: Weak<Shared>,
    place: Weak<Place>,
    signals: Arc<Signals>,
    session: Arc<Session>,
    layout: Layout,
    claim: ClaimId,
    mode: Mode,
    folder: String,
    path: String,
}

impl Watcher {
    fn new(shared: &Arc<Shared>, place: &Arc<Place>, node: &Node) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            place: Arc::downgrade(place),
            signals: Arc::clone(&shared.signals),
            session: Arc::clone(&node.session),
            layout: shared.layout,
            claim: place.claim.id,
            mode: place.claim.mode,
            folder: node.folder.clone(),
            path: node.path.clone(),
        }
    }

    fn tell(&self) {
        self.signals.tell(self.claim, Wake::LookAgain);
    }

    async fn until_the_end(self) {
        // As long as the session lasts, which is not for ever without a connection.
        loop {
            match self.own_end().await {
                Ok(event) => {
                    if event.await.event_type != EventType::Session {
                        self.vanished().await;
                    }
                    return self.tell();
                }
                Err(Error::NoNode) => return self.vanished().await,
                Err(error) if trouble::ends_the_session(&error) => return self.tell(),
                Err(_) => self.pause().await,
            }
        }
    }

    async fn until_the_turn(self, mut ahead: Vec<Ahead>) {
        // As above.
        loop {
            match self.watch(&mut ahead).await {
                Ok(End::TurnCame(ahead)) => return self.take_turn(ahead).await,
                Ok(End::Vanished) => return self.vanished().await,
                Ok(End::SessionOver) => return self.tell(),
                Err(error) if trouble::ends_the_session(&error) => return self.tell(),
                Err(_) => self.pause().await,
            }
        }
    }

    async fn pause(&self) {
        tokio::time::sleep(PAUSE).await;
        // Whether or not: the next request tells.
        let _ = self.session.ready().await;
    }

    async fn vanished(&self) {
        if let (Some(shared), Some(place)) = (self.shared.upgrade(), self.place.upgrade()) {
            place.vanished(&shared, &self.path).await;
        }
    }

    /// Waits behind those before us, as often as one of them goes.
    async fn watch(&self, ahead: &mut Vec<Ahead>) -> Result<End, Error> {
        let mut own = Box::pin(self.own_end_later());
        loop {
            let behind = self.behind(ahead);
            if behind.is_empty() {
                return Ok(End::TurnCame(std::mem::take(ahead)));
            }
            let looks = join_all(behind.iter().map(|at| self.look(ahead[*at].clone()))).await;
            let mut events: Vec<Event<'_>> = Vec::with_capacity(behind.len());
            let mut gone = None;
            for (at, looked) in behind.iter().zip(looks) {
                match looked? {
                    Some((seen, watcher)) => {
                        ahead[*at] = seen;
                        events.push(Box::pin(watcher.changed()));
                    }
                    None => gone = Some(*at),
                }
            }
            let gone = match gone {
                Some(gone) => gone,
                None => match select(select_all(events), own.as_mut()).await {
                    Either::Left(((event, which, _), _)) => match event.event_type {
                        EventType::NodeDeleted => behind[which],
                        EventType::Session => return Ok(End::SessionOver),
                        _ => {
                            ahead[behind[which]].news = true;
                            continue;
                        }
                    },
                    Either::Right((end, _)) => return end,
                },
            };
            if ahead[gone].holds && ahead[gone].entry.mode == Mode::Exclusive {
                ahead.drain(..=gone);
            } else if !self.list(ahead).await? {
                return Ok(End::Vanished);
            }
        }
    }

    /// The end of our own node, when it comes.
    async fn own_end(&self) -> Result<Event<'_>, Error> {
        let watched = self.session.client.list_and_watch_children(&self.path);
        let (_, watcher) = self.session.answer(watched).await?;
        Ok(Box::pin(watcher.changed()))
    }

    /// How our own node ends, when it does; asked for only by those who wait for longer than a moment.
    async fn own_end_later(&self) -> Result<End, Error> {
        tokio::time::sleep(OWN_AFTER).await;
        match self.own_end().await {
            Ok(event) => match event.await.event_type {
                EventType::Session => Ok(End::SessionOver),
                _ => Ok(End::Vanished),
            },
            Err(Error::NoNode) => Ok(End::Vanished),
            Err(error) => Err(error),
        }
    }

    /// Whom to watch.
    fn behind(&self, ahead: &[Ahead]) -> Vec<usize> {
        let me = ahead.len();
        let mut modes: Vec<_> = ahead.iter().map(|ahead| ahead.entry.mode).collect();
        modes.push(self.mode);
        match line::verdict(&modes, me) {
            Verdict::Granted => Vec::new(),
            Verdict::WaitBehind(at) => vec![at],
            Verdict::WaitForPermit => match line::granted(modes) {
                holders if holders == me => (0..me).collect(),
                // Whoever is next tells us by holding that we are next.
                _ if ahead[me - 1].holds => (0..me).collect(),
                _ => vec![me - 1],
            },
        }
    }

    /// Watches one before us, for what we want to know of it next. None when it is not there.
    async fn look(&self, mut ahead: Ahead) -> Result<Option<(Ahead, OneshotWatcher)>, Error> {
        let (client, session) = (&self.session.client, &self.session);
        let path = format!("{}/{}", self.folder, ahead.entry.name);
        let holds = |data: &[u8]| Card::read(data).is_some_and(|card| card.holds.is_some());
        let news = std::mem::take(&mut ahead.news);
        if !ahead.holds && news {
            // Most likely it holds now, and then its data is watched no more: its end is asked for in the same request.
            let (data, end) = (client.get_data(&path), client.list_and_watch_children(&path));
            match session.answer(data).await {
                Err(Error::NoNode) => return Ok(None),
                looked => ahead.holds = holds(&looked?.0),
            }
            if ahead.holds {
                return watcher(session.answer(end).await.map(|(_, watcher)| watcher), ahead);
            }
        }
        if !ahead.holds {
            let (data, _, end) = match session.answer(client.get_and_watch_data(&path)).await {
                Err(Error::NoNode) => return Ok(None),
                looked => looked?,
            };
            if !holds(&data) {
                return Ok(Some((ahead, end)));
            }
            ahead.holds = true;
        }
        watcher(
            session.answer(client.list_and_watch_children(&path)).await.map(|(_, watcher)| watcher),
            ahead,
        )
    }

    /// Reads the line before us again; false when we are not in it.
    async fn list(&self, ahead: &mut Vec<Ahead>) -> Result<bool, Error> {
        let children = self.session.answer(self.session.client.list_children(&self.folder)).await?;
        // What does not belong in a folder, the next attempt complains of.
        let mut line = self.layout.line_among(&children);
        let Some(me) = line.iter().position(|entry| self.path.ends_with(&entry.name)) else {
            return Ok(false);
        };
        line.truncate(me + 1);
        let holders = line::granted(line.iter().map(|entry| entry.mode));
        line.truncate(me);
        let known = std::mem::take(ahead);
        *ahead = line
            .into_iter()
            .enumerate()
            .map(|(at, entry)| {
                let held = known.iter().any(|ahead| ahead.holds && ahead.entry.name == entry.name);
                Ahead::new(entry, held || at < holders)
            })
            .collect();
        Ok(true)
    }

    /// Offers the place its turn, and takes it back when nobody asks for it.
    async fn take_turn(self, ahead: Vec<Ahead>) {
        let entries: Vec<_> = ahead.into_iter().map(|ahead| ahead.entry).collect();
        // As long as the session lasts.
        loop {
            let (Some(shared), Some(place)) = (self.shared.upgrade(), self.place.upgrade()) else { return };
            match place.offer(&shared, &self.path, &entries).await {
                Ok(Ok(())) => break,
                Ok(Err(None)) => return self.tell(),
                Ok(Err(Some(name))) => {
                    drop((shared, place));
                    self.slot_of(&name).await;
                }
                Err(_) if self.session.has_ended() => return self.tell(),
                // The place is asked for by an attempt, which is told what is wrong.
                Err(_) => {
                    drop((shared, place));
                    self.tell();
                    self.pause().await;
                }
            }
        }
        loop {
            tokio::time::sleep(CLAIM_WINDOW).await;
            let (Some(shared), Some(place)) = (self.shared.upgrade(), self.place.upgrade()) else { return };
            // The turn stands until it is known to be given up.
            if place.lapse(&shared, &self.path).await.is_ok() || self.session.has_ended() {
                return;
            }
        }
    }

    /// Waits until a permit before us may have written its slot.
    async fn slot_of(&self, name: &str) {
        let path = format!("{}/{name}", self.folder);
        match self.session.answer(self.session.client.get_and_watch_data(&path)).await {
            Ok((data, _, watcher)) if Card::read(&data).is_none_or(|card| card.holds.is_none()) => {
                drop(watcher.changed().await);
            }
            Ok(_) | Err(Error::NoNode) => {}
            Err(_) => self.pause().await,
        }
    }
}

/// What a watch of one before us comes to. None when it is not there.
fn watcher(
    watched: Result<OneshotWatcher, Error>,
    ahead: Ahead,
) -> Result<Option<(Ahead, OneshotWatcher)>, Error> {
    match watched {
        Err(Error::NoNode) => Ok(None),
        watched => watched.map(|watcher| Some((ahead, watcher))),
    }
}
