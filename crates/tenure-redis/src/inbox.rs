//! Who in this process waits for what: the shared inbox, for connections to Redis.

use tenure_core::engine::inbox;

use crate::link::Dialer;

pub(crate) use inbox::CLAIM_WINDOW;

pub(crate) type Inbox = inbox::Inbox<Dialer>;
pub(crate) type Ear = inbox::Ear<Dialer>;
