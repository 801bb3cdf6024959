//! The one rule of every primitive: who is granted in a line.
//!
//! A key has a line of places in order of arrival. A place is granted exactly when it and all live places before it
//! fit together. From this follow the mutex (exclusive places only), the read/write lock (exclusive and shared) and
//! the semaphore (permits), and that none of them starves anybody.
//!
//! # Invariants
//! 1. Exclusive fits with nothing, shared with shared, a permit with up to `limit` permits.
//! 2. The granted places are a prefix of the line: nobody overtakes.
//! 3. When a place leaves, no granted place stops being granted.
//!
//! Engines whose server runs scripts mirror [`granted`]; they are tested against it with the same generated lines.

use crate::Mode;

/// What the rule says of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "engines must answer every verdict")]
pub enum Verdict {
    /// It holds.
    Granted,
    /// It waits, and nothing can change for it before the place at this index has left.
    WaitBehind(usize),
    /// It waits for any one of the permits before it.
    WaitForPermit,
}

/// How many places at the head of the line are granted.
pub fn granted(line: impl IntoIterator<Item = Mode>) -> usize {
    let mut line = line.into_iter();
    let Some(first) = line.next() else { return 0 };
    1 + match first {
        Mode::Exclusive => 0,
        Mode::Shared => line.take_while(|mode| *mode == Mode::Shared).count(),
        Mode::Permit { limit } => {
            line.take_while(|mode| *mode == first).take(limit.get() as usize - 1).count()
        }
    }
}

/// The verdict for the place at `me`.
///
/// # Panics
/// When the line has no place `me`.
#[must_use]
pub fn verdict(line: &[Mode], me: usize) -> Verdict {
    let mine = line[me];
    if me < granted(line.iter().copied()) {
        return Verdict::Granted;
    }
    // Whoever does not fit with me must leave first. If all before me do fit, we are permits and too many.
    let stranger = line[..me].iter().rposition(|mode| mine == Mode::Exclusive || *mode != mine);
    stranger.map_or(Verdict::WaitForPermit, Verdict::WaitBehind)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroU32;

    /// Any mode; the permits of one line agree on their limit.
    pub(crate) fn lines() -> impl Strategy<Value = Vec<Mode>> {
        (1u32..5, prop::collection::vec(0u8..3, 0..12)).prop_map(|(limit, kinds)| {
            let limit = NonZeroU32::new(limit).unwrap();
            let mode = |kind| match kind {
                0 => Mode::Exclusive,
                1 => Mode::Shared,
                _ => Mode::Permit { limit },
            };
            kinds.into_iter().map(mode).collect()
        })
    }

    /// The rule in its own words: does this set of places fit together?
    fn fit_together(places: &[Mode]) -> bool {
        match places {
            [] | [_] => true,
            [first, rest @ ..] => match first {
                Mode::Exclusive => false,
                Mode::Shared => rest.iter().all(|mode| mode == first),
                Mode::Permit { limit } => {
                    rest.iter().all(|mode| mode == first) && places.len() <= limit.get() as usize
                }
            },
        }
    }

    proptest! {
        #[test]
        fn a_place_is_granted_iff_it_and_all_before_it_fit_together(line in lines()) {
            for me in 0..line.len() {
                let granted = verdict(&line, me) == Verdict::Granted;
                prop_assert_eq!(granted, fit_together(&line[..=me]), "place {} of {:?}", me, line);
            }
        }

        #[test]
        fn nobody_is_robbed_when_a_place_leaves(line in lines(), leaves in 0usize..12) {
            prop_assume!(leaves < line.len());
            let mut after = line.clone();
            after.remove(leaves);
            for me in (0..line.len()).filter(|me| *me != leaves) {
                let now = if me > leaves { me - 1 } else { me };
                if verdict(&line, me) == Verdict::Granted {
                    prop_assert_eq!(verdict(&after, now), Verdict::Granted);
                }
            }
        }

        #[test]
        fn a_waiter_knows_the_one_place_it_waits_for(line in lines()) {
            for me in 0..line.len() {
                let Verdict::WaitBehind(behind) = verdict(&line, me) else { continue };
                // While that place stays, no departure of others lets me in.
                for kept in 0..(1u32 << me) {
                    if kept & (1 << behind) == 0 { continue }
                    let mut rest: Vec<_> = (0..me).filter(|i| kept & (1 << i) != 0).map(|i| line[i]).collect();
                    rest.push(line[me]);
                    prop_assert_ne!(verdict(&rest, rest.len() - 1), Verdict::Granted);
                }
            }
        }
    }

    #[test]
    fn c110_a_writer_behind_readers_is_not_overtaken_by_later_readers() {
        let line = [Mode::Shared, Mode::Shared, Mode::Exclusive, Mode::Shared];
        assert_eq!(granted(line), 2);
        assert_eq!(verdict(&line, 2), Verdict::WaitBehind(1));
        assert_eq!(verdict(&line, 3), Verdict::WaitBehind(2));
    }

    #[test]
    fn c111_permits_are_places_so_their_sum_cannot_exceed_the_limit() {
        let limit = NonZeroU32::new(2).unwrap();
        let line = [Mode::Permit { limit }; 4];
        assert_eq!(granted(line), 2);
        assert_eq!(verdict(&line, 3), Verdict::WaitForPermit);
    }
}
