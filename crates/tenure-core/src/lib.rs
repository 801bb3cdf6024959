//! Distributed locks as easy as a mutex: the client, its keeper, and the contract of an engine.
//!
//! Users want the facade crate `tenure`, which brings the engines; this crate is for those who write one.

#![forbid(unsafe_code)]

mod acquire;
pub mod blocking;
mod claim;
mod client;
mod cohort;
mod departure;
pub mod engine;
mod error;
pub mod event;
pub mod fence;
pub mod flaw;
mod guard;
mod handover;
mod hold;
mod keeper;
mod keeping;
mod key;
pub mod lease;
mod lock;
mod loss;
mod multi;
mod shared;
mod strays;
mod tenure;
mod token;
mod ttl;
mod waiting;
mod wish;
mod withdrawal;

pub use claim::{Claim, ClaimId, ClaimIdError, Identity, IfBusy, Mode};
pub use error::{Error, ErrorKind};
pub use fence::{Fence, FenceError, FenceGate, FenceTrouble, FenceTroubleKind, Passage, Stale};
pub use guard::Guard;
pub use key::{Key, KeyError};
pub use lock::{Busy, Lock, Outcome, RwLock, Semaphore};
pub use loss::{Loss, LossCause, Released};
pub use multi::{Guards, LockAll, OutcomeAll};
pub use tenure::{Options, Tenure};
pub use token::{AHEAD_MAX, FencingToken, TokenBlock, TokenSource};
pub use ttl::{Ttl, TtlError};
pub use wish::Fairness;
