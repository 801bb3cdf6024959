//! The line as operators and the rule see it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tenure_core::engine::{
    Attempt, Contender, Engine, Gone, Renewal, Restamp, Standing, Stray, Withdrawn, line,
};
use tenure_core::{ClaimId, Identity, IfBusy, Key, Mode};

use super::cases;
use crate::site::Site;
use crate::stage::Stage;
use crate::tools::{gone, granted, granted_at_last, holds, in_time, waits};

cases![
    evict_takes_out_a_holder_and_tells_it,
    evict_takes_out_a_waiter_and_tells_it,
    evict_of_a_claim_that_is_not_there_changes_nothing,
    an_evicted_claim_cannot_come_back,
    inspect_shows_the_line_with_identities_and_standings,
    inspect_changes_nothing,
    keys_are_listed_in_order_and_in_pages,
    hostile_names_are_keys_that_do_not_meet_c114,
    permits_have_slots_of_their_own_c111[Permits],
    the_engine_grants_exactly_what_the_rule_says[Arrival],
];

async fn evict_takes_out_a_holder_and_tells_it<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.client().await, stage.client().await);
    let claim = stage.claim("k");
    let mut victim = one.contend(claim.clone());
    let token = granted(&mut victim).await.tokens.first;
    assert!(holds(&mut victim).await);
    let mut next = two.contend(stage.claim("k"));
    waits(&mut next).await;
    let told = async {
        // A wake may be spurious; what counts is that a renewal after one tells the truth.
        loop {
            in_time("the evicted holder is told", victim.changed()).await.unwrap();
            if let Renewal::Gone(gone) = victim.renew().await.unwrap() {
                return gone;
            }
        }
    };
    let evict = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        two.evict(&claim.key, claim.id).await.unwrap()
    };
    let (gone, evicted) = tokio::join!(told, evict);
    assert_eq!((gone, evicted), (Gone::Evicted, Withdrawn::Held));
    assert_eq!(victim.restamp().await.unwrap(), Restamp::Gone(Gone::Evicted));
    assert!(granted_at_last(&mut next).await.tokens.first > token);
    next.withdraw(Stray::Impossible).await.unwrap();
}

async fn evict_takes_out_a_waiter_and_tells_it<S: Site>(stage: &Stage<S>) {
    let (one, two) = (stage.client().await, stage.client().await);
    let mut holder = one.contend(stage.claim("k"));
    granted(&mut holder).await;
    let claim = stage.claim("k");
    let mut victim = one.contend(claim.clone());
    waits(&mut victim).await;
    assert_eq!(two.evict(&claim.key, claim.id).await.unwrap(), Withdrawn::Waited);
    in_time("the evicted waiter is told", victim.changed()).await.unwrap();
    assert_eq!(gone(&mut victim).await, Gone::Evicted);
    assert!(holds(&mut holder).await);
    holder.withdraw(Stray::Impossible).await.unwrap();
}

async fn evict_of_a_claim_that_is_not_there_changes_nothing<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let (stranger, claim) = (stage.claim("k"), stage.claim("k"));
    assert_eq!(engine.evict(&stranger.key, stranger.id).await.unwrap(), Withdrawn::Absent);
    let mut holder = engine.contend(claim.clone());
    granted(&mut holder).await;
    assert_eq!(engine.evict(&stranger.key, stranger.id).await.unwrap(), Withdrawn::Absent);
    assert!(holds(&mut holder).await);
    // The same claim id under another key is another claim.
    assert_eq!(engine.evict(&stage.key("other"), claim.id).await.unwrap(), Withdrawn::Absent);
    assert!(holds(&mut holder).await);
    holder.withdraw(Stray::Impossible).await.unwrap();
}

async fn an_evicted_claim_cannot_come_back<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let claim = stage.claim("k");
    granted(&mut engine.contend(claim.clone())).await;
    engine.evict(&claim.key, claim.id).await.unwrap();
    assert_eq!(gone(&mut engine.contend(claim.clone())).await, Gone::Evicted);
    engine.contend(claim.clone()).withdraw(Stray::Possible).await.unwrap();
    assert_eq!(gone(&mut engine.contend(claim)).await, Gone::Evicted, "an eviction stays an eviction");
    assert!(stage.places("k").await.is_empty());
}

