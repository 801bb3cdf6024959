//! The bare cycle that most locks on Redis are: `SET NX PX`, and a script that compares and deletes. No line, no fence,
//! no renewal.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use super::socket::Socket;
use super::{Client, PATIENCE};
use crate::clock::{now, sleep, sleep_until, span};
use crate::crew::{Beat, Orders, Worked};
use crate::locks::Lock;
use crate::referee::Held;

const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// All workers in step on one blocking socket: one write and one read for all that take, and again for all that give.
pub(super) fn on_a_socket(orders: &Orders) -> Result<Worked> {
    let mut socket = Socket::open(&orders.at)?;
    let sha = socket.ask(&["SCRIPT", "LOAD", RELEASE])?.unwrap_or_default();
    let keys: Vec<_> = orders.each().map(|worker| (worker, orders.key_of(worker))).collect();
    let ttl = orders.ttl.as_millis().to_string();
    let beat = Beat::ready()?;
    let mut holds = Vec::new();
    let mut serial = 0_u128;
    while !beat.is_over() {
        serial += 1;
        // As long as the random owner of a careful lock.
        let owner = format!("{serial:032x}");
        let asked = now();
        for (_, key) in &keys {
            socket.add(&["SET", key, &owner, "NX", "PX", &ttl]);
        }
        socket.send()?;
        for _ in &keys {
            ensure!(socket.reply()?.is_some(), "a free key was not granted");
        }
        let had = now();
        for (_, key) in &keys {
            socket.add(&["EVALSHA", &sha, "1", key, &owner]);
        }
        let released = now();
        socket.send()?;
        for _ in &keys {
            ensure!(socket.reply()?.as_deref() == Some("1"), "somebody else had the key");
        }
        holds.extend(keys.iter().map(|(worker, _)| Held { worker: *worker, asked, had, released }));
    }
    Ok(holds)
}

/// Round trips one after the other.
pub(super) fn pings(orders: &Orders) -> Result<Worked> {
    let mut socket = Socket::open(&orders.at)?;
    let beat = Beat::ready()?;
    let mut trips = Vec::new();
    while !beat.is_over() {
        let asked = now();
        socket.ask(&["PING"])?;
        let had = now();
        trips.push(Held { worker: 0, asked, had, released: had });
    }
    Ok(trips)
}

/// The least that keeps a hold: a round trip every third of its term, from a thread of its own. A hold is lost, whoever
/// keeps it, when an answer comes later than one term after the last question that was answered in time.
pub(super) fn beats(orders: &Orders) -> Result<Worked> {
    let opened: Vec<_> =
        orders.each().map(|worker| anyhow::Ok((worker, Socket::open(&orders.at)?))).collect::<Result<_>>()?;
    let beat = Beat::ready()?;
    thread::scope(|scope| {
        let threads: Vec<_> = opened
            .into_iter()
            .map(|(worker, socket)| scope.spawn(move || keep(worker, socket, beat, orders)))
            .collect();
        let mut holds = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(kept) => holds.extend(kept?),
                Err(_) => bail!("a worker panicked"),
            }
        }
        Ok(holds)
    })
}

fn keep(worker: u64, mut socket: Socket, beat: Beat, orders: &Orders) -> Result<Worked> {
    let (term, mut holds) = (span(orders.ttl), Vec::new());
    while !beat.is_over() {
        let asked = now();
        socket.ask(&["PING"])?;
        let had = now();
        let (end, mut sent, mut lost) = (had + span(orders.hold), asked, had > asked + term);
        while !lost && now() < end && !beat.is_over() {
            sleep(orders.ttl / 3);
            let again = now();
            socket.ask(&["PING"])?;
            lost = now() > sent + term;
            sent = again;
        }
        // The worker of a lost hold learns of it when it wants to release.
        sleep_until(end);
        let kept = Held { worker, asked, had, released: now() };
        holds.push(if lost { Held::lost(worker, asked, had) } else { kept });
    }
    Ok(holds)
}

/// The same cycle on the client that we use.
#[derive(Clone)]
pub(super) struct Raw {
    connection: MultiplexedConnection,
    release: Arc<redis::Script>,
}

#[derive(Clone)]
pub(super) struct RawLock {
    raw: Raw,
    key: Arc<str>,
    ttl: u64,
}

impl Client for Raw {
    type Lock = RawLock;

    async fn open(at: &str) -> Result<Self> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(PATIENCE))
            .set_connection_timeout(Some(PATIENCE));
        let connection =
            redis::Client::open(at)?.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { connection, release: Arc::new(redis::Script::new(RELEASE)) })
    }

    fn lock(&self, key: &str, ttl: Duration) -> RawLock {
        RawLock { raw: self.clone(), key: key.into(), ttl: ttl.as_millis() as u64 }
    }
}

impl Lock for RawLock {
    type Guard = (Self, String);

    async fn lock(&self) -> Result<(Self, String)> {
        let mut lock = self.clone();
        let owner = format!("{:032x}", rand::random::<u128>());
        // Ends when whoever has the key gives it back.
        loop {
            let mut set = redis::cmd("SET");
            set.arg(&*lock.key).arg(&owner).arg("NX").arg("PX").arg(lock.ttl);
            let taken: Option<String> = set.query_async(&mut lock.raw.connection).await?;
            if taken.is_some() {
                return Ok((lock, owner));
            }
        }
    }

    async fn unlock((mut lock, owner): (Self, String)) -> Result<()> {
        let call = lock.raw.release.key(&*lock.key).arg(owner).invoke_async(&mut lock.raw.connection).await;
        let deleted: u8 = call?;
        ensure!(deleted == 1, "somebody else had the key");
        Ok(())
    }
}
