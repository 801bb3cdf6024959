//! What the rows of a line mean: from the tables to the pure ledger.

use std::sync::Arc;

use tenure_core::engine::answers;
use tenure_core::engine::ledger::{Ledger, Place, State};
use tenure_core::{FencingToken, Identity, TokenBlock};
use tokio_postgres::Row;

/// What a place says of its client: where to tell it, and who it is, in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) channel: String,
    pub(crate) identity: String,
}

impl Tag {
    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        serde_json::from_str(&self.identity).ok().map(Arc::new)
    }
}

/// A line as it was read, with the server's time.
pub(crate) struct Read {
    pub(crate) ledger: Ledger<Tag>,
    pub(crate) now: u64,
}

/// The line that these rows say, which are of the statement `inspect`; none when they are not ours. Tombstones are not
/// in them.
pub(crate) fn read(rows: &[Row]) -> Option<Read> {
    let mut read = Read { ledger: Ledger::default(), now: 0 };
    for row in rows {
        read.now = number(row, 0)?;
        read.ledger.last_token = number(row, 1)?;
        // A key without places is one row without a place.
        if row.try_get::<_, Option<String>>(2).ok()?.is_some() {
            read.ledger.places.push(place(row)?);
        }
    }
    Some(read)
}

fn place(row: &Row) -> Option<Place<Tag>> {
    let text = |at| row.try_get::<_, String>(at).ok();
    let (ends, slot) = (number(row, 9)?, u32::try_from(number(row, 12)?).ok()?);
    let tokens = || {
        let first = FencingToken::new(number(row, 10)?)?;
        Some(TokenBlock { first, spare: u32::try_from(number(row, 11)?).ok()? })
    };
    Some(Place {
        claim: text(2)?.parse().ok()?,
        mode: answers::mode(&text(3)?, u32::try_from(number(row, 4)?).ok()?)?,
        term: number(row, 5)?,
        spare: u32::try_from(number(row, 6)?).ok()?,
        floor: number(row, 7)?,
        state: match &*text(8)? {
            "waits" => State::Waiting { expires: ends },
            "offered" => State::Offered { tokens: tokens()?, slot, lapses: ends },
            "holds" => State::Held { tokens: tokens()?, slot, expires: ends },
            _ => return None,
        },
        since: number(row, 13)?,
        tag: Tag { channel: text(14)?, identity: text(15)? },
    })
}

fn number(row: &Row, at: usize) -> Option<u64> {
    u64::try_from(row.try_get::<_, i64>(at).ok()?).ok()
}