async fn inspect_shows_the_line_with_identities_and_standings<S: Site>(stage: &Stage<S>) {
    // An identity is that of a client.
    let (one, two) = (stage.client().await, stage.client().await);
    let (mut reader, mut writer) = (stage.claim("k"), stage.claim("k"));
    (reader.mode, reader.identity) = (Mode::Shared, somebody("the reader"));
    writer.identity = somebody("the writer");
    let empty = stage.line("k").await;
    assert_eq!((empty.key, empty.places), (stage.key("k"), vec![]));
    let grant = granted(&mut one.contend(reader.clone())).await;
    waits(&mut two.contend(writer.clone())).await;
    let line = stage.line("k").await;
    assert_eq!(line.last_token, Some(grant.tokens.last()));
    let [first, second] = line.places.as_slice() else { panic!("two places, not {:?}", line.places) };
    assert_eq!((first.claim, first.mode), (reader.id, Mode::Shared));
    assert!(
        matches!(first.standing, Standing::Holds { token, slot: 0, .. } if token == grant.tokens.first),
        "{first:?}"
    );
    assert_eq!((second.claim, second.mode, second.standing), (writer.id, Mode::Exclusive, Standing::Waits));
    assert_eq!(first.identity.as_ref(), Some(&reader.identity));
    assert_eq!(second.identity.as_ref(), Some(&writer.identity));
    assert!(first.since < Duration::from_secs(3600) && second.since < Duration::from_secs(3600));
    two.contend(writer).withdraw(Stray::Impossible).await.unwrap();
    one.contend(reader).withdraw(Stray::Impossible).await.unwrap();
}

async fn inspect_changes_nothing<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    stage.line("nobody").await;
    assert!(stage.keys(&stage.prefix).await.is_empty(), "a look made a line");
    let (first, second) = (stage.claim("k"), stage.claim("k"));
    granted(&mut engine.contend(first.clone())).await;
    waits(&mut engine.contend(second.clone())).await;
    for _ in 0..5 {
        let line = stage.line("k").await;
        assert_eq!(line.places.iter().map(|place| place.claim).collect::<Vec<_>>(), [first.id, second.id]);
        assert_eq!(line.places[1].standing, Standing::Waits);
    }
    engine.contend(first).withdraw(Stray::Impossible).await.unwrap();
    engine.contend(second).withdraw(Stray::Impossible).await.unwrap();
}

async fn keys_are_listed_in_order_and_in_pages<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let mut expected = Vec::new();
    let mut claims = Vec::new();
    for n in 0..25 {
        let claim = stage.claim(&format!("list/{:02}", (n * 7) % 25));
        granted(&mut engine.contend(claim.clone())).await;
        expected.push(claim.key.clone());
        claims.push(claim);
    }
    let other = stage.claim("lisp");
    granted(&mut engine.contend(other.clone())).await;
    expected.sort();
    let prefix = stage.name("list/");
    assert_eq!(engine.keys(&prefix, None, 100).await.unwrap(), expected);
    let mut paged: Vec<Key> = Vec::new();
    loop {
        let page = engine.keys(&prefix, paged.last(), 4).await.unwrap();
        assert!(page.len() <= 4);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, expected);
    assert!(engine.keys(&prefix, None, 0).await.unwrap().is_empty());
    for claim in claims.into_iter().chain([other]) {
        engine.contend(claim).withdraw(Stray::Impossible).await.unwrap();
    }
    assert!(engine.keys(&prefix, None, 100).await.unwrap().is_empty(), "a key without a line is listed");
}

async fn hostile_names_are_keys_that_do_not_meet_c114<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let long = "x".repeat(Key::LEN_MAX - stage.prefix.len() - 2);
    let names = [
        "a",
        "A",
        "a ",
        " a",
        "a/b",
        "a%2Fb",
        "a%2fb",
        "a\\b",
        "..",
        ".",
        "../x",
        "/x",
        "//x",
        "x/",
        "x",
        "{x}",
        "{}",
        "*",
        "?",
        "[a]",
        "a:b",
        "a\u{301}",
        "á",
        "ключ",
        "🔒",
        "-rf",
        "~",
        "$HOME",
        "'",
        "\"",
        ";",
        "|",
        "\u{202e}x",
        "con",
        "nul.txt",
        "a.lock",
        "a.tmp",
        "%",
        "%25",
        "a+b",
        "a=b",
        "a&b",
        "a#b",
        "@",
        &long,
        &format!("{long}y"),
        &format!("{}y", &long[1..]),
    ];
    let mut claims = Vec::new();
    for name in names {
        let claim = stage.claim(name);
        granted(&mut engine.contend(claim.clone())).await;
        claims.push(claim);
    }
    let mut expected: Vec<_> = claims.iter().map(|claim| claim.key.clone()).collect();
    expected.sort();
    assert_eq!(stage.keys(&stage.name("")).await, expected);
    for claim in &claims {
        assert_eq!(engine.inspect(&claim.key).await.unwrap().places[0].claim, claim.id);
        assert!(holds(&mut engine.contend(claim.clone())).await);
    }
    for claim in claims {
        let withdrawn = engine.contend(claim).withdraw(Stray::Impossible).await.unwrap();
        assert_eq!(withdrawn, Withdrawn::Held);
    }
}

