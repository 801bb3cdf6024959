//! Who a client is, for people: a small string beside the lines, named by a hash of what it says.
//!
//! A place names the card instead of repeating it: what an operator wants to know once need not be sent and stored
//! with every lock.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tenure_core::Identity;

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

    fn of(identity: &Identity) -> Self {
        // An identity is three plain fields, which always have a JSON form.
        let text = serde_json::to_string(identity).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let id = hasher.finish();
        Self { id, text, name: format!("{id:016x}") }
    }

    pub(crate) fn read(text: &str) -> Option<Arc<Identity>> {
        serde_json::from_str(text).ok().map(Arc::new)
    }
}

/// The card that was made last: one process nearly always has one identity.
#[derive(Debug, Default)]
pub(crate) struct Cards(Mutex<Option<(Arc<Identity>, Arc<Card>)>>);

impl Cards {
    pub(crate) fn of(&self, identity: &Arc<Identity>) -> Arc<Card> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, card)) = &*last
            && Arc::ptr_eq(known, identity)
        {
            return Arc::clone(card);
        }
        let card = Arc::new(Card::of(identity));
        *last = Some((Arc::clone(identity), Arc::clone(&card)));
        card
    }
}
