//! What the data of a place's node says, in JSON: who claims, and since it holds, which slot it has.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tenure_core::Identity;

/// The data of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Card {
    /// Who claims.
    who: Identity,
    /// The negotiated timeout of its session: for so long the key stays taken when its client vanishes.
    pub(crate) session_ms: u64,
    /// Written when a place is granted that was not at once: the slot of a permit, zero for other modes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) holds: Option<u32>,
}

impl Card {
    /// The data of a node that was just made.
    pub(crate) fn new(identity: &Identity, session_ms: u64) -> Self {
        Self { who: identity.clone(), session_ms, holds: None }
    }

    /// The same of one that holds.
    pub(crate) fn holding(&self, slot: u32) -> Self {
        Self { holds: Some(slot), ..self.clone() }
    }

    /// Who claims.
    pub(crate) fn identity(&self) -> Arc<Identity> {
        Arc::new(self.who.clone())
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        // Plain fields, which always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// None when the data is of somebody else.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        serde_json::from_slice(data).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_reads_back_and_the_data_of_others_does_not() {
        let card = Card::new(&Identity::with_command("job"), 30_000);
        assert_eq!(Card::read(&card.write()), Some(card.clone()));
        let holding = card.holding(3);
        assert_eq!(Card::read(&holding.write()).and_then(|card| card.holds), Some(3));
        assert_eq!(Card::read(b"10.0.0.7"), None);
        assert_eq!(Card::read(b""), None);
    }
}
