//! What a verb that ran on a server answers: one line of words, the same for scripts and for functions in SQL.
//!
//! | verb | answers |
//! |---|---|
//! | attempt | `granted <token> <spare> <slot>`, `waiting <ahead> <look in> <token>`, `busy …`, `gone …`, `limit <n>` |
//! | renew | `renewed`, `gone <why>` |
//! | restamp | `fresh <token> <spare>`, `gone <why>` |
//! | withdraw, evict | `held`, `waited`, `absent` |
//!
//! `<look in>` is in microseconds, or `none`. Every function gives none for a line that makes no sense.

use std::num::NonZeroU32;
use std::time::Duration;

use super::ledger::LimitDiffers;
use super::{Attempt, Gone, Grant, Renewal, Restamp, Validity, Waiting, Withdrawn};
use crate::{Claim, ClaimId, FencingToken, Mode, TokenBlock};

/// The longest term that is sent: with it, a deadline is still a number that any server carries exactly.
pub const TERM_MAX: Duration = Duration::from_micros(1 << 52);

/// The term of a claim as it is sent.
#[must_use]
pub fn term(claim: &Claim) -> Duration {
    claim.term().min(TERM_MAX)
}

/// A mode as a word, and its limit or zero.
#[must_use]
pub fn mode_words(mode: Mode) -> (&'static str, u32) {
    match mode {
        Mode::Exclusive => ("x", 0),
        Mode::Shared => ("s", 0),
        Mode::Permit { limit } => ("p", limit.get()),
    }
}

/// A mode from its word and limit.
#[must_use]
pub fn mode(word: &str, limit: u32) -> Option<Mode> {
    match word {
        "x" => Some(Mode::Exclusive),
        "s" => Some(Mode::Shared),
        "p" => Some(Mode::Permit { limit: NonZeroU32::new(limit)? }),
        _ => None,
    }
}

/// The answer to an attempt of `claim`, which was sent with its [`term`].
#[must_use]
pub fn attempt(line: &str, claim: &Claim) -> Option<Result<Attempt, LimitDiffers>> {
    let mut words = line.split(' ');
    Some(Ok(match words.next()? {
        "granted" => {
            let (tokens, slot) = tokens_and_slot(&mut words)?;
            Attempt::Granted(Grant { claim: claim.id, tokens, slot, validity: Validity::Lease(term(claim)) })
        }
        "waiting" => Attempt::Waiting(waiting(&mut words)?),
        "busy" => Attempt::Busy(waiting(&mut words)?),
        "gone" => Attempt::Gone(gone(words.next()?)?),
        "limit" => {
            let stored = words.next()?.parse().ok().and_then(NonZeroU32::new)?;
            return Some(Err(LimitDiffers { stored }));
        }
        _ => return None,
    }))
}

/// The answer to a renewal of `claim`.
#[must_use]
pub fn renewal(line: &str, claim: &Claim) -> Option<Renewal> {
    let mut words = line.split(' ');
    match (words.next()?, words.next()) {
        ("renewed", None) => Some(Renewal::Renewed(Validity::Lease(term(claim)))),
        ("gone", Some(why)) => gone(why).map(Renewal::Gone),
        _ => None,
    }
}

/// The answer to a request for a fresh token.
#[must_use]
pub fn restamp(line: &str) -> Option<Restamp> {
    let mut words = line.split(' ');
    match words.next()? {
        "fresh" => tokens(&mut words).map(Restamp::Fresh),
        "gone" => gone(words.next()?).map(Restamp::Gone),
        _ => None,
    }
}

/// The answer to a withdrawal or an eviction.
#[must_use]
pub fn withdrawn(line: &str) -> Option<Withdrawn> {
    match line {
        "held" => Some(Withdrawn::Held),
        "waited" => Some(Withdrawn::Waited),
        "absent" => Some(Withdrawn::Absent),
        _ => None,
    }
}

/// What a client is told: `<claim> <token> <spare> <slot>` is a grant; a claim alone only has something to look at.
pub(super) fn told(line: &str) -> Option<(ClaimId, Option<(TokenBlock, u32)>)> {
    let (claim, grant) = line.split_once(' ').map_or((line, None), |(claim, grant)| (claim, Some(grant)));
    let grant = match grant {
        Some(grant) => Some(tokens_and_slot(&mut grant.split(' '))?),
        None => None,
    };
    Some((claim.parse().ok()?, grant))
}

fn tokens<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<TokenBlock> {
    let first = FencingToken::new(words.next()?.parse().ok()?)?;
    Some(TokenBlock { first, spare: words.next()?.parse().ok()? })
}

fn tokens_and_slot<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<(TokenBlock, u32)> {
    Some((tokens(words)?, words.next()?.parse().ok()?))
}

fn waiting<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Waiting> {
    let ahead = words.next()?.parse().ok()?;
    let look_in = match words.next()? {
        "none" => None,
        micros => Some(Duration::from_micros(micros.parse().ok()?)),
    };
    Some(Waiting { ahead, look_in, last_token: words.next()?.parse().ok()? })
}

/// Why a claim is gone.
#[must_use]
pub fn gone(why: &str) -> Option<Gone> {
    match why {
        "evicted" => Some(Gone::Evicted),
        "withdrawn" => Some(Gone::Withdrawn),
        "absent" => Some(Gone::Absent),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;

    fn claim() -> Claim {
        Claim::new(Key::new("k").unwrap(), ClaimId::from_bits(7))
    }

    #[test]
    fn each_answer_is_read_as_it_is_written() {
        let claim = claim();
        let Some(Ok(Attempt::Granted(grant))) = attempt("granted 42 2 1", &claim) else { panic!() };
        assert_eq!((grant.tokens.first.get(), grant.tokens.spare, grant.slot), (42, 2, 1));
        let expected = Waiting { ahead: 3, look_in: None, last_token: 9 };
        assert_eq!(attempt("waiting 3 none 9", &claim), Some(Ok(Attempt::Waiting(expected))));
        let expected = Waiting { ahead: 1, look_in: Some(Duration::from_micros(5)), last_token: 9 };
        assert_eq!(attempt("busy 1 5 9", &claim), Some(Ok(Attempt::Busy(expected))));
        assert_eq!(attempt("gone evicted", &claim), Some(Ok(Attempt::Gone(Gone::Evicted))));
        let stored = NonZeroU32::new(3).unwrap();
        assert_eq!(attempt("limit 3", &claim), Some(Err(LimitDiffers { stored })));
        assert_eq!(renewal("gone absent", &claim), Some(Renewal::Gone(Gone::Absent)));
        assert_eq!(withdrawn("waited"), Some(Withdrawn::Waited));
    }

    #[test]
    fn c030_a_line_that_makes_no_sense_is_no_answer() {
        let claim = claim();
        for line in
            ["", "granted", "granted 0 0 0", "granted 1 0", "waiting x none 1", "gone", "limit 0", "ok"]
        {
            assert_eq!(attempt(line, &claim), None, "{line}");
        }
        for line in ["", "renewed 1", "gone", "gone away"] {
            assert_eq!(renewal(line, &claim), None, "{line}");
        }
        assert_eq!(restamp("fresh 1"), None);
        assert_eq!(withdrawn("held 1"), None);
    }

    #[test]
    fn a_mode_reads_back() {
        for made in [Mode::Exclusive, Mode::Shared, Mode::Permit { limit: NonZeroU32::new(2).unwrap() }] {
            let (word, limit) = mode_words(made);
            assert_eq!(mode(word, limit), Some(made));
        }
        assert_eq!(mode("p", 0), None);
    }
}
