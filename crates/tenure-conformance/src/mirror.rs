//! Books that a server keeps against the pure ledger: the same verbs at the same times give the same answers, tell the
//! same claims, and leave the same line.
//!
//! For engines whose verbs run on the server, as scripts or functions. The server is real; only the time is given to
//! it, so that terms and claim windows pass at once.

use std::cell::RefCell;
use std::fmt::Debug;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tenure_core::engine::inbox::{self, CLAIM_WINDOW};
use tenure_core::engine::ledger::{Expiry, Ledger, LimitDiffers, Place, State, Terms, Told};
use tenure_core::engine::{Attempt, Renewal, Restamp, Stray, Waiting, Wake, Withdrawn, answers};
use tenure_core::{Claim, ClaimId, FencingToken, IfBusy, Key, Mode, Ttl};

/// The time at which every comparison begins, in microseconds since 1970: far enough in the future that nothing ends
/// by the server's own clock.
pub const BASE: u64 = 2_000_000_000_000_000;

/// A verb that both sides are asked.
#[derive(Clone, Debug)]
#[allow(
    missing_docs,
    clippy::exhaustive_enums,
    reason = "the verbs of an engine, all of which books must know"
)]
pub enum Verb {
    Attempt(Claim),
    Renew(Claim),
    Restamp(Claim),
    Withdraw(Claim, Stray),
    Evict(ClaimId),
}

/// Books on a server.
pub trait Books {
    /// What they keep with each place.
    type Tag: Clone + Debug + PartialEq;

    /// Begins with an empty line for this key, on which all that follows acts.
    fn open(&mut self, key: &Key);

    /// What the place of this claim is to be tagged with.
    fn tag(&self, claim: ClaimId) -> Self::Tag;

    /// Lets a verb act at a time, in microseconds since 1970; the answer as [`answers`] describes it.
    fn act(&mut self, now: u64, verb: &Verb) -> String;

    /// The messages that were sent to clients since the last time, in order.
    fn told(&mut self) -> Vec<String>;

    /// The line as it is kept.
    fn ledger(&mut self) -> Ledger<Self::Tag>;
}

#[derive(Debug, PartialEq)]
enum Answer {
    Attempt(Result<Attempt, LimitDiffers>),
    Renewal(Renewal),
    Restamp(Restamp),
    Withdrawn(Withdrawn),
}

/// Compares books with the pure ledger on so many generated lines of verbs.
///
/// # Panics
/// When they differ, with the shortest verbs that show it.
pub fn compare(books: impl Books, cases: u32) {
    let books = RefCell::new((0, books));
    let mut runner =
        TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&verbs(), |verbs| {
        let (case, books) = &mut *books.borrow_mut();
        *case += 1;
        let key = key(&format!("case/{case}"));
        books.open(&key);
        let (mut pure, mut now) = (Ledger::default(), BASE);
        for (pause, wish) in &verbs {
            now += pause;
            let verb = wish.verb(&key);
            let (expected, told) = expect(books, &mut pure, now, &verb);
            let line = books.act(now, &verb);
            let answer = read(&line, &verb).map(|answer| at_the_hint(answer, &expected, &pure, now));
            prop_assert_eq!(Some(&expected), answer.as_ref(), "{:?} to {:?} at {}", &line, wish, now);
            let heard: Vec<_> = books.told().iter().map(|line| inbox::read(line)).collect();
            prop_assert_eq!(told, heard, "told after {:?} at {}", wish, now);
            prop_assert_eq!(sorted(pure.clone()), sorted(books.ledger()), "after {:?} at {}", wish, now);
        }
        Ok(())
    });
    if let Err(difference) = result {
        panic!("{difference}");
    }
}

/// The answer as it was expected, if all that differs is when to look again and somebody ahead ends at that moment: the
/// ledger names the earliest of them, books may name one that they find with less work.
fn at_the_hint<T>(answer: Answer, expected: &Answer, pure: &Ledger<T>, now: u64) -> Answer {
    let waiting = |answer: &Answer| match answer {
        Answer::Attempt(Ok(Attempt::Waiting(waiting) | Attempt::Busy(waiting))) => Some(*waiting),
        _ => None,
    };
    let (Some(said), Some(meant)) = (waiting(&answer), waiting(expected)) else { return answer };
    let ends = |place: &Place<T>| match place.state {
        State::Waiting { expires: ends }
        | State::Offered { lapses: ends, .. }
        | State::Held { expires: ends, .. } => Duration::from_micros(ends - now),
    };
    let is_one = pure.places.iter().take(meant.ahead).any(|place| Some(ends(place)) == said.look_in);
    let waiting = if is_one { Waiting { look_in: meant.look_in, ..said } } else { said };
    Answer::Attempt(Ok(match answer {
        Answer::Attempt(Ok(Attempt::Busy(_))) => Attempt::Busy(waiting),
        _ => Attempt::Waiting(waiting),
    }))
}

