//! What the client makes of an engine that breaks, on simulated time.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure_conformance::faulty::{Fault, Faulty, Gate, Verb};
use tenure_conformance::simulation::SimClock;
use tenure_core::engine::memory::Memory;
use tenure_core::engine::{Engine, PlaceView, Standing};
use tenure_core::event::{Event, What};
use tenure_core::lease::Clock;
use tenure_core::{ErrorKind, Key, LossCause, Options, Released, Tenure};

const TTL: Duration = Duration::from_secs(6);

/// An engine, and clients that reach it over connections that break.
struct World {
    engine: Memory,
    seeds: std::cell::Cell<u64>,
}

/// One client.
struct Client {
    tenure: Tenure,
    line: Faulty<Memory>,
    clock: Arc<SimClock>,
    events: Arc<Mutex<Vec<What>>>,
}

impl World {
    fn new() -> Self {
        Self { engine: Memory::with_clock(Arc::new(SimClock::new(0))), seeds: std::cell::Cell::new(1) }
    }

    fn client(&self) -> Client {
        self.client_with_rate(0)
    }

    fn client_with_rate(&self, rate_ppm: i32) -> Client {
        let (line, clock) = (Faulty::new(self.engine.clone()), Arc::new(SimClock::new(rate_ppm)));
        let events: Arc<Mutex<Vec<What>>> = Arc::default();
        let observer = {
            let events = Arc::clone(&events);
            move |event: &Event| events.lock().unwrap().push(event.what.clone())
        };
        let seed = self.seeds.replace(self.seeds.get() + 1);
        let clock_of_client: Arc<dyn Clock> = clock.clone();
        let options = Options::default().clock(clock_of_client).seed(seed).observer(observer);
        let (tenure, keeper) = Tenure::with_own_keeper(line.clone(), options);
        tokio::spawn(keeper);
        Client { tenure, line, clock, events }
    }

    async fn places(&self) -> Vec<PlaceView> {
        self.engine.inspect(&Key::new("k").unwrap()).await.unwrap().places
    }

    /// How long it takes until the line is empty.
    async fn empty(&self) -> Duration {
        let since = now();
        while !self.places().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        since.elapsed()
    }
}

impl Client {
    fn lock(&self) -> tenure_core::Lock {
        self.tenure.lock("k").ttl(TTL)
    }

    fn saw(&self, which: impl Fn(&What) -> bool) -> usize {
        self.events.lock().unwrap().iter().filter(|what| which(what)).count()
    }
}

#[allow(clippy::disallowed_methods, reason = "simulated time is tokio's")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[tokio::test(start_paused = true)]
async fn c002_validity_counts_from_the_send() {
    let world = World::new();
    let client = world.client();
    client.line.next(Verb::Attempt, Fault::LateReply(TTL / 2));
    let guard = client.lock().acquire().await.unwrap();
    assert!(guard.remaining().unwrap() <= TTL / 2);
    let Standing::Holds { expires_in, .. } = world.places().await[0].standing else { panic!() };
    assert!(guard.remaining() < expires_in, "the holder counts on more than the engine has granted");
}

