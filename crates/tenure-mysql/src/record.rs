//! What the rows of a line mean: from the tables to the pure ledger.

use sqlx::Row;
use sqlx::mysql::MySqlRow;
use tenure_core::engine::answers;
use tenure_core::engine::ledger::{Ledger, Place, State, Tombstone};
use tenure_core::{FencingToken, TokenBlock};

use crate::session;

/// All rows of a line, with the last token and the time; one row without a place for a line that is empty.
pub(crate) const READ: &str = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)), k.last_token, \
    p.claim, p.mode, p.lim, p.term_us, p.spare, p.floor, p.state, p.ends_us, p.token, p.spare_granted, p.slot, \
    p.since_us, p.channel, p.identity, p.session, \
    p.session <> 0 AND IS_FREE_LOCK(CONCAT('tenure ', p.session)) \
    FROM tenure_keys k LEFT JOIN tenure_places p ON p.`key` = k.`key` WHERE k.`key` = ? ORDER BY p.seq";

/// For how long the server would keep a session, in microseconds, if it heard no more of it.
const KEPT: u64 = session::KEPT.as_micros() as u64;

/// What a place says of its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) channel: i64,
    pub(crate) identity: Vec<u8>,
}

/// The ledger that the rows hold, and the server's time; none when they make no sense.
pub(crate) fn read(rows: &[MySqlRow]) -> Option<(Ledger<Tag>, u64)> {
    let mut ledger = Ledger::default();
    let mut now = 0;
    for row in rows {
        let number = |at: usize| row.try_get::<i64, _>(at).ok().and_then(|number| u64::try_from(number).ok());
        now = number(0)?;
        ledger.last_token = number(1)?;
        if row.try_get::<Option<String>, _>(2).ok()?.is_none() {
            continue;
        }
        let claim = row.try_get::<String, _>(2).ok()?.parse().ok()?;
        let state: String = row.try_get(8).ok()?;
        let (ends, in_session) = (number(9)?, number(16)? != 0);
        if let "withdrawn" | "evicted" = state.as_str() {
            ledger.tombstones.push(Tombstone { claim, evicted: state == "evicted", expires: ends });
            continue;
        }
        if number(17)? != 0 {
            // Its session has ended.
            continue;
        }
        // A hold that has a session stands as long as that, whatever the time.
        let ends_held = if in_session { now.saturating_add(KEPT) } else { ends };
        let tokens = || {
            Some(TokenBlock { first: FencingToken::new(number(10)?)?, spare: number(11)?.try_into().ok()? })
        };
        let slot = number(12)?.try_into().ok()?;
        let state = match state.as_str() {
            "waiting" => State::Waiting { expires: ends },
            "offered" => State::Offered { tokens: tokens()?, slot, lapses: ends },
            "held" => State::Held { tokens: tokens()?, slot, expires: ends_held },
            _ => return None,
        };
        ledger.places.push(Place {
            claim,
            mode: answers::mode(&row.try_get::<String, _>(3).ok()?, number(4)?.try_into().ok()?)?,
            term: number(5)?,
            spare: number(6)?.try_into().ok()?,
            floor: number(7)?,
            state,
            since: number(13)?,
            tag: Tag { channel: row.try_get(14).ok()?, identity: row.try_get(15).ok()? },
        });
    }
    Some((ledger, now))
}