/// What the pure ledger answers, and whom it tells.
fn expect<B: Books>(
    books: &B,
    pure: &mut Ledger<B::Tag>,
    now: u64,
    verb: &Verb,
) -> (Answer, Vec<Option<(ClaimId, Wake)>>) {
    let window = CLAIM_WINDOW.as_micros() as u64;
    let terms = Terms { now, wall_micros: now, window, expiry: Expiry::Lease };
    let alive = &mut |_: &B::Tag| true;
    let (answer, told) = match verb {
        Verb::Attempt(claim) => {
            let (attempt, told) = pure.attempt(claim, &books.tag(claim.id), &terms, alive);
            (Answer::Attempt(attempt), told)
        }
        Verb::Renew(claim) => {
            let (renewal, told) = pure.renew(claim, &books.tag(claim.id), &terms, alive);
            (Answer::Renewal(renewal), told)
        }
        Verb::Restamp(claim) => {
            let (restamp, told) = pure.restamp(claim, &terms, alive);
            (Answer::Restamp(restamp), told)
        }
        Verb::Withdraw(claim, stray) => {
            let (withdrawn, told) = pure.withdraw(claim, *stray, &terms, alive);
            (Answer::Withdrawn(withdrawn), told)
        }
        Verb::Evict(claim) => {
            let (withdrawn, told) = pure.evict(*claim, &terms, alive);
            (Answer::Withdrawn(withdrawn), told)
        }
    };
    let wake = |told: Told<B::Tag>| Some((told.claim, told.grant.map_or(Wake::LookAgain, Wake::Granted)));
    (answer, told.into_iter().map(wake).collect())
}

fn read(line: &str, verb: &Verb) -> Option<Answer> {
    match verb {
        Verb::Attempt(claim) => answers::attempt(line, claim).map(Answer::Attempt),
        Verb::Renew(claim) => answers::renewal(line, claim).map(Answer::Renewal),
        Verb::Restamp(_) => answers::restamp(line).map(Answer::Restamp),
        Verb::Withdraw(..) | Verb::Evict(_) => answers::withdrawn(line).map(Answer::Withdrawn),
    }
}

/// In one order of tombstones, which have none.
fn sorted<T>(mut ledger: Ledger<T>) -> Ledger<T> {
    ledger.tombstones.sort_by_key(|tombstone| tombstone.claim);
    ledger
}

/// A verb as it is generated, and shrunk.
#[derive(Clone, Debug)]
enum Wish {
    Attempt { who: u128, mode: Mode, ttl: u64, spare: u32, floor: u64, leave: bool },
    Renew { who: u128, ttl: u64 },
    Restamp { who: u128, spare: u32, floor: u64 },
    Withdraw { who: u128, ttl: u64, stray: bool },
    Evict { who: u128 },
}

impl Wish {
    fn verb(&self, key: &Key) -> Verb {
        let claim = |who: u128, ttl: u64| {
            let mut claim = Claim::new(key.clone(), ClaimId::from_bits(who));
            claim.ttl = Ttl::new(Duration::from_millis(ttl)).unwrap_or_default();
            claim
        };
        match *self {
            Self::Attempt { who, mode, ttl, spare, floor, leave } => {
                let mut claim = claim(who, ttl);
                (claim.mode, claim.spare_tokens, claim.floor) = (mode, spare, FencingToken::new(floor));
                claim.if_busy = if leave { IfBusy::Leave } else { IfBusy::Join };
                Verb::Attempt(claim)
            }
            Self::Renew { who, ttl } => Verb::Renew(claim(who, ttl)),
            Self::Restamp { who, spare, floor } => {
                let mut claim = claim(who, 50);
                (claim.spare_tokens, claim.floor) = (spare, FencingToken::new(floor));
                Verb::Restamp(claim)
            }
            Self::Withdraw { who, ttl, stray } => {
                Verb::Withdraw(claim(who, ttl), if stray { Stray::Possible } else { Stray::Impossible })
            }
            Self::Evict { who } => Verb::Evict(ClaimId::from_bits(who)),
        }
    }
}

fn key(name: &str) -> Key {
    match Key::new(name) {
        Ok(key) => key,
        Err(error) => panic!("{error}"),
    }
}

fn verbs() -> impl Strategy<Value = Vec<(u64, Wish)>> {
    let who = 1u128..7;
    let ttl = prop_oneof![Just(50u64), Just(1_000), Just(10_000)];
    let permit = |limit| NonZeroU32::new(limit).map_or(Mode::Shared, |limit| Mode::Permit { limit });
    let mode = prop_oneof![
        3 => Just(Mode::Exclusive),
        2 => Just(Mode::Shared),
        3 => Just(permit(2)),
        1 => Just(permit(3)),
    ];
    let spare = prop_oneof![Just(0u32), Just(64), Just(200_000)];
    // Nothing seen, seen ahead of the server's clock, and the forged end of the range.
    let floor = prop_oneof![12 => Just(0u64), 3 => Just(BASE + 50_000_000), 1 => Just((1 << 53) - 1)];
    let verb = prop_oneof![
        8 => (who.clone(), mode, ttl.clone(), spare.clone(), floor.clone(), any::<bool>())
            .prop_map(|(who, mode, ttl, spare, floor, leave)| Wish::Attempt { who, mode, ttl, spare, floor, leave }),
        3 => (who.clone(), ttl.clone()).prop_map(|(who, ttl)| Wish::Renew { who, ttl }),
        1 => (who.clone(), spare, floor).prop_map(|(who, spare, floor)| Wish::Restamp { who, spare, floor }),
        5 => (who.clone(), ttl, any::<bool>()).prop_map(|(who, ttl, stray)| Wish::Withdraw { who, ttl, stray }),
        1 => who.prop_map(|who| Wish::Evict { who }),
    ];
    let pause = prop_oneof![
        4 => 0u64..1_000,
        2 => Just(50_000u64),
        2 => Just(999_999),
        1 => Just(CLAIM_WINDOW.as_micros() as u64),
        1 => Just(11_000_000),
    ];
    prop::collection::vec((pause, verb), 1..60)
}
