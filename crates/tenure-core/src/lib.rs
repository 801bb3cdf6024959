//! lib
#![forbid(unsafe_code)]
mod claim;
pub mod engine;
pub mod fence;
pub mod flaw;
mod key;
pub mod lease;
mod token;
mod ttl;

pub use claim::{Claim, ClaimId, ClaimIdError, Identity, IfBusy, Mode};
pub use fence::{Fence, FenceError, FenceGate, FenceTrouble, FenceTroubleKind, Passage, Stale};
pub use key::{Key, KeyError};
pub use token::{AHEAD_MAX, FencingToken, TokenBlock, TokenSource};
pub use ttl::{Ttl, TtlError};
