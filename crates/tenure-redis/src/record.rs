//! What the fields of a line mean: from a hash on the server to the pure ledger.

use tenure_core::engine::answers;
use tenure_core::engine::ledger::{Ledger, Place, State, Tombstone};
use tenure_core::{ClaimId, FencingToken, TokenBlock};

/// What a place says of its client: over which connection to tell it, and which card says who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) connection: u64,
    pub(crate) card: u64,
}

/// The ledger that a hash holds, from its fields and values in turn; none when it is not one of ours.
pub(crate) fn read(fields: &[(&str, &str)]) -> Option<Ledger<Tag>> {
    let field = |name: &str| fields.iter().find(|(field, _)| *field == name).map(|(_, value)| *value);
    let mut ledger = Ledger::default();
    if fields.is_empty() {
        return Some(ledger);
    }
    let (head, first) = split_head(field("tenure")?)?;
    let (_kept, token) = head.strip_prefix("1 ")?.split_once(' ')?;
    ledger.last_token = token.parse().ok()?;
    if let Some((claim, text)) = first {
        ledger.places.push(place(claim.parse().ok()?, text)?);
    }
    for (name, value) in fields.iter().filter(|(name, _)| name.len() == 32) {
        if let Some(grave) = value.strip_prefix("gone ") {
            let (expires, why) = grave.split_once(' ')?;
            let evicted = why == "evicted";
            ledger.tombstones.push(Tombstone {
                claim: name.parse().ok()?,
                evicted,
                expires: expires.parse().ok()?,
            });
        }
    }
    let Some(line) = field("line") else { return Some(ledger) };
    let mut parts = line.splitn(3, '\n');
    let (_numbers, modes, claims) = (parts.next()?, parts.next()?, parts.next()?);
    if claims.len() != modes.len() * 32 || !claims.is_ascii() {
        return None;
    }
    for at in 0..modes.len() {
        let claim = &claims[at * 32..at * 32 + 32];
        ledger.places.push(place(claim.parse().ok()?, field(claim)?)?);
    }
    Some(ledger)
}

/// What is said of the line as a whole, and behind it the first place: its claim, and what it says.
fn split_head(text: &str) -> Option<(&str, Option<(&str, &str)>)> {
    let (head, first) = text.split_at_checked(32)?;
    match first.get(1..) {
        // After a plus without a place there are only tombstones.
        None | Some("") => Some((head, None)),
        Some(first) => Some((head, Some(first.split_once(' ')?))),
    }
}

/// `<state> <ends> <token> <spare> <slot> <since> <mode> <limit> <term> <asked> <floor> <channel> <card>`.
fn place(claim: ClaimId, text: &str) -> Option<Place<Tag>> {
    let words: Vec<_> = text.split(' ').collect();
    let [state, ends, token, spare, slot, since, mode, limit, term, asked, floor, connection, card] =
        words[..]
    else {
        return None;
    };
    let ends = ends.parse().ok()?;
    let tokens = FencingToken::new(token.parse().ok()?).map(|first| (first, spare.parse()));
    let tokens = match tokens {
        Some((first, Ok(spare))) => Some(TokenBlock { first, spare }),
        Some((_, Err(_))) => return None,
        None => None,
    };
    let slot = slot.parse().ok()?;
    let state = match state {
        "waits" => State::Waiting { expires: ends },
        "offered" => State::Offered { tokens: tokens?, slot, lapses: ends },
        "holds" => State::Held { tokens: tokens?, slot, expires: ends },
        _ => return None,
    };
    let mode = answers::mode(mode, limit.parse().ok()?)?;
    Some(Place {
        claim,
        mode,
        term: term.parse().ok()?,
        spare: asked.parse().ok()?,
        floor: floor.parse().ok()?,
        state,
        since: since.parse().ok()?,
        tag: Tag {
            connection: u64::from_str_radix(connection, 16).ok()?,
            card: u64::from_str_radix(card, 16).ok()?,
        },
    })
}
