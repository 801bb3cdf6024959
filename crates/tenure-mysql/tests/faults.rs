//! Lost, late and repeated messages, dead connections, dead servers and dead runtimes, on a real server.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use futures_executor::block_on;
use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Gone, Renewal, Restamp, Retry, Stray, Validity,
    Wake, Withdrawn,
};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{LossCause, Tenure, blocking};
use tenure_mysql::MySql;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_holds_renews_restamps_and_leaves_by_one_statement_each() {
    let server = migrated(&[]).await;
    let engine = open(&server).await;
    let mut holder = engine.contend(claim("k"));
    let grant = granted(&mut holder).await;
    assert_eq!(grant.validity, Validity::Lease(Duration::from_secs(30)));
    assert_eq!(granted(&mut holder).await, grant, "an attempt never makes a second place");
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
    let Ok(Restamp::Fresh(fresh)) = holder.restamp().await else { panic!() };
    assert!(fresh.first > grant.tokens.last());
    let count = |what: &str| -> u64 {
        let said = server.say("tenure", &format!("SHOW GLOBAL STATUS LIKE '{what}'")).unwrap();
        said.split('\t').nth(1).unwrap().trim().parse().unwrap()
    };
    // All are prepared by now, but for the withdrawal.
    let (calls, commits) = (count("Com_call_procedure"), count("Com_stmt_execute"));
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    let next = granted(&mut engine.contend(claim("k"))).await;
    assert!(next.tokens.first > fresh.last());
    assert_eq!(count("Com_stmt_execute") - commits, 2, "one round trip each");
    assert!(count("Com_call_procedure") > calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_offers_the_key_to_the_next_which_finds_it_by_asking() {
    let server = migrated(&[]).await;
    let (one, two) = (open(&server).await, open(&server).await);
    let (mut holder, mut waiter) = (one.contend(claim("k")), two.contend(claim("k")));
    let first = granted(&mut holder).await;
    let waiting = waits(&mut waiter).await;
    assert_eq!((waiting.ahead, waiting.last_token), (1, first.tokens.last().get()));
    holder.withdraw(Stray::Impossible).await.unwrap();
    let Wake::Granted(grant) = in_time("the grant is found", waiter.changed()).await.unwrap() else {
        panic!()
    };
    assert!(grant.tokens.first.get() > waiting.last_token);
    assert!(matches!(waiter.changed().await, Ok(Wake::Granted(_))), "a wake is a level");
    assert_eq!(waiter.renew().await.unwrap(), Renewal::Renewed(Validity::Lease(Duration::from_secs(30))));
    assert_eq!(granted(&mut waiter).await.tokens, grant.tokens);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c026_a_lost_reply_does_not_block_its_own_claim() {
    let server = migrated(&[]).await;
    let proxy = Proxy::before(server.port(), Proxy::mysql).unwrap();
    let engine = MySql::open(&options(&url_of(&proxy))).await.unwrap();
    let wish = claim("k");
    let mut contender = engine.contend(wish.clone());
    proxy.next(Side::Replies, mentions(wish.id.to_string()), Trick::CutBefore);
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth));
    let grant = granted(&mut contender).await;
    let line = open(&server).await.inspect(&key("k")).await.unwrap();
    assert_eq!(line.places.len(), 1);
    assert_eq!(line.last_token, Some(grant.tokens.first), "it was applied once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c029_c034_an_attempt_that_arrives_after_its_withdrawal_is_refused() {
    let server = migrated(&[]).await;
    let proxy = Proxy::before(server.port(), Proxy::mysql).unwrap();
    let (late, direct) = (MySql::open(&options(&url_of(&proxy))).await.unwrap(), open(&server).await);
    let wish = claim("k");
    let mut contender = late.contend(wish.clone());
    // The statement is prepared, so that what is held back is the attempt itself.
    granted(&mut late.contend(claim("other"))).await;
    proxy.hold(Side::Requests, true);
    let attempt = tokio::spawn(async move { contender.attempt().await });
    assert!(proxy.wait_for_events(1));
    assert_eq!(direct.contend(wish).withdraw(Stray::Possible).await.unwrap(), Withdrawn::Absent);
    proxy.hold(Side::Requests, false);
    assert!(matches!(attempt.await.unwrap(), Ok(Attempt::Gone(Gone::Withdrawn))));
    assert_eq!(places(&direct, "k").await, 0);
    granted(&mut direct.contend(claim("k"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c030_an_answer_for_another_claim_ends_the_connection() {
    let server = migrated(&[]).await;
    let proxy = Proxy::before(server.port(), Proxy::mysql).unwrap();
    let engine = MySql::open(&options(&url_of(&proxy))).await.unwrap();
    let wish = claim("k");
    let (from, to) = (wish.id.to_string(), claim("k").id.to_string());
    let (from, to) = (from.into_bytes(), to.into_bytes());
    proxy.next(Side::Replies, mentions(wish.id.to_string()), Trick::Replace { from, to });
    let mut contender = engine.contend(wish);
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Protocol, Effect::Unknown, Retry::Useless));
    // The next statement goes over another connection.
    granted(&mut contender).await;
    until("the connection is given up", || connections(&server).len() == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c042_a_statement_that_is_sent_twice_is_applied_once() {
    let server = migrated(&[]).await;
    let proxy = Proxy::before(server.port(), Proxy::mysql).unwrap();
    let engine = MySql::open(&options(&url_of(&proxy))).await.unwrap();
    let observer = open(&server).await;
    let wish = claim("k");
    // Whatever the client makes of two answers, the line has one place with one token.
    granted(&mut engine.contend(claim("prepared"))).await;
    proxy.next(Side::Requests, mentions(wish.id.to_string()), Trick::Duplicate);
    let mut contender = engine.contend(wish);
    let first = contender.attempt().await;
    let grant = granted_at_last(&mut contender).await;
    if let Ok(Attempt::Granted(first)) = first {
        assert_eq!(first.tokens, grant.tokens);
    }
    let line = observer.inspect(&key("k")).await.unwrap();
    assert_eq!((line.places.len(), line.last_token), (1, Some(grant.tokens.last())));
    // And no answer is taken for that of another verb.
    assert!(matches!(contender.renew().await, Ok(Renewal::Renewed(_)) | Err(_)));
    assert!(matches!(contender.renew().await, Ok(Renewal::Renewed(_)) | Err(_)));
    assert_eq!(observer.contend(claim("k")).withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_has_certainly_no_effect_and_a_silent_server_an_unknown_one() {
    let mut server = migrated(&[]).await;
    let options = options(&server.url("tenure")).with_response_timeout(Duration::from_millis(500));
    let engine = MySql::open(&options.with_connect_timeout(Duration::from_secs(20))).await.unwrap();
    let mut contender = engine.contend(claim("k"));
    granted(&mut contender).await;
    granted(&mut contender).await;
    server.process().freeze();
    let start = SystemClock.now();
    let error = contender.renew().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth));
    assert!(SystemClock.now().since(start) < Duration::from_secs(10), "the wait is bounded");
    server.process().thaw();
    assert!(matches!(contender.renew().await, Ok(Renewal::Renewed(_))), "over a new connection");
    server.kill();
    // The first notices that the connection is gone, or that the next one is refused.
    let _ = contender.renew().await;
    let error = contender.renew().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c051_c054_tokens_rise_and_holds_stay_over_a_crash_of_the_server_under_load() {
    let mut server = migrated(&["--innodb-flush-log-at-trx-commit=1"]).await;
    let engine = open(&server).await;
    let mut holder = engine.contend(claim("kept"));
    let kept = granted(&mut holder).await;
    let load = {
        let engine = engine.clone();
        tokio::spawn(async move {
            let mut last = None;
            // Ends when the server does.
            loop {
                let mut contender = engine.contend(claim("load"));
                let Ok(Attempt::Granted(grant)) = contender.attempt().await else { return last };
                assert!(last < Some(grant.tokens.first));
                last = Some(grant.tokens.last());
                if contender.withdraw(Stray::Impossible).await.is_err() {
                    return last;
                }
            }
        })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    tokio::task::block_in_place(|| server.restart()).unwrap();
    let last = in_time("the load ends", load).await.unwrap();
    assert!(last.is_some());
    let mut heir = engine.contend(short_claim("load", Duration::from_secs(30)));
    // The place that was under way when the server died may be there; its claim is not ours.
    let line = loop {
        if let Ok(line) = engine.inspect(&key("load")).await {
            break line;
        }
    };
    for place in line.places {
        engine.evict(&key("load"), place.claim).await.unwrap();
    }
    assert!(Some(granted_at_last(&mut heir).await.tokens.first) > last);
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))), "what was acknowledged is kept");
    assert_eq!(granted(&mut holder).await.tokens, kept.tokens);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c054_a_token_does_not_fall_though_the_rows_are_gone_and_the_server_restarts() {
    let mut server = migrated(&[]).await;
    let engine = open(&server).await;
    let mut last = None;
    for _ in 0..2 {
        let mut contender = engine.contend(claim("k"));
        let grant = granted_at_last(&mut contender).await;
        assert!(last < Some(grant.tokens.first));
        last = Some(grant.tokens.last());
        contender.withdraw(Stray::Impossible).await.unwrap();
        server.say("tenure", "DELETE FROM tenure_keys").unwrap();
        tokio::task::block_in_place(|| server.restart()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c083_c085_a_killed_connection_costs_neither_the_hold_nor_the_wait() {
    let server = migrated(&[]).await;
    let (one, two) = (open(&server).await, open(&server).await);
    let (mut holder, mut waiter) = (one.contend(claim("k")), two.contend(claim("k")));
    let grant = granted(&mut holder).await;
    for _ in 0..3 {
        waits(&mut waiter).await;
        kill_connections(&server);
        assert_eq!(in_time("it looks again", waiter.changed()).await.unwrap(), Wake::LookAgain);
        until("the waiter is back", || block_on(waiter.attempt()).is_ok());
    }
    until("the holder is back", || block_on(holder.renew()).is_ok());
    assert_eq!(granted(&mut holder).await.tokens, grant.tokens);
    holder.withdraw(Stray::Impossible).await.unwrap();
    assert!(matches!(in_time("the grant is found", waiter.changed()).await, Ok(Wake::Granted(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c084_an_idle_killer_of_two_seconds_kills_no_connection_of_ours() {
    let server = migrated(&["--wait-timeout=2", "--interactive-timeout=2"]).await;
    let engine = open(&server).await;
    granted(&mut engine.contend(claim("k"))).await;
    // Among them may be one of those who set the server up.
    let before = connections(&server);
    // A connection of somebody else shows when the killer has passed.
    let mut other = connection(&server).await;
    let id: u64 = sqlx::query_scalar("SELECT CONNECTION_ID()").fetch_one(&mut other).await.unwrap();
    until("the killer passes", || !connections(&server).contains(&id));
    assert!(other.ping().await.is_err());
    granted(&mut engine.contend(claim("other"))).await;
    let after = connections(&server);
    assert!(!after.is_empty() && after.iter().all(|id| before.contains(id)), "{before:?} became {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c078_a_half_open_connection_is_given_up_in_time_and_the_hold_goes_on() {
    let server = migrated(&[]).await;
    let proxy = Proxy::before(server.port(), Proxy::mysql).unwrap();
    let options = options(&url_of(&proxy)).with_response_timeout(Duration::from_millis(500));
    let engine = MySql::open(&options.with_connect_timeout(Duration::from_secs(20))).await.unwrap();
    let mut holder = engine.contend(claim("k"));
    let grant = granted(&mut holder).await;
    proxy.swallow(Side::Replies, true);
    let error = in_time("it is given up", holder.renew()).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth));
    proxy.swallow(Side::Replies, false);
    assert_eq!(granted_at_last(&mut holder).await.tokens, grant.tokens);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c044_c089_a_row_that_a_stranger_has_locked_is_an_error_without_effect_and_no_time_passes_unseen() {
    let server = migrated(&[]).await;
    let engine = open(&server).await;
    let mut short = engine.contend(short_claim("k", Duration::from_millis(400)));
    let first = granted(&mut short).await;
    let mut stranger = connection(&server).await;
    let mut tx = stranger.begin().await.unwrap();
    sqlx::query("SELECT * FROM tenure_keys WHERE `key` = 'k' FOR UPDATE").execute(&mut *tx).await.unwrap();
    let mut next = engine.contend(only_try("k"));
    let error = in_time("the wait is bounded", next.attempt()).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
    assert!(error.to_string().contains("locked"), "{error}");
    // An attempt that waits for the row while the lease ends judges by the time after the wait.
    let mut late = engine.contend(only_try("k"));
    let attempt = tokio::spawn(async move { (late.attempt().await, late) });
    tokio::time::sleep(Duration::from_millis(300)).await;
    tx.rollback().await.unwrap();
    let (attempt, mut late) = attempt.await.unwrap();
    let grant = match attempt {
        Ok(Attempt::Granted(grant)) => grant,
        // On a machine that is slow the wait was too long; the next one is not.
        Err(_) => granted(&mut late).await,
        other => panic!("the lease has ended: {other:?}"),
    };
    assert!(grant.tokens.first > first.tokens.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c088_of_many_clients_that_begin_on_a_new_key_one_is_granted() {
    let server = migrated(&["--max-connections=300"]).await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(open(&server).await);
    }
    for round in 0..20 {
        let attempts = clients.iter().map(|client| {
            let mut contender = client.contend(only_try(&format!("k{round}")));
            tokio::spawn(async move { contender.attempt().await })
        });
        let mut grants = 0;
        for attempt in futures_util::future::join_all(attempts).await {
            grants += u32::from(matches!(attempt.unwrap().unwrap(), Attempt::Granted(_)));
        }
        assert_eq!(grants, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c076_a_server_without_a_free_connection_is_an_error_without_effect() {
    let server = migrated(&["--max-connections=10"]).await;
    let engine = open(&server).await;
    let mut holder = engine.contend(claim("k"));
    granted(&mut holder).await;
    let mut others = Vec::new();
    // An administrator has one more.
    while others.len() < 20 {
        match MySqlConnection::connect(&server.url("tenure")).await {
            Ok(other) => others.push(other),
            Err(_) => break,
        }
    }
    let error = refused(&server.url("tenure")).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
    assert!(error.to_string().contains("max_connections"), "{error}");
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))), "who holds has its connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c077_who_is_locked_out_keeps_its_hold_to_the_end_and_is_told_why() {
    let server = migrated(&[]).await;
    server.say("tenure", "CREATE USER app IDENTIFIED BY 'pw'; GRANT ALL ON tenure.* TO app").unwrap();
    let url = format!("mysql://app:pw@127.0.0.1:{}/tenure", server.port());
    let tenure = Tenure::new(MySql::open(&options(&url)).await.unwrap());
    let guard = tenure.lock("k").ttl(Duration::from_secs(3)).acquire().await.unwrap();
    server.say("tenure", "DROP USER app").unwrap();
    let ids = "SELECT id FROM information_schema.processlist WHERE user = 'app'";
    for id in server.say("tenure", ids).unwrap().lines() {
        let _ = server.say("tenure", &format!("KILL {id}"));
    }
    assert!(guard.is_held());
    let loss = in_time("the loss is told", guard.lost()).await;
    assert!(matches!(loss.cause, LossCause::Expired | LossCause::Denied), "{loss:?}");
    assert_eq!(refused(&url).await.kind(), EngineErrorKind::Denied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_costs_few_statements_however_many_wait() {
    let server = migrated(&[]).await;
    let engine = open(&server).await;
    let mut holder = engine.contend(claim("k"));
    granted(&mut holder).await;
    let mut waiters: Vec<_> = (0..50).map(|_| engine.contend(claim("k"))).collect();
    for waiter in &mut waiters {
        waits(waiter).await;
    }
    let count = || -> u64 {
        let said = server.say("tenure", "SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'").unwrap();
        said.split('\t').nth(1).unwrap().trim().parse().unwrap()
    };
    let before = count();
    let all = futures_util::future::join_all(waiters.iter_mut().map(|waiter| waiter.changed()));
    assert!(tokio::time::timeout(Duration::from_secs(1), all).await.is_err());
    // One asks for all: at first each 2 ms, after 400 ms without news each 25 ms.
    assert!(count() - before < 200, "{} statements in a second", count() - before);
}

#[test]
fn runtimes_may_come_and_go_and_callers_need_none() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let server = first.block_on(migrated(&[]));
    let engine = first.block_on(open(&server));
    let mut holder = engine.contend(claim("k"));
    first.block_on(granted(&mut holder));
    let mut waiter = engine.contend(claim("k"));
    first.block_on(waits(&mut waiter));
    drop(first);
    let second = runtime();
    assert!(matches!(second.block_on(holder.renew()), Ok(Renewal::Renewed(_))));
    // Without a runtime.
    block_on(waits(&mut waiter));
    assert_eq!(second.block_on(holder.withdraw(Stray::Impossible)).unwrap(), Withdrawn::Held);
    assert!(matches!(block_on(waiter.changed()), Ok(Wake::Granted(_))));
    drop((engine, holder, waiter, second));
    until("nothing is left open", || connections(&server).is_empty());
}

#[test]
fn the_blocking_face_works_without_a_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(migrated(&[]));
    let tenure = blocking::Tenure::from(Tenure::new(block_on(open(&server))));
    let guard = tenure.lock("k").acquire().unwrap();
    std::thread::scope(|threads| {
        let other = threads.spawn(|| tenure.lock("k").acquire().unwrap().release().unwrap());
        guard.check().unwrap();
        guard.release().unwrap();
        other.join().unwrap();
    });
}
