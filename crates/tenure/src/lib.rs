//! Distributed locks as easy as a mutex, and honest about what a lock can promise.
//!
//! ```
//! # futures_executor::block_on(async {
//! let tenure = tenure::connect("memory:").await?;
//! let guard = tenure.lock("orders/42").acquire().await?;
//! // … work, and hand `guard.token()` to whatever you write to …
//! guard.release().await?;
//! # Ok::<(), tenure::Error>(()) }).unwrap();
//! ```
//!
//! | URL | engine |
//! |---|---|
//! | `local:`, `local:///var/lock/app` | a directory; between the processes of one machine |
//! | `redis://host`, `redis+sentinel://h1,h2,h3/name`, `redis+cluster://h1,h2` | Redis; with the feature `redis` |
//! | `redlock:redis://a,redis://b,redis://c` | a majority of independent Redis primaries; the same feature |
//! | `postgres://host/database` | tables of PostgreSQL, beside the data; with the feature `postgres` |
//! | `mysql://host/database`, `mariadb://host/database` | MariaDB or MySQL tables; with the feature `mysql` |
//! | `etcd://host,host`, `etcds://host` | an etcd cluster; with the feature `etcd` |
//! | `zookeeper://host1,host2,host3/chroot` | a ZooKeeper ensemble; with the feature `zookeeper` |
//! | `memory:` | this process; for tests and examples |
//!
//! The crate needs Rust 1.89. The feature `mysql`, and `sqlx` of `tenure-postgres`, stand on `sqlx`, which needs 1.94.

#![forbid(unsafe_code)]

pub mod blocking;
mod connect;
mod migrate;

pub use connect::{connect, connect_with};
pub use migrate::{migrate, migration_sql};
pub use tenure_core::engine;
pub use tenure_core::event;
pub use tenure_core::fence;
pub use tenure_core::fence::{Fence, FenceError, FenceGate, Stale};
pub use tenure_core::{
    Busy, ClaimId, ClaimIdError, Error, ErrorKind, Fairness, FencingToken, Guard, Guards, Identity, Key,
    KeyError, Lock, LockAll, Loss, LossCause, Mode, Options, Outcome, OutcomeAll, Released, RwLock,
    Semaphore, Tenure, Ttl, TtlError,
};

/// The examples of the README, so that they are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
