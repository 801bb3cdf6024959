//! Lost and late messages, dead connections and dead sessions, on a real server.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_executor::block_on;
use futures_util::FutureExt;
use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Gone, Renewal, Restamp, Retry, Stray, Validity,
    Wake, Withdrawn,
};
use tenure_core::{IfBusy, LossCause, Tenure, blocking};
use zookeeper_client::{Acls, CreateMode};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_is_one_round_trip_to_hold_and_one_to_leave() {
    let (proxy, zookeeper) = behind_a_proxy().await;
    let name = name("k");
    // The folder is made once.
    granted(&mut zookeeper.contend(claim(&name))).await;
    let mut holder = zookeeper.contend(claim(&name));
    waits(&mut holder).await;
    let mut first = zookeeper.contend(claim(&format!("{name}/2")));
    granted(&mut first).await;
    first.withdraw(Stray::Impossible).await.unwrap();
    let count = counting(&proxy);
    let mut cycle = zookeeper.contend(claim(&format!("{name}/2")));
    let grant = granted(&mut cycle).await;
    assert_eq!(count.load(Ordering::SeqCst), 2, "one write and one read, sent together");
    assert_eq!(grant.validity, Validity::Lease(SESSION / 2));
    assert_eq!(cycle.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c026_c062_a_lost_reply_does_not_block_its_own_claim() {
    let (proxy, zookeeper) = behind_a_proxy().await;
    let (wish, name) = {
        let name = name("k");
        (claim(&name), name)
    };
    granted(&mut zookeeper.contend(claim(&format!("{name}/other")))).await;
    proxy.next(Side::Replies, names(&wish), Trick::CutBefore);
    // Its folder is made first, by the same words; so the reply to the second request is the one that is lost.
    let mut contender = zookeeper.contend(wish);
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth));
    let grant = granted_at_last(&mut contender).await;
    let line = client().await.inspect(&key(&name)).await.unwrap();
    assert_eq!(line.places.len(), 1, "it was applied once");
    assert_eq!(line.last_token, Some(grant.tokens.first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c029_c034_an_attempt_whose_reply_was_lost_and_that_is_withdrawn_leaves_nothing() {
    let (proxy, zookeeper) = behind_a_proxy().await;
    let name = name("k");
    let wish = claim(&name);
    proxy.next(Side::Replies, names(&wish), Trick::CutBefore);
    let mut contender = zookeeper.contend(wish);
    contender.attempt().await.unwrap_err();
    eventually("it is withdrawn", async || contender.withdraw(Stray::Possible).await.is_ok()).await;
    let observer = client().await;
    assert_eq!(places(&observer, &name).await, 0);
    assert!(matches!(contender.attempt().await, Ok(Attempt::Gone(Gone::Withdrawn))));
    assert_eq!(places(&observer, &name).await, 0);
    granted(&mut observer.contend(claim(&name))).await;
}

/// Found by `tenure verify`: a withdrawal was given up for good because its connection had fallen silent, and its key
/// stayed taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c078_whatever_a_silent_connection_fails_with_is_worth_another_try() {
    let (proxy, zookeeper) = behind_a_proxy().await;
    let name = name("k");
    granted(&mut zookeeper.contend(claim(&name))).await;
    proxy.swallow(Side::Replies, true);
    // Some of them are under way when the client library gives the connection up.
    let asking = (0..60_u32).map(|n| {
        let mut contender = zookeeper.contend(claim(&format!("{name}/{n}")));
        tokio::spawn(async move {
            tokio::time::sleep(SESSION * n / 60).await;
            contender.attempt().await.unwrap_err()
        })
    });
    for asked in futures_util::future::join_all(asking).await {
        let error = asked.unwrap();
        assert_eq!((error.kind(), error.retry()), (EngineErrorKind::Unreachable, Retry::Worth), "{error}");
    }
}

/// Found by `tenure verify`: a server reads what a connection has sent to its end, also when the session goes on over
/// another connection, on which nothing was found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c029_a_node_that_comes_after_its_withdrawal_is_found_and_removed() {
    let (proxy, zookeeper) = behind_a_proxy().await;
    let (observer, name) = (client().await, name("k"));
    granted(&mut observer.contend(claim(&name))).await;
    let wish = claim(&name);
    proxy.next(Side::Requests, names(&wish), Trick::CutBefore);
    let mut contender = zookeeper.contend(wish.clone());
    contender.attempt().await.unwrap_err();
    eventually("it is withdrawn", async || contender.withdraw(Stray::Possible).await.is_ok()).await;
    assert_eq!(places(&observer, &name).await, 1);
    let late = raw(server().port()).await;
    let folder = format!("/tenure/{}", name.replace('/', "%2f"));
    let ephemeral = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let (_, sequence) = late.create(&format!("{folder}/{}-x-", wish.id), b"", &ephemeral).await.unwrap();
    // It never counts, though it is there: whoever comes next is behind the holder alone.
    assert_eq!(places(&observer, &name).await, 1);
    let mut next = observer.contend(claim(&name));
    assert_eq!(waits(&mut next).await.ahead, 1);
    let node = format!("{folder}/{}-x-{sequence}", wish.id);
    eventually("it is removed", async || late.check_stat(&node).await.unwrap().is_none()).await;
    assert_eq!(places(&observer, &name).await, 2);
    assert!(matches!(contender.attempt().await, Ok(Attempt::Gone(Gone::Withdrawn))));
    eventually("no trace is left of it", async || {
        late.list_children(&folder).await.unwrap().iter().all(|child| !child.contains(&wish.id.to_string()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c029_a_claim_whose_withdrawal_has_begun_is_not_granted_any_more() {
    let (proxy, zookeeper) = behind_a_proxy().await;
    let (observer, name) = (client().await, name("k"));
    let wish = claim(&name);
    granted(&mut observer.contend(claim(&format!("{name}/other")))).await;
    proxy.next(Side::Replies, names(&wish), Trick::CutBefore);
    let mut contender = zookeeper.contend(wish);
    contender.attempt().await.unwrap_err();
    granted_at_last(&mut contender).await;
    // It says that none of its nodes counts, and cannot delete the one that it has.
    proxy.next(Side::Requests, asks(DELETE), Trick::CutBefore);
    contender.withdraw(Stray::Impossible).await.unwrap_err();
    granted(&mut observer.contend(claim(&name))).await;
    assert!(matches!(contender.attempt().await, Ok(Attempt::Gone(Gone::Withdrawn))));
    assert!(matches!(contender.renew().await, Ok(Renewal::Gone(Gone::Withdrawn))));
    eventually("it is withdrawn", async || contender.withdraw(Stray::Impossible).await.is_ok()).await;
    assert_eq!(places(&observer, &name).await, 1);
}

/// Found by `tenure verify`: a process went on after a stop; it gave up its turn, attempted and withdrew, all at once.
/// The withdrawal came to a value that stood for the claim no more, and the attempt before it joined anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c029_a_withdrawal_behind_another_refuses_the_attempt_between_them() {
    let (proxy, zookeeper) = behind_a_proxy().await;
    let wish = claim(&name("k"));
    let [mut holder, mut late, mut last] = std::array::from_fn(|_| zookeeper.contend(wish.clone()));
    granted(&mut holder).await;
    proxy.hold(Side::Requests, true);
    let mut first = std::pin::pin!(holder.withdraw(Stray::Impossible));
    assert!(first.as_mut().now_or_never().is_none());
    assert!(late.attempt().now_or_never().is_none());
    let mut last = std::pin::pin!(last.withdraw(Stray::Possible));
    assert!(last.as_mut().now_or_never().is_none());
    proxy.hold(Side::Requests, false);
    assert_eq!(first.await.unwrap(), Withdrawn::Held);
    // Whether the attempt came before it or comes after it.
    last.await.unwrap();
    assert!(matches!(late.attempt().await, Ok(Attempt::Gone(Gone::Withdrawn))));
    assert_eq!(places(&client().await, wish.key.as_str()).await, 0);
}

/// Found by `tenure verify`: a process that was stopped for nearly as long as its session lasts was granted a key, and
/// its session was ended a moment later, because the leader had not heard of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c023_a_proof_right_after_a_silence_counts_for_nothing() {
    let (proxy, zookeeper) = behind_a_proxy().await;
    let mut holder = zookeeper.contend(claim(&name("k")));
    granted(&mut holder).await;
    proxy.hold(Side::Requests, true);
    // The silence itself.
    tokio::time::sleep(SESSION * 2 / 5).await;
    proxy.hold(Side::Requests, false);
    let error = holder.renew().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth), "{error}");
    let mut new = zookeeper.contend(claim(&name("new")));
    assert!(!matches!(new.attempt().await, Ok(Attempt::Granted(_))));
    granted_at_last(&mut new).await;
    eventually("it counts again", async || matches!(holder.renew().await, Ok(Renewal::Renewed(_)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c033_a_release_that_meets_a_dead_connection_is_repeated_until_it_is_done() {
    let name = name("k");
    for trick in [Trick::CutBefore, Trick::CutAfter] {
        let (proxy, zookeeper) = behind_a_proxy().await;
        let mut holder = zookeeper.contend(claim(&name));
        granted(&mut holder).await;
        proxy.next(Side::Requests, asks(DELETE), trick.clone());
        let error = holder.withdraw(Stray::Impossible).await.unwrap_err();
        assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth));
        let mut was = None;
        eventually("it is done", async || {
            was = holder.withdraw(Stray::Impossible).await.ok();
            was.is_some()
        })
        .await;
        assert_eq!(was, Some(Withdrawn::Held), "{trick:?}: it held until it was withdrawn");
        assert_eq!(places(&zookeeper, &name).await, 0);
    }
    // The same by the face that users see.
    let (proxy, zookeeper) = behind_a_proxy().await;
    let guard = Tenure::new(zookeeper).lock(&*name).acquire().await.unwrap();
    proxy.next(Side::Requests, asks(DELETE), Trick::CutAfter);
    drop(guard);
    let observer = client().await;
    eventually("the key is free", async || places(&observer, &name).await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c035_c036_a_node_of_another_session_is_deleted_and_never_adopted() {
    let (proxy, zookeeper) = behind_a_proxy().await;
    let name = name("k");
    let wish = claim(&name);
    let mut contender = zookeeper.contend(wish.clone());
    granted(&mut contender).await;
    contender.withdraw(Stray::Impossible).await.unwrap();
    // What an earlier session of the same claim has left, as far as anybody can see.
    let earlier = raw(server().port()).await;
    let folder = format!("/tenure/{}", name.replace('/', "%2f"));
    let ephemeral = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let left = earlier.create(&format!("{folder}/{}-x-", wish.id), b"", &ephemeral).await.unwrap();
    let (stat, _) = left;
    proxy.next(Side::Requests, asks(CREATE), Trick::CutBefore);
    contender.attempt().await.unwrap_err();
    let grant = granted_at_last(&mut contender).await;
    assert!(
        grant.tokens.first.get() > u64::try_from(stat.czxid).unwrap(),
        "not the token of another session"
    );
    assert_eq!(places(&zookeeper, &name).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c005_c006_c036_a_session_that_expired_is_noticed_by_holder_and_waiter() {
    let proxy = Proxy::before(server().port(), Proxy::length_first).unwrap();
    let short = at(proxy.port()).with_session(Duration::from_secs(2));
    let (zookeeper, other) = (open(&short).await, client().await);
    let (held, awaited) = (name("held"), name("awaited"));
    let mut blocker = other.contend(claim(&awaited));
    let before = granted(&mut blocker).await;
    let (mut holder, mut waiter) = (zookeeper.contend(claim(&held)), zookeeper.contend(claim(&awaited)));
    let first = granted(&mut holder).await;
    waits(&mut waiter).await;
    proxy.refuse(true);
    proxy.cut();
    eventually("the server has ended the session", async || places(&other, &held).await == 0).await;
    assert_eq!(places(&other, &awaited).await, 1);
    proxy.refuse(false);
    // The holder of the key that it waits for still holds, and the waiter is told all the same.
    assert_eq!(in_time("the waiter is told", waiter.changed()).await.unwrap(), Wake::LookAgain);
    eventually("the holder is told", async || {
        matches!(holder.renew().await, Ok(Renewal::Gone(Gone::Absent)))
    })
    .await;
    assert_eq!(waits(&mut waiter).await.ahead, 1, "it has joined again, in a new session");
    let again = granted_at_last(&mut holder).await;
    assert!(again.tokens.first > first.tokens.last(), "another hold");
    blocker.withdraw(Stray::Impossible).await.unwrap();
    assert!(granted_at_last(&mut waiter).await.tokens.first > before.tokens.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c007_c023_a_loss_is_told_before_the_server_ends_the_session() {
    let (proxy, zookeeper) = behind_a_proxy().await;
    let name = name("k");
    let guard = Tenure::new(zookeeper).lock(&*name).acquire().await.unwrap();
    proxy.swallow(Side::Requests, true);
    proxy.swallow(Side::Replies, true);
    let loss = in_time("the loss is told", guard.lost()).await;
    assert_eq!(loss.cause, LossCause::Expired);
    assert!(!guard.is_held());
    let observer = client().await;
    assert_eq!(places(&observer, &name).await, 1, "the server has given the key away before");
    eventually("then the session ends", async || places(&observer, &name).await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c009_a_connection_that_breaks_and_comes_back_costs_no_hold() {
    let (proxy, zookeeper) = behind_a_proxy().await;
    let name = name("k");
    let guard = Tenure::new(zookeeper).lock(&*name).acquire().await.unwrap();
    for _ in 0..3 {
        proxy.refuse(true);
        proxy.cut();
        tokio::time::sleep(SESSION / 20).await;
        proxy.refuse(false);
        eventually("it is reached again", async || guard.verify().await.is_ok_and(|held| held.is_ok())).await;
        assert!(guard.is_held());
    }
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c049_a_waiter_is_granted_with_a_token_above_all_handovers_before_it() {
    let (one, two) = (client().await, client().await);
    let name = name("k");
    let (mut holder, mut waiter) = (one.contend(claim(&name)), two.contend(claim(&name)));
    granted(&mut holder).await;
    waits(&mut waiter).await;
    let mut last = None;
    for _ in 0..3 {
        let Ok(Restamp::Fresh(fresh)) = holder.restamp().await else { panic!("it holds") };
        assert!(Some(fresh.first) > last);
        last = Some(fresh.last());
    }
    holder.withdraw(Stray::Impossible).await.unwrap();
    let grant = granted_at_last(&mut waiter).await;
    assert!(Some(grant.tokens.first) > last, "its node is older than the handovers, and its token is not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c107_a_release_wakes_one_of_a_thousand_by_as_many_requests_as_one_of_three() {
    let proxy = Proxy::before(server().port(), Proxy::length_first).unwrap();
    let patient = at(proxy.port()).with_session(Duration::from_secs(40));
    let zookeeper = open(&patient).await;
    let count = counting(&proxy);
    let mut cost = Vec::new();
    for waiters in [3, 1_000] {
        let name = name("k");
        let mut holder = zookeeper.contend(claim(&name));
        granted(&mut holder).await;
        let mut line: Vec<_> = (0..waiters).map(|_| zookeeper.contend(claim(&name))).collect();
        for waiter in &mut line {
            waits(waiter).await;
        }
        let before = once_quiet(&count).await;
        holder.withdraw(Stray::Impossible).await.unwrap();
        in_time("the next is told", line[0].changed()).await.unwrap();
        granted(&mut line[0]).await;
        cost.push(once_quiet(&count).await - before);
        let told = futures_util::future::join_all(line[1..].iter_mut().map(|waiter| async {
            tokio::time::timeout(Duration::from_millis(1), waiter.changed()).await.is_ok()
        }));
        assert!(told.await.iter().all(|told| !told), "somebody else was woken");
    }
    // The release, the write of the next one, and what the one behind it asks to know that it holds.
    assert!((2..=8).contains(&cost[0]), "{cost:?}");
    assert_eq!(cost[0], cost[1], "a release costs more in a long line");
}

/// How many requests were made, once no more are.
async fn once_quiet(count: &std::sync::atomic::AtomicUsize) -> usize {
    let mut before = usize::MAX;
    eventually("all is quiet", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = count.load(Ordering::SeqCst);
        std::mem::replace(&mut before, now) == now
    })
    .await;
    before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c108_places_are_in_order_although_the_sequence_has_wrapped() {
    let zookeeper = client().await;
    let name = name("k");
    // Makes the folder.
    let mut first = zookeeper.contend(claim(&name));
    granted(&mut first).await;
    first.withdraw(Stray::Impossible).await.unwrap();
    let other = raw(server().port()).await;
    let folder = format!("/tenure/{}", name.replace('/', "%2f"));
    let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    let mut claims = Vec::new();
    for sequence in ["2147483647", "-2147483648", "-2147483647"] {
        let claim = claim(&name);
        other.create(&format!("{folder}/{}-x-{sequence}", claim.id), b"", &ephemeral).await.unwrap();
        claims.push(claim.id);
    }
    let seen: Vec<_> =
        zookeeper.inspect(&key(&name)).await.unwrap().places.iter().map(|place| place.claim).collect();
    assert_eq!(seen, claims);
    assert_eq!(zookeeper.evict(&key(&name), claims[0]).await.unwrap(), Withdrawn::Held);
    assert_eq!(zookeeper.evict(&key(&name), claims[2]).await.unwrap(), Withdrawn::Waited);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_dropped_closes_its_session_and_frees_its_keys_at_once() {
    let (one, two) = (client().await, client().await);
    let name = name("k");
    let mut holder = one.contend(claim(&name));
    granted(&mut holder).await;
    let mut waiter = two.contend(claim(&name));
    waits(&mut waiter).await;
    let (session, _) = one.session().await.unwrap();
    drop((holder, one));
    granted_at_last(&mut waiter).await;
    let closed = server_says("dump", |said| !said.contains(&format!("{session:#x}")));
    assert!(closed, "the session is still there");
}

fn server_says(command: &str, wanted: impl Fn(&str) -> bool) -> bool {
    tenure_servers::until(|| {
        tenure_servers::zookeeper::say(server().port(), command).is_ok_and(|said| wanted(&said))
    })
}

#[test]
fn the_blocking_face_works_without_a_runtime_and_runtimes_may_come_and_go() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let zookeeper = first.block_on(client());
    drop(first);
    let name = name("k");
    let tenure = blocking::Tenure::from(Tenure::new(zookeeper.clone()));
    let guard = tenure.lock(&*name).acquire().unwrap();
    std::thread::scope(|threads| {
        let other = threads.spawn(|| tenure.lock(&*name).acquire().unwrap().release().unwrap());
        guard.check().unwrap();
        guard.release().unwrap();
        other.join().unwrap();
    });
    let mut contender = zookeeper.contend(claim(&name));
    block_on(granted(&mut contender));
    let second = runtime();
    assert!(matches!(second.block_on(contender.renew()), Ok(Renewal::Renewed(_))));
    let mut hasty = claim(&name);
    hasty.if_busy = IfBusy::Leave;
    assert!(matches!(block_on(zookeeper.contend(hasty).attempt()), Ok(Attempt::Busy(_))));
    assert_eq!(block_on(contender.withdraw(Stray::Impossible)).unwrap(), Withdrawn::Held);
}
