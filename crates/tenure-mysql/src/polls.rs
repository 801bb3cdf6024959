//! How those who wait learn that something has changed for them.
//!
//! Nothing is pushed by these servers. So one of those who wait on a connection asks for all of them: one statement,
//! which an index answers, finds what was offered to any claim of this client. It asks often at first and less often
//! the longer nothing happens. Who waits here and is enabled by a verb of this process is told without a question.
//!
//! # Invariants
//! 1. While somebody waits on a connection, one of them asks, and only one.
//! 2. Who asks may be cancelled at any point; the next one goes on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::Row;
use sqlx::mysql::MySqlRow;
use tenure_core::engine::inbox::Inbox;
use tenure_core::lease::{Clock, Moment, SystemClock};
use tokio::sync::{Mutex, Notify};

use crate::link::{Dialer, Link, Value};

const NEWS: &str = "SELECT claim, state, token, spare_granted, slot FROM tenure_places \
    WHERE channel = ? AND state IN ('offered', 'evicted')";

/// The bounds of the pause between two questions while somebody waits for a turn.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(25);
/// The pause as a share of the time in which nothing has happened.
const PAUSE_SHARE: u32 = 16;
/// The pause while only holders listen, who have nothing to hear of but an eviction.
const PAUSE_OF_HOLDERS: Duration = Duration::from_secs(1);
/// The same where holds end with the session: who asks is also who learns that it has ended.
const PAUSE_OF_SESSIONS: Duration = Duration::from_millis(250);

/// What somebody listens for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// A turn.
    Turn,
    /// An eviction.
    Eviction,
}

/// The questions of one connection.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    waiters: AtomicUsize,
    /// Somebody has begun to wait for a turn.
    begun: Notify,
    turn: Mutex<Seen>,
}

/// What the last question found, and when something last happened.
#[derive(Debug, Default)]
struct Seen {
    news: HashMap<String, i64>,
    happened: Option<Moment>,
    waiters: usize,
}

/// Counts somebody who waits for a turn.
struct Waiter<'a>(&'a Polls);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Asks for all who wait on the connection, when it is the caller's turn to; never returns while the connection stands.
///
/// # Cancel safety
/// Safe: somebody else goes on.
pub(crate) async fn ask(link: &Link, inbox: &Inbox<Dialer>, channel: i64, interest: Interest) {
    let polls = &link.polls;
    let _waiter = (interest == Interest::Turn).then(|| {
        polls.waiters.fetch_add(1, Ordering::AcqRel);
        polls.begun.notify_one();
        Waiter(polls)
    });
    let mut seen = polls.turn.lock().await;
    // Ends with the connection, or when the caller is told and drops this.
    while !link.has_ended() {
        let of_holders = if link.session == 0 { PAUSE_OF_HOLDERS } else { PAUSE_OF_SESSIONS };
        let pause = seen.pause(polls.waiters.load(Ordering::Acquire), of_holders);
        tokio::select! {
            () = link.sleep(pause) => {}
            () = polls.begun.notified() => continue,
        }
        match link.ask(NEWS, vec![Value::Number(channel)]).await {
            Ok(rows) => seen.tell(&rows, inbox),
            Err(_) => link.sleep(PAUSE_MAX).await,
        }
    }
}

impl Seen {
    /// How long to wait before the next question.
    fn pause(&mut self, waiters: usize, of_holders: Duration) -> Duration {
        if waiters == 0 {
            self.waiters = 0;
            return of_holders;
        }
        let now = SystemClock.now();
        if waiters > self.waiters {
            self.happened = Some(now);
        }
        self.waiters = waiters;
        let quiet = now.since(self.happened.unwrap_or(now));
        (quiet / PAUSE_SHARE).clamp(PAUSE_MIN, PAUSE_MAX)
    }

    /// Tells those for whom something is new.
    fn tell(&mut self, rows: &[MySqlRow], inbox: &Inbox<Dialer>) {
        let before = std::mem::take(&mut self.news);
        for row in rows {
            let read = || -> Result<(String, String, i64, i64, i64), sqlx::Error> {
                Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?))
            };
            let Ok((claim, state, token, spare, slot)) = read() else { continue };
            let evicted = state == "evicted";
            let mark = if evicted { -1 } else { token };
            if before.get(&claim) != Some(&mark) {
                self.happened = Some(SystemClock.now());
                inbox.take(&if evicted { claim.clone() } else { format!("{claim} {token} {spare} {slot}") });
            }
            self.news.insert(claim, mark);
        }
    }
}
