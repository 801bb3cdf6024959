//! Who a client is, for people: a small string beside the lines, named by a hash of what it says.
//!
//! A place names the card instead of repeating it: what an operator wants to know once need not be sent and stored
//! with every lock. On a cluster each node has a card of its own, so that showing it is never another node's affair.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tenure_core::Identity;

use crate::names;
use crate::slots::Served;

/// A client's card.
#[derive(Debug)]
pub(crate) struct Card {
    pub(crate) id: u64,
    /// What it says, in JSON.
    pub(crate) text: String,
    /// The id, as places write it.
    pub(crate) name: String,
}

impl Card {
    /// How long a card is kept by the server after it was last shown.
    pub(crate) const SHOWN_FOR: Duration = Duration::from_secs(24 * 3600);

    /// The card of somebody, with the first id whose string is kept where the connection leads to.
    pub(crate) fn of(identity: &Identity, served: &Served) -> Self {
        // An identity is three plain fields, which always have a JSON form.
        let text = serde_json::to_string(identity).unwrap_or_default();
        let mut salt = 0_u32;
        let ids = || {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            salt.hash(&mut hasher);
            salt += 1;
            hasher.finish()
        };
        // Where there is none, the card is not kept, and people see the claim without a name.
        let id = served.first(ids, names::card_of).unwrap_or(0);
        Self { id, text, name: format!("{id:016x}") }
    }

    pub(crate) fn read(text: &str) -> Option<Arc<Identity>> {
        serde_json::from_str(text).ok().map(Arc::new)
    }
}
