//! Lost, late and repeated messages, leases that end, and connections that die, on a real server.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Gone, Renewal, Restamp, Retry, Stray, Validity,
    Wake, Withdrawn,
};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{LossCause, Tenure, Ttl};
use tenure_etcd::Etcd;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_is_two_writes_to_the_log_and_a_renewal_none() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    // The first lock asks for leases, which serve those after it.
    let mut first = etcd.contend(claim("k"));
    granted(&mut first).await;
    first.withdraw(Stray::Impossible).await.unwrap();
    let before = etcd.inspect(&key("free")).await.unwrap().last_token.unwrap().get();
    for _ in 0..10 {
        let mut holder = etcd.contend(claim("k"));
        granted(&mut holder).await;
        assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
        assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    }
    let after = etcd.inspect(&key("free")).await.unwrap().last_token.unwrap().get();
    assert_eq!(after - before, 20, "writes of ten cycles");
    let leases = cluster.etcdctl(0, &["lease", "list"]).unwrap();
    assert_eq!(leases.lines().count(), 3, "one for holding and one for waiting: {leases}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_was_waited_for_keeps_its_token_when_it_moves_to_its_own_lease() {
    let cluster = EtcdCluster::single().unwrap();
    let (one, two) = (open(&cluster).await, open(&cluster).await);
    let (mut holder, mut waiter) = (one.contend(claim("k")), two.contend(claim("k")));
    let first = granted(&mut holder).await;
    waits(&mut waiter).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    in_time("the waiter is told", waiter.changed()).await.unwrap();
    let grant = granted(&mut waiter).await;
    assert!(grant.tokens.first > first.tokens.first);
    assert!(matches!(grant.validity, Validity::Lease(short) if short <= Duration::from_secs(5)));
    let Ok(Renewal::Renewed(Validity::Lease(long))) = waiter.renew().await else { panic!("it holds") };
    assert!(long > Duration::from_secs(25), "{long:?}");
    assert_eq!(granted(&mut waiter).await.tokens, grant.tokens);
    let line = one.inspect(&key("k")).await.unwrap();
    assert_eq!(line.last_token, Some(grant.tokens.first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_older_than_a_fresh_token_gets_a_higher_one_and_the_mark_goes_with_the_last() {
    let cluster = EtcdCluster::single().unwrap();
    let (one, two) = (open(&cluster).await, open(&cluster).await);
    let (mut holder, mut waiter) = (one.contend(claim("k")), two.contend(claim("k")));
    granted(&mut holder).await;
    waits(&mut waiter).await;
    let Ok(Restamp::Fresh(fresh)) = holder.restamp().await else { panic!("it holds") };
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    let grant = granted(&mut waiter).await;
    assert!(grant.tokens.first > fresh.first, "{grant:?} after {fresh:?}");
    assert!(matches!(waiter.renew().await, Ok(Renewal::Renewed(_))));
    assert_eq!(waiter.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    let left = cluster.etcdctl(0, &["get", "--prefix", "tenure/", "--keys-only"]).unwrap();
    assert_eq!(left.trim(), "", "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c026_c034_c035_a_lost_reply_makes_no_second_place_and_leaves_none() {
    let cluster = EtcdCluster::single().unwrap();
    let proxy = Proxy::before(cluster.port(0), Proxy::http2).unwrap();
    let direct = open(&cluster).await;
    for gives_up in [false, true] {
        let etcd = Etcd::open(&options(&url_of(&proxy))).await.unwrap();
        // The leases are there already; this is about one transaction.
        let mut other = etcd.contend(claim("other"));
        granted(&mut other).await;
        other.withdraw(Stray::Impossible).await.unwrap();
        let mut contender = etcd.contend(claim("k"));
        proxy.next(Side::Replies, is_data, Trick::CutBefore);
        let error = contender.attempt().await.unwrap_err();
        assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth), "{error}");
        if !gives_up {
            let grant = granted_at_last(&mut contender).await;
            let line = direct.inspect(&key("k")).await.unwrap();
            assert_eq!(line.places.len(), 1);
            assert_eq!(line.last_token, Some(grant.tokens.first), "it was applied once");
        }
        contender.withdraw(Stray::Possible).await.unwrap();
        assert_eq!(places(&direct, "k").await, 0);
        assert_eq!(granted_once(&direct).await, Withdrawn::Held);
    }
}

async fn granted_once(etcd: &Etcd) -> Withdrawn {
    let mut next = etcd.contend(claim("k"));
    granted(&mut next).await;
    next.withdraw(Stray::Impossible).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c029_an_attempt_that_arrives_after_its_withdrawal_is_refused() {
    let cluster = EtcdCluster::single().unwrap();
    let proxy = Proxy::before(cluster.port(0), Proxy::http2).unwrap();
    let (late, direct) = (Etcd::open(&options(&url_of(&proxy))).await.unwrap(), open(&cluster).await);
    let mut other = late.contend(claim("other"));
    granted(&mut other).await;
    other.withdraw(Stray::Impossible).await.unwrap();
    let wish = claim("k");
    let mut contender = late.contend(wish.clone());
    let events = proxy.events();
    proxy.hold(Side::Requests, true);
    let attempt = tokio::spawn(async move { contender.attempt().await });
    assert!(proxy.wait_for_events(events + 1));
    assert_eq!(direct.contend(wish).withdraw(Stray::Possible).await.unwrap(), Withdrawn::Absent);
    proxy.hold(Side::Requests, false);
    let late = attempt.await.unwrap();
    assert!(matches!(late, Ok(Attempt::Gone(Gone::Withdrawn))), "{late:?}");
    assert_eq!(places(&direct, "k").await, 0);
    assert_eq!(granted_once(&direct).await, Withdrawn::Held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c031_c032_a_repeated_withdrawal_hits_nobody_else() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    let (mut first, mut second) = (etcd.contend(claim("k")), etcd.contend(claim("k")));
    granted(&mut first).await;
    assert_eq!(first.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    // On the lease that the first had.
    let grant = granted(&mut second).await;
    assert_eq!(first.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
    assert_eq!(first.withdraw(Stray::Possible).await.unwrap(), Withdrawn::Absent);
    assert_eq!(granted(&mut second).await.tokens, grant.tokens);
    assert!(matches!(second.renew().await, Ok(Renewal::Renewed(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c033_a_release_that_meets_a_dead_connection_is_finished() {
    let cluster = EtcdCluster::single().unwrap();
    let proxy = Proxy::before(cluster.port(0), Proxy::http2).unwrap();
    let direct = open(&cluster).await;
    let tenure = Tenure::new(Etcd::open(&options(&url_of(&proxy))).await.unwrap());
    for side in [Side::Requests, Side::Replies] {
        let guard = tenure.lock("k").acquire().await.unwrap();
        proxy.next(side, is_data, Trick::CutBefore);
        // Whether it says so or not, the place must go.
        let _ = guard.release().await;
        eventually("the place has gone", async || places(&direct, "k").await == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c005_a_waiter_whose_lease_ended_never_holds_by_its_old_place() {
    let cluster = EtcdCluster::single().unwrap();
    let (one, two) = (open(&cluster).await, open(&cluster).await);
    let (mut holder, wish) = (one.contend(claim("k")), claim("k"));
    let mut waiter = two.contend(wish.clone());
    granted(&mut holder).await;
    waits(&mut waiter).await;
    let mut rival = one.contend(claim("k"));
    waits(&mut rival).await;
    revoke_lease_of(&cluster, "k", wish.id);
    holder.withdraw(Stray::Impossible).await.unwrap();
    // Its place would be the first now; it has none, and joins again at the end.
    assert_eq!(waits(&mut waiter).await.ahead, 1);
    let between = granted(&mut rival).await;
    rival.withdraw(Stray::Impossible).await.unwrap();
    assert!(granted(&mut waiter).await.tokens.first > between.tokens.first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c006_a_waiter_is_told_that_its_own_place_has_ended_while_the_holder_still_holds() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    let (mut holder, wish) = (etcd.contend(claim("k")), claim("k"));
    let mut waiter = etcd.contend(wish.clone());
    granted(&mut holder).await;
    waits(&mut waiter).await;
    revoke_lease_of(&cluster, "k", wish.id);
    assert_eq!(in_time("it is told", waiter.changed()).await.unwrap(), Wake::LookAgain);
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c010_c036_a_hold_whose_lease_ended_is_lost_for_ever_and_told_so() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    let tenure = Tenure::new(etcd.clone());
    let guard = tenure.lock("k").acquire().await.unwrap();
    let wish = claim("other");
    let mut holder = etcd.contend(wish.clone());
    granted(&mut holder).await;
    revoke_lease_of(&cluster, "k", guard.claim());
    revoke_lease_of(&cluster, "other", wish.id);
    let loss = in_time("the loss is told", guard.lost()).await;
    assert_eq!(loss.cause, LossCause::Denied);
    assert_eq!(holder.renew().await.unwrap(), Renewal::Gone(Gone::Absent));
    assert_eq!(etcd.contend(wish).renew().await.unwrap(), Renewal::Gone(Gone::Absent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c007_c023_a_client_that_is_cut_off_loses_before_anybody_else_is_granted() {
    let cluster = EtcdCluster::single().unwrap();
    let proxy = Proxy::before(cluster.port(0), Proxy::http2).unwrap();
    let tenure = Tenure::new(Etcd::open(&options(&url_of(&proxy))).await.unwrap());
    let ttl = Duration::from_secs(3);
    let guard = tenure.lock("k").ttl(ttl).acquire().await.unwrap();
    let other = Tenure::new(open(&cluster).await);
    let heir = tokio::spawn(async move {
        let guard = other.lock("k").acquire().await.unwrap();
        (SystemClock.now(), guard)
    });
    proxy.half_open(true);
    let loss = in_time("the loss is told", guard.lost()).await;
    let lost_at = SystemClock.now();
    assert_eq!(loss.cause, LossCause::Expired);
    let (granted_at, heir) = in_time("the heir is granted", heir).await.unwrap();
    assert!(granted_at.since(lost_at) > Duration::ZERO, "the heir was granted before the loss was known");
    assert!(heir.token() > guard.token());
    proxy.half_open(false);
    heir.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c009_a_cut_that_is_shorter_than_the_lease_costs_no_hold() {
    let cluster = EtcdCluster::single().unwrap();
    let proxy = Proxy::before(cluster.port(0), Proxy::http2).unwrap();
    let tenure = Tenure::new(Etcd::open(&options(&url_of(&proxy))).await.unwrap());
    let guard = tenure.lock("k").acquire().await.unwrap();
    for _ in 0..3 {
        proxy.refuse(true);
        proxy.cut();
        proxy.refuse(false);
        assert!(guard.verify().await.is_ok_and(|verified| verified.is_ok()) || guard.is_held());
    }
    eventually("it is verified again", async || guard.verify().await.is_ok_and(|verified| verified.is_ok()))
        .await;
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c022_a_lease_that_is_much_longer_than_asked_for_is_refused_and_leaves_nothing() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    let mut short = claim("k");
    short.ttl = Ttl::new(Duration::from_millis(100)).unwrap();
    let error = etcd.contend(short.clone()).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless));
    assert!(error.to_string().contains("allow=longer-ttl"), "{error}");
    assert_eq!(places(&etcd, "k").await, 0);
    let lenient = options(&format!("{}?allow=longer-ttl", cluster.url()));
    let lenient = Etcd::open(&lenient).await.unwrap();
    let grant = granted(&mut lenient.contend(short)).await;
    assert!(matches!(grant.validity, Validity::Lease(granted) if granted >= Duration::from_secs(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_has_certainly_no_effect_and_a_silent_server_an_unknown_one() {
    let mut cluster = EtcdCluster::single().unwrap();
    let quick = options(&cluster.url()).with_response_timeout(Duration::from_millis(700));
    let etcd = Etcd::open(&quick.with_connect_timeout(Duration::from_millis(700))).await.unwrap();
    let mut contender = etcd.contend(claim("k"));
    granted(&mut contender).await;
    cluster.process(0).freeze();
    let start = SystemClock.now();
    let error = contender.renew().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth), "{error}");
    assert!(SystemClock.now().since(start) < Duration::from_secs(10), "the wait is bounded");
    cluster.process(0).thaw();
    eventually("it is renewed again", async || matches!(contender.renew().await, Ok(Renewal::Renewed(_))))
        .await;
    cluster.kill(0);
    // The first notices that the connection is gone, or that the next one is refused.
    let _ = contender.renew().await;
    let error = contender.renew().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_knows_its_holds_and_its_waiters_are_still_told() {
    let mut cluster = EtcdCluster::single().unwrap();
    let (one, two) = (open(&cluster).await, open(&cluster).await);
    let (holder, waiter) = (Tenure::new(one.clone()), Tenure::new(two));
    let guard = holder.lock("k").acquire().await.unwrap();
    let waits = tokio::spawn(async move { waiter.lock("k").acquire().await });
    eventually("it waits", async || places(&one, "k").await == 2).await;
    cluster.kill(0);
    cluster.revive(0).unwrap();
    eventually("the hold stands", async || guard.verify().await.is_ok_and(|verified| verified.is_ok())).await;
    let token = guard.token();
    guard.release().await.unwrap();
    let next = in_time("the waiter is granted", waits).await.unwrap().unwrap();
    assert!(next.token() > token);
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c050_after_a_restore_tokens_stay_above_what_a_client_has_seen() {
    let mut cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    let mut holder = etcd.contend(claim("k"));
    for n in 0..50 {
        cluster.etcdctl(0, &["put", "noise", &n.to_string()]).unwrap();
    }
    let seen = granted(&mut holder).await.tokens.first;
    cluster.restart_empty().unwrap();
    eventually("the hold is known to be lost", async || {
        matches!(holder.renew().await, Ok(Renewal::Gone(Gone::Absent)))
    })
    .await;
    let mut wish = claim("k");
    wish.floor = Some(seen);
    let mut informed = etcd.contend(wish);
    let healed = granted_at_last(&mut informed).await.tokens.first;
    assert!(healed > seen, "{healed} after {seen}");
    informed.withdraw(Stray::Impossible).await.unwrap();
    // Also for those who have seen nothing.
    let stranger = open(&cluster).await;
    let mut unaware = stranger.contend(claim("k"));
    let next = granted(&mut unaware).await.tokens.first;
    assert!(next > healed, "{next} after {healed}");
}