async fn permits_have_slots_of_their_own_c111<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let mode = Mode::Permit { limit: NonZeroU32::new(4).unwrap() };
    let permit = || {
        let mut claim = stage.claim("k");
        (claim.mode, claim.if_busy) = (mode, IfBusy::Leave);
        engine.contend(claim)
    };
    let mut holders = Vec::new();
    for round in 0..40 {
        let mut taken: Vec<u32> = holders.iter().map(|(slot, _)| *slot).collect();
        if taken.len() == 4 {
            assert!(matches!(permit().attempt().await.unwrap(), Attempt::Busy(_)), "a fifth permit");
            let (_, mut leaves): (u32, <S::Engine as Engine>::Contender) = holders.swap_remove(round % 4);
            leaves.withdraw(Stray::Impossible).await.unwrap();
            continue;
        }
        let mut contender = permit();
        let slot = granted(&mut contender).await.slot;
        assert!(slot < 4 && !taken.contains(&slot), "slot {slot} beside {taken:?}");
        taken.push(slot);
        holders.push((slot, contender));
    }
    for (_, mut holder) in holders {
        holder.withdraw(Stray::Impossible).await.unwrap();
    }
}

/// What happens in a generated line.
#[derive(Clone, Debug)]
enum Step {
    Join(u8),
    /// The place at this index, modulo the length of the line, leaves.
    Leave(usize),
    /// The same, by an operator.
    Evict(usize),
}

async fn the_engine_grants_exactly_what_the_rule_says<S: Site>(stage: &Stage<S>) {
    let engine = stage.client().await;
    let step = prop_oneof![
        4 => (0u8..3).prop_map(Step::Join),
        2 => (0usize..12).prop_map(Step::Leave),
        1 => (0usize..12).prop_map(Step::Evict),
    ];
    let scripts = (1u32..4, prop::collection::vec(step, 1..16));
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let handle = tokio::runtime::Handle::current();
    let outcome = tokio::task::block_in_place(|| {
        runner.run(&scripts, |(limit, steps)| handle.block_on(play(stage, &engine, limit, &steps)))
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// Plays a script on the engine, and after each step compares what it grants with the rule.
async fn play<S: Site>(
    stage: &Stage<S>,
    engine: &S::Engine,
    limit: u32,
    steps: &[Step],
) -> Result<(), TestCaseError> {
    let name = crate::tools::claim_id().to_string();
    let mut line: Vec<(ClaimId, Mode, <S::Engine as Engine>::Contender)> = Vec::new();
    for step in steps {
        match step {
            Step::Join(kind) => {
                let mut claim = stage.claim(&name);
                claim.mode = match kind {
                    0 => Mode::Exclusive,
                    1 => Mode::Shared,
                    _ => Mode::Permit { limit: NonZeroU32::new(limit).unwrap() },
                };
                line.push((claim.id, claim.mode, engine.contend(claim)));
            }
            Step::Leave(at) if !line.is_empty() => {
                let (.., mut contender) = line.remove(at % line.len());
                contender.withdraw(Stray::Impossible).await.unwrap();
            }
            Step::Evict(at) if !line.is_empty() => {
                let (id, ..) = line.remove(at % line.len());
                engine.evict(&stage.key(&name), id).await.unwrap();
            }
            Step::Leave(_) | Step::Evict(_) => {}
        }
        let rule = line::granted(line.iter().map(|(_, mode, _)| *mode));
        for (at, (id, _, contender)) in line.iter_mut().enumerate() {
            match contender.attempt().await.unwrap() {
                Attempt::Granted(grant) => {
                    prop_assert!(at < rule, "place {at} was granted, the rule grants {rule}");
                    prop_assert_eq!(grant.claim, *id);
                }
                Attempt::Waiting(waiting) => {
                    prop_assert!(at >= rule, "place {at} waits, the rule grants {rule}");
                    prop_assert_eq!(waiting.ahead, at);
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
        let seen = stage.claims(&name).await;
        prop_assert_eq!(seen, line.iter().map(|(id, ..)| *id).collect::<Vec<_>>());
    }
    for (.., mut contender) in line {
        contender.withdraw(Stray::Impossible).await.unwrap();
    }
    Ok(())
}

/// Who the suite says it is.
fn somebody(command: &str) -> Arc<Identity> {
    Arc::new(Identity::with_command(command))
}
