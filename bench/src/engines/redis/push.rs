//! The least that a fair lock on Redis can be: a queue of waiters in Redis; the release grants to the first of them and
//! pushes the grant to it, on the connection that it uses anyway. With a fence; without renewal, and a waiter that dies
//! blocks the queue.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value};
use tokio::sync::oneshot;

use super::{Client, PATIENCE};
use crate::locks::Lock;

const TAKE: &str = "
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return redis.call('INCR', KEYS[3]) end
redis.call('RPUSH', KEYS[2], ARGV[1])
return 0";

const GIVE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local next = redis.call('LPOP', KEYS[2])
if not next then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], next, 'PX', ARGV[2])
  redis.call('PUBLISH', string.match(next, '^(.-)/'), next .. ' ' .. redis.call('INCR', KEYS[3]))
end
return 1";

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<u64>>>>;

#[derive(Clone)]
pub(super) struct Push {
    connection: MultiplexedConnection,
    channel: Arc<str>,
    serial: Arc<AtomicU64>,
    waiting: Waiting,
    take: Arc<redis::Script>,
    give: Arc<redis::Script>,
}

#[derive(Clone)]
pub(super) struct PushLock {
    push: Push,
    /// The owner, the queue and the fence.
    keys: Arc<[String; 3]>,
    ttl: u64,
}

/// Has it, under this name.
pub(super) struct Taken(PushLock, String);

impl Client for Push {
    type Lock = PushLock;

    async fn open(at: &str) -> Result<Self> {
        let waiting = Waiting::default();
        let told = Arc::clone(&waiting);
        let pushes = move |push: PushInfo| -> Result<(), redis::aio::SendError> {
            if push.kind == PushKind::Message
                && let Some(Value::BulkString(text)) = push.data.get(1)
                && let Some((name, fence)) = String::from_utf8_lossy(text).split_once(' ')
                && let Some(waiter) = told.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
            {
                // Who waited may have gone.
                let _ = waiter.send(fence.parse().unwrap_or(0));
            }
            Ok(())
        };
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(PATIENCE))
            .set_connection_timeout(Some(PATIENCE))
            .set_push_sender(pushes);
        let client = redis::Client::open(format!("{at}/?protocol=resp3"))?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let channel: Arc<str> = format!("push-{:016x}", rand::random::<u64>()).into();
        connection.subscribe(&*channel).await?;
        let (take, give) = (Arc::new(redis::Script::new(TAKE)), Arc::new(redis::Script::new(GIVE)));
        Ok(Self { connection, channel, serial: Arc::default(), waiting, take, give })
    }

    fn lock(&self, key: &str, ttl: Duration) -> PushLock {
        let keys = ["", "/queue", "/fence"].map(|part| format!("push:{{{key}}}{part}"));
        PushLock { push: self.clone(), keys: Arc::new(keys), ttl: ttl.as_millis() as u64 }
    }
}

impl Lock for PushLock {
    type Guard = Taken;

    async fn lock(&self) -> Result<Taken> {
        let mut lock = self.clone();
        let name = format!("{}/{}", lock.push.channel, lock.push.serial.fetch_add(1, Ordering::Relaxed));
        let (sender, turn) = oneshot::channel();
        lock.waiting().insert(name.clone(), sender);
        let mut call = lock.push.take.prepare_invoke();
        call.key(&lock.keys[..]).arg(&name).arg(lock.ttl);
        let fence: u64 = call.invoke_async(&mut lock.push.connection).await?;
        if fence > 0 {
            lock.waiting().remove(&name);
        } else {
            turn.await.context("the connection has ended")?;
        }
        Ok(Taken(lock, name))
    }

    async fn unlock(Taken(mut lock, name): Taken) -> Result<()> {
        let mut call = lock.push.give.prepare_invoke();
        call.key(&lock.keys[..]).arg(&name).arg(lock.ttl);
        let given: u8 = call.invoke_async(&mut lock.push.connection).await?;
        ensure!(given == 1, "somebody else had the key");
        Ok(())
    }
}

impl PushLock {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<u64>>> {
        self.push.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
