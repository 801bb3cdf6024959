//! Locks on Redis in other languages, with their defaults.

use crate::engines::{EVERYWHERE, Entrant};
use crate::peers::{go, node, python, redisson};

/// Everything but being renewed: most renew nothing by themselves.
const ALL: &[&str] = &["w1", "w2", "w3", "w4", "w5"];

pub(super) const REDIS_PY: Entrant =
    Entrant::peer("redis-py", "Python: redis-py 8.1, `redis.asyncio`, hiredis", ALL, || {
        python("redis_py.py")
    });
pub(super) const REDSYNC: Entrant =
    Entrant::peer("redsync", "Go: redsync v4 on go-redis v9; tries without end", ALL, || go("redsync"));
pub(super) const REDISLOCK: Entrant =
    Entrant::peer("redislock", "Go: bsm/redislock, linear back-off of 100 ms", ALL, || go("redislock"));
pub(super) const REDIS_SEMAPHORE: Entrant = Entrant::peer(
    "redis-semaphore",
    "Node: redis-semaphore 5.8 on ioredis; waits without end",
    EVERYWHERE,
    || node("redis-semaphore"),
);
pub(super) const NODE_REDLOCK: Entrant =
    Entrant::peer("node-redlock", "Node: redlock 4.2 on ioredis; tries without end", ALL, || node("redlock"));
pub(super) const POTTERY: Entrant =
    Entrant::peer("pottery", "Python: pottery 3.0, `Redlock` on one server; threads", ALL, || {
        python("pottery_lock.py")
    });
pub(super) const REDISSON: Entrant = Entrant::peer(
    "Redisson",
    "Java: Redisson 3.45, `RLock` without a lease time; threads, after 200 cycles to warm up",
    &["w1", "w2", "w3", "w4"],
    redisson,
);