#[tokio::test(start_paused = true)]
async fn c003_a_grant_with_too_little_left_is_asked_for_again() {
    let world = World::new();
    let client = world.client();
    client.line.next(Verb::Attempt, Fault::LateReply(TTL * 9 / 10));
    let guard = client.lock().acquire().await.unwrap();
    assert!(guard.remaining().unwrap() >= TTL / 4);
    assert_eq!(client.saw(|what| matches!(what, What::GrantedLate)), 1);
    assert_eq!(world.places().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn c005_a_place_that_died_while_its_client_was_cut_off_is_joined_anew() {
    let world = World::new();
    let (one, two, three) = (world.client(), world.client(), world.client());
    let holder = one.lock().acquire().await.unwrap();
    let waits = two.tenure.lock("k").ttl(TTL * 10);
    let early = tokio::spawn(async move { waits.acquire().await.unwrap() });
    sleep(Duration::from_millis(100)).await;
    two.line.always(Verb::Attempt, Fault::LoseRequest);
    two.line.always(Verb::Changed, Fault::Silence);
    let window = two.tenure.facts().claim_window;
    sleep(window * 2).await;
    assert_eq!(world.places().await.len(), 1, "a waiter that is not heard any more blocks the line");
    let waits = three.lock();
    let late = tokio::spawn(async move { waits.acquire().await.unwrap() });
    sleep(Duration::from_millis(100)).await;
    two.line.heal();
    sleep(window).await;
    holder.release().await.unwrap();
    let late = late.await.unwrap();
    sleep(window * 2).await;
    assert!(!early.is_finished(), "it was granted beside another holder");
    late.release().await.unwrap();
    early.await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn c007_silence_becomes_a_loss_by_our_own_deadline() {
    for silence in [Fault::Silence, Fault::LoseRequest, Fault::Refuse] {
        let world = World::new();
        let client = world.client();
        let since = now();
        let guard = client.lock().acquire().await.unwrap();
        client.line.always(Verb::Renew, silence);
        let loss = guard.lost().await;
        assert_eq!(loss.cause, LossCause::Expired);
        assert!(since.elapsed() <= TTL && since.elapsed() >= TTL * 9 / 10, "{:?}", since.elapsed());
        assert!(!guard.is_held() && guard.check().is_err());
        assert_eq!(world.places().await.len(), 1, "we must know before anybody else is granted");
        assert_eq!(client.saw(|what| matches!(what, What::Suspect { .. })), 1);
        assert_eq!(client.saw(|what| matches!(what, What::Lost { .. })), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn c008_a_hanging_renewal_holds_up_no_other_claim() {
    let world = World::new();
    let client = world.client();
    let unlucky = client.lock().acquire().await.unwrap();
    client.line.next(Verb::Renew, Fault::Silence);
    sleep(TTL / 5).await;
    let lucky = client.tenure.lock("other").ttl(TTL).acquire().await.unwrap();
    sleep(TTL * 3).await;
    assert!(lucky.is_held());
    // One request that is never answered does not cost the hold either: it is given up in time for another.
    assert!(unlucky.is_held(), "{:?}", unlucky.check());
    assert_eq!(client.saw(|what| matches!(what, What::RenewalFailed { .. })), 1);
}

#[tokio::test(start_paused = true)]
async fn c009_trouble_that_passes_costs_no_hold() {
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseReply] {
        let world = World::new();
        let client = world.client();
        let guard = client.lock().acquire().await.unwrap();
        for _ in 0..4 {
            sleep(TTL / 10).await;
            client.line.always(Verb::Renew, fault.clone());
            sleep(TTL / 2).await;
            client.line.heal();
            sleep(TTL).await;
        }
        assert!(guard.is_held(), "{:?}", guard.check());
        assert!(client.saw(|what| matches!(what, What::RenewalFailed { .. })) > 0);
        assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
    }
}

#[tokio::test(start_paused = true)]
async fn c010_a_hold_that_the_engine_forgot_is_lost_for_ever() {
    let world = World::new();
    let (one, two) = (world.client(), world.client());
    let empty = world.engine.snapshot();
    let guard = one.lock().acquire().await.unwrap();
    sleep(TTL).await;
    world.engine.restore(empty);
    let next = two.lock().acquire().await.unwrap();
    assert_eq!(guard.lost().await.cause, LossCause::Denied);
    assert!(next.token() > guard.token());
    next.release().await.unwrap();
    sleep(TTL * 2).await;
    assert!(!guard.is_held(), "the key is free again, the hold is dead all the same");
    assert!(world.places().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn c012_nothing_is_renewed_after_the_guard() {
    let world = World::new();
    let client = world.client();
    for round in 0..200 {
        let guard = client.lock().acquire().await.unwrap();
        sleep(Duration::from_millis(round * 7 % 500)).await;
        if round % 2 == 0 { drop(guard) } else { drop(guard.release().await.unwrap()) }
    }
    world.empty().await;
    let sent = (client.line.sent(Verb::Renew), client.line.sent(Verb::Attempt));
    sleep(TTL * 5).await;
    assert_eq!((client.line.sent(Verb::Renew), client.line.sent(Verb::Attempt)), sent);
    assert!(world.places().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn c016_a_suspended_machine_knows_that_its_hold_is_over() {
    let world = World::new();
    let client = world.client();
    let guard = client.lock().acquire().await.unwrap();
    sleep(TTL).await;
    assert!(guard.is_held());
    client.clock.suspend(TTL);
    assert!(!guard.is_held(), "boot time has passed the lease");
    let since = now();
    assert_eq!(guard.lost().await.cause, LossCause::Expired);
    assert!(since.elapsed() <= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn c020_a_slow_clock_still_loses_before_the_engine_gives_the_key_away() {
    let world = World::new();
    let (slow, other) = (world.client_with_rate(-9_000), world.client());
    let guard = slow.lock().acquire().await.unwrap();
    slow.line.always(Verb::Renew, Fault::LoseRequest);
    let next = other.lock().acquire().await.unwrap();
    assert!(!guard.is_held());
    assert!(next.token() > guard.token());
}

#[tokio::test(start_paused = true)]
async fn c026_a_lost_reply_does_not_block_its_own_claim() {
    for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::Refuse] {
        let world = World::new();
        let client = world.client();
        let since = now();
        client.line.next(Verb::Attempt, fault);
        let guard = client.lock().acquire().await.unwrap();
        assert!(since.elapsed() < Duration::from_millis(100), "{:?}", since.elapsed());
        assert!(client.line.sent(Verb::Attempt) <= 3);
        assert_eq!(world.places().await.len(), 1);
        assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
        assert!(world.empty().await < Duration::from_millis(100));
    }
}

#[tokio::test(start_paused = true)]
async fn c029_a_request_that_arrives_after_its_withdrawal_brings_nothing_back() {
    let world = World::new();
    let client = world.client();
    for polls in 1..4 {
        let gate = Gate::closed();
        client.line.next(Verb::Attempt, Fault::Held(gate.clone()));
        let lock = client.lock();
        let acquires = tokio::spawn(async move { lock.acquire().await });
        for _ in 0..polls {
            tokio::task::yield_now().await;
        }
        acquires.abort();
        sleep(Duration::from_secs(1)).await;
        gate.open();
        sleep(Duration::from_millis(100)).await;
        assert!(world.places().await.is_empty(), "a ghost holds the key");
    }
    assert!(!client.lock().try_acquire().await.unwrap().is_busy());
}

#[tokio::test(start_paused = true)]
async fn c030_a_reply_for_another_claim_is_no_grant() {
    let world = World::new();
    let client = world.client();
    client.line.next(Verb::Attempt, Fault::Misnamed);
    let error = client.lock().acquire().await.expect_err("it was not ours");
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(world.empty().await < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn c031_a_repeated_release_does_not_hit_a_later_hold() {
    let world = World::new();
    let client = world.client();
    client.line.next(Verb::Withdraw, Fault::Twice(Duration::from_secs(1)));
    client.lock().acquire().await.unwrap().release().await.unwrap();
    let guard = client.lock().acquire().await.unwrap();
    sleep(TTL * 2).await;
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
}

#[tokio::test(start_paused = true)]
async fn c033_a_release_that_meets_a_broken_connection_is_finished() {
    let world = World::new();
    let client = world.client();
    let guard = client.lock().acquire().await.unwrap();
    for _ in 0..4 {
        client.line.next(Verb::Withdraw, Fault::LoseRequest);
    }
    let error = guard.release().await.expect_err("nobody knows whether it was released");
    assert!(error.is_unreachable());
    assert!(world.empty().await < TTL / 2);
    assert_eq!(client.saw(|what| matches!(what, What::WithdrawFailed { retrying: true, .. })), 3);
    assert_eq!(client.tenure.shutdown(Duration::from_secs(1)).await, 0);
}

/// How long the keeper lets a withdrawal that began in a drop go without an answer.
const UNHEARD: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn a_withdrawal_that_is_answered_is_not_said_again() {
    let world = World::new();
    let client = world.client();
    for answer in [None, Some(Fault::LateReply(UNHEARD / 2)), Some(Fault::Late(UNHEARD / 2))] {
        let before = client.line.sent(Verb::Withdraw);
        for hold in [Duration::ZERO, UNHEARD / 2, UNHEARD * 2] {
            let guard = client.lock().acquire().await.unwrap();
            sleep(hold).await;
            if let Some(fault) = &answer {
                client.line.next(Verb::Withdraw, fault.clone());
            }
            drop(guard);
            assert!(world.empty().await <= UNHEARD / 2 + Duration::from_millis(2));
            sleep(UNHEARD * 3).await;
        }
        assert_eq!(client.line.sent(Verb::Withdraw) - before, 3, "{answer:?}");
    }
    assert_eq!(client.saw(|what| matches!(what, What::Released { .. })), 9);
    assert_eq!(client.saw(|what| matches!(what, What::Withdrawn)), 9);
    assert_eq!(client.saw(|what| matches!(what, What::WithdrawFailed { .. })), 0);
}

#[tokio::test(start_paused = true)]
async fn c033_a_withdrawal_that_a_drop_began_is_finished_by_the_keeper() {
    let fates = [Fault::Silence, Fault::Panic, Fault::Refuse, Fault::LoseRequest, Fault::LoseReply];
    for fate in fates {
        // Adopted before, or not.
        for hold in [Duration::ZERO, UNHEARD * 2] {
            let world = World::new();
            let client = world.client();
            let guard = client.lock().acquire().await.unwrap();
            sleep(hold).await;
            client.line.next(Verb::Withdraw, fate.clone());
            drop(guard);
            assert!(world.empty().await <= UNHEARD * 2, "{fate:?}");
            sleep(UNHEARD * 3).await;
            assert_eq!(client.line.sent(Verb::Withdraw), 2, "{fate:?}");
            assert_eq!(client.saw(|what| matches!(what, What::Withdrawn)), 1, "{fate:?}");
            let failed = !matches!(fate, Fault::Silence | Fault::Panic);
            let told = client.saw(|what| matches!(what, What::WithdrawFailed { retrying: true, .. }));
            assert_eq!(told, usize::from(failed), "{fate:?}");
            assert_eq!(client.tenure.shutdown(Duration::from_secs(1)).await, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c031_a_withdrawal_that_was_said_twice_does_not_hit_a_later_hold() {
    let world = World::new();
    let client = world.client();
    let guard = client.lock().acquire().await.unwrap();
    client.line.next(Verb::Withdraw, Fault::Late(TTL / 2));
    drop(guard);
    let guard = client.lock().acquire().await.unwrap();
    assert_eq!(client.line.sent(Verb::Withdraw), 2, "the keeper has said it again");
    sleep(TTL).await;
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
    assert_eq!(client.saw(|what| matches!(what, What::Withdrawn)), 2);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_what_a_drop_began() {
    let world = World::new();
    let client = world.client();
    let guard = client.lock().acquire().await.unwrap();
    client.line.next(Verb::Withdraw, Fault::Late(UNHEARD / 2));
    drop(guard);
    assert_eq!(client.tenure.shutdown(TTL).await, 0);
    assert!(world.places().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn c034_an_acquire_that_failed_leaves_no_waiter_behind() {
    let world = World::new();
    let (one, two) = (world.client(), world.client());
    two.line.next(Verb::Attempt, Fault::LoseReply);
    let error = two.lock().try_acquire().await.expect_err("the answer was lost");
    assert!(error.is_unreachable());
    assert!(world.empty().await < Duration::from_secs(1));

    let holder = one.lock().acquire().await.unwrap();
    two.line.next_well(Verb::Attempt);
    two.line.always(Verb::Attempt, Fault::LoseReply);
    let error = two.lock().wait_for(TTL * 3).await.expect_err("the engine could not be reached for a term");
    assert!(error.is_unreachable());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.places().await.len(), 1);
    holder.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn c041_unreachable_is_not_busy() {
    let world = World::new();
    let client = world.client();
    for fault in [Fault::Refuse, Fault::LoseRequest] {
        client.line.always(Verb::Attempt, fault);
        let error = client.lock().try_acquire().await.expect_err("nobody answered");
        assert!(error.is_unreachable());
        let since = now();
        let error = client.lock().wait_for(TTL / 3).await.expect_err("nobody answered");
        assert!(error.is_unreachable());
        assert!(since.elapsed() <= TTL / 2);
        let since = now();
        let error = client.lock().acquire().await.expect_err("nobody answered for a term");
        assert!(error.is_unreachable());
        assert!(since.elapsed() >= TTL / 2 && since.elapsed() <= TTL * 2);
    }
}

#[tokio::test(start_paused = true)]
async fn c041_an_engine_that_never_answers_is_unreachable() {
    let world = World::new();
    let client = world.client();
    client.line.always(Verb::Attempt, Fault::Silence);
    let since = now();
    let hung = tokio::time::timeout(TTL * 10, client.lock().acquire()).await;
    let error = hung.expect("an acquire ends").expect_err("nobody answered");
    assert!(error.is_unreachable());
    assert!(since.elapsed() <= TTL * 2);
    let hung = tokio::time::timeout(TTL * 10, client.lock().wait_for(TTL / 3)).await;
    assert!(hung.expect("a wait ends").expect_err("nobody answered").is_unreachable());
    client.line.heal();
    assert!(!client.lock().try_acquire().await.unwrap().is_busy());
}

#[tokio::test(start_paused = true)]
async fn c041_a_waiter_is_told_that_its_engine_has_gone() {
    for fault in [Fault::Silence, Fault::LoseRequest, Fault::Refuse] {
        let world = World::new();
        let (one, two) = (world.client(), world.client());
        let _holder = one.lock().acquire().await.unwrap();
        let lock = two.lock();
        let waiter = tokio::spawn(async move { lock.acquire().await });
        sleep(TTL).await;
        two.line.always(Verb::Attempt, fault.clone());
        two.line.always(Verb::Changed, Fault::Silence);
        let told = tokio::time::timeout(TTL * 4, waiter).await.expect("it is told");
        assert!(told.unwrap().expect_err("nobody answers").is_unreachable());
    }
}

#[tokio::test(start_paused = true)]
async fn c103_a_lost_wake_is_bounded_by_the_keepers_own_look() {
    let world = World::new();
    let (one, two) = (world.client(), world.client());
    two.line.always(Verb::Changed, Fault::Silence);
    for _ in 0..5 {
        let holder = one.lock().acquire().await.unwrap();
        let lock = two.lock();
        let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
        sleep(TTL).await;
        let since = now();
        holder.release().await.unwrap();
        let guard = waiter.await.unwrap();
        assert!(since.elapsed() <= two.tenure.facts().refresh_every * 2, "{:?}", since.elapsed());
        guard.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn c103_broken_wakes_do_not_make_a_waiter_spin() {
    let world = World::new();
    let (one, two) = (world.client(), world.client());
    two.line.always(Verb::Changed, Fault::Refuse);
    let holder = one.lock().acquire().await.unwrap();
    let lock = two.lock();
    let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
    sleep(TTL).await;
    assert!(two.line.sent(Verb::Attempt) < 200, "{} attempts", two.line.sent(Verb::Attempt));
    holder.release().await.unwrap();
    waiter.await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wake_does_not_make_failing_renewals_spin() {
    let world = World::new();
    let (one, operator) = (world.client(), world.client());
    let guard = one.lock().acquire().await.unwrap();
    sleep(TTL / 4).await;
    one.line.always(Verb::Renew, Fault::LoseReply);
    let before = one.line.sent(Verb::Renew);
    operator.tenure.evict("k", guard.claim()).await.unwrap();
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(
        one.line.sent(Verb::Renew) - before < 10,
        "{} renewals at once",
        one.line.sent(Verb::Renew) - before
    );
    // It is told as soon as an answer comes through.
    one.line.heal();
    assert_eq!(guard.lost().await.cause, LossCause::Revoked);
}

#[tokio::test(start_paused = true)]
async fn c011_after_a_loss_and_a_reconnection_a_new_hold_is_renewed_like_the_first() {
    let world = World::new();
    let client = world.client();
    let first = client.lock().acquire().await.unwrap();
    for verb in [Verb::Attempt, Verb::Renew, Verb::Withdraw] {
        client.line.always(verb, Fault::LoseRequest);
    }
    assert_eq!(first.lost().await.cause, LossCause::Expired);
    sleep(TTL).await;
    client.line.heal();
    drop(first);
    let second = client.lock().acquire().await.unwrap();
    let before = client.line.sent(Verb::Renew);
    sleep(TTL * 5).await;
    assert!(second.is_held(), "{:?}", second.check());
    // Five terms, a renewal each third.
    assert!((14..=16).contains(&(client.line.sent(Verb::Renew) - before)));
}

#[tokio::test(start_paused = true)]
async fn c107_a_release_wakes_one_waiter_however_many_wait() {
    for waiters in [2, 200] {
        let world = World::new();
        let client = world.client();
        let lock = client.lock().fairness(tenure_core::Fairness::StrictFifo);
        let held = lock.acquire().await.unwrap();
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..waiters {
            let lock = lock.clone();
            crowd.spawn(async move { lock.acquire().await.unwrap().release().await.unwrap() });
        }
        while world.places().await.len() <= waiters {
            tokio::task::yield_now().await;
        }
        let verbs = |line: &Faulty<Memory>| {
            line.sent(Verb::Attempt) + line.sent(Verb::Renew) + line.sent(Verb::Withdraw)
        };
        let before = verbs(&client.line);
        held.release().await.unwrap();
        while let Some(released) = crowd.join_next().await {
            assert_eq!(released.unwrap(), Released::Cleanly);
        }
        let each = (verbs(&client.line) - before) as f64 / waiters as f64;
        // One to leave, one that confirms the offer in the background: the wake is the grant.
        assert!(each <= 2.1, "{each} verbs a hand-off among {waiters}");
    }
}
