//! The fencing token, and the rule by which engines without a log of their own make one.
//!
//! A lease cannot stop a holder that is paused and does not know it; a resource that remembers the highest token it
//! has seen can. That only works when no token is ever given out twice, whatever is forgotten. A bare counter is
//! forgotten by a failover, a lost file or a clean-up; a bare clock repeats and steps back. [`TokenSource::next`]
//! takes the maximum of both and of what the client remembers, so that any one of the three is enough.
//!
//! # Invariants
//! 1. Tokens of a key rise strictly over all grants, in every mode.
//! 2. A token is below 2^53, so that Lua, JSON and SQL carry it exactly.
//! 3. A block of spare tokens never reaches more than [`AHEAD_MAX`] beyond the engine's clock.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

/// How far reserved tokens may run ahead of the engine's clock. A failover that forgets a grant takes longer than
/// this, so the clock alone keeps the next token above a forgotten one.
pub const AHEAD_MAX: Duration = Duration::from_millis(100);

/// A number that rises with every grant of a key, and that a resource checks to refuse a stale holder.
///
/// # Guarantees
/// Unique and strictly rising per key over all grants of all modes, to the durability that the engine's
/// [`Facts`](crate::engine::Facts) state. Always below 2^53.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(NonZeroU64);

impl FencingToken {
    /// The greatest token: 2^53 - 1, which in microseconds since 1970 is the year 2255.
    pub const MAX: Self = match NonZeroU64::new((1 << 53) - 1) {
        Some(max) => Self(max),
        None => unreachable!(),
    };

    /// A token from a stored number; none for zero and for numbers that JSON or Lua would round.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self).filter(|token| *token <= Self::MAX)
    }

    /// The token as a number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The token that follows, none at the end of the range.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::new(self.get() + 1)
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FencingToken({})", self.0)
    }
}

/// A granted token with the spare ones reserved behind it, for handovers inside the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBlock {
    /// The token of the grant.
    pub first: FencingToken,
    /// How many tokens after `first` belong to the same grant.
    pub spare: u32,
}

impl TokenBlock {
    /// A block of one.
    #[must_use]
    pub fn single(token: FencingToken) -> Self {
        Self { first: token, spare: 0 }
    }

    /// The last token of the block.
    #[must_use]
    pub fn last(self) -> FencingToken {
        FencingToken::new(self.first.get() + u64::from(self.spare)).unwrap_or(FencingToken::MAX)
    }

    /// The block without its first token, none when it had only that.
    #[must_use]
    pub fn rest(self) -> Option<Self> {
        let spare = self.spare.checked_sub(1)?;
        Some(Self { first: self.first.next()?, spare })
    }
}

/// What the hybrid rule looks at.
#[derive(Clone, Copy, Debug)]
pub struct TokenSource {
    /// The last token that the engine remembers for the key; zero when it remembers none.
    pub last: u64,
    /// The engine's clock, in microseconds since 1970.
    pub clock_micros: u64,
    /// The highest token that the client has seen for the key.
    pub floor: Option<FencingToken>,
}

impl TokenSource {
    /// The next token: above the last, above whatever the client has seen, and not below the clock.
    ///
    /// `spare` tokens are reserved behind it as far as the clock allows. None when the range is used up, which only a
    /// forged token or floor can do.
    #[must_use]
    pub fn next(self, spare: u32) -> Option<TokenBlock> {
        let floor = self.floor.map_or(0, FencingToken::get);
        let clock = self.clock_micros.min(FencingToken::MAX.get());
        let first = FencingToken::new((self.last.max(floor).checked_add(1)?).max(clock))?;
        let horizon = clock.saturating_add(AHEAD_MAX.as_micros() as u64).min(FencingToken::MAX.get());
        let room = horizon.saturating_sub(first.get());
        Some(TokenBlock { first, spare: spare.min(u32::try_from(room).unwrap_or(u32::MAX)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn c073_tokens_stay_exact_in_json_lua_and_sql() {
        assert_eq!(FencingToken::new(0), None);
        assert_eq!(FencingToken::new(1 << 53), None);
        assert_eq!(FencingToken::new((1 << 53) - 1), Some(FencingToken::MAX));
        assert_eq!(FencingToken::MAX.get() as f64 as u64, FencingToken::MAX.get());
        assert_eq!(FencingToken::MAX.next(), None);
    }

    proptest! {
        #[test]
        fn c049_the_next_token_is_above_everything_remembered(
            last in 0u64..(1 << 52), clock in 0u64..(1 << 52), floor in 0u64..(1 << 52), spare in 0u32..1_000_000,
        ) {
            let source = TokenSource { last, clock_micros: clock, floor: FencingToken::new(floor) };
            let block = source.next(spare).unwrap();
            prop_assert!(block.first.get() > last && block.first.get() > floor && block.first.get() >= clock);
            prop_assert!(block.spare <= spare);
            prop_assert!(block.spare == 0 || block.last().get() <= clock + AHEAD_MAX.as_micros() as u64);
        }

        #[test]
        fn a_block_gives_its_tokens_in_order(first in 1u64..1_000_000, spare in 0u32..100) {
            let mut block = Some(TokenBlock { first: FencingToken::new(first).unwrap(), spare });
            for n in 0..=u64::from(spare) {
                prop_assert_eq!(block.unwrap().first.get(), first + n);
                block = block.unwrap().rest();
            }
            prop_assert_eq!(block, None);
        }
    }
}
