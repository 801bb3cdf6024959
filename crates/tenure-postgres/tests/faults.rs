//! Lost, late and repeated messages, dead connections, locked rows and killed servers, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Exclusion, Gone, Renewal, Restamp, Retry, Stray,
    TokenDurability, Validity, Wake, Withdrawn,
};
use tenure_core::{FencingToken, Tenure, blocking};
use tenure_postgres::Postgres;
use tokio_postgres::NoTls;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_holds_renews_restamps_and_leaves() {
    let server = server().await;
    let postgres = open(&server).await;
    let mut holder = postgres.contend(claim("k"));
    let grant = granted(&mut holder).await;
    assert_eq!(grant.validity, Validity::Lease(Duration::from_secs(30)));
    assert_eq!(granted(&mut holder).await, grant, "an attempt never makes a second place");
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
    let Ok(Restamp::Fresh(fresh)) = holder.restamp().await else { panic!() };
    assert!(fresh.first > grant.tokens.last());
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    let next = granted(&mut postgres.contend(claim("k"))).await;
    assert!(next.tokens.first > fresh.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_one_transaction_and_its_release_another() {
    let server = server_with(&["autovacuum=off"]).await;
    let postgres = open(&server).await;
    let mut holder = postgres.contend(claim("k"));
    let transactions =
        || server.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())").unwrap().parse::<u64>().unwrap();
    for _ in 0..3 {
        let before = transactions();
        granted(&mut holder).await;
        assert_eq!(transactions() - before, 1);
        holder.withdraw(Stray::Impossible).await.unwrap();
        assert_eq!(transactions() - before, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_hands_the_grant_to_the_next_and_tells_it() {
    let server = server().await;
    let (one, two) = (open(&server).await, open(&server).await);
    let (mut holder, mut waiter) = (one.contend(claim("k")), two.contend(claim("k")));
    let first = granted(&mut holder).await;
    let waiting = waits(&mut waiter).await;
    assert_eq!((waiting.ahead, waiting.last_token), (1, first.tokens.last().get()));
    holder.withdraw(Stray::Impossible).await.unwrap();
    let Wake::Granted(grant) = in_time("the grant comes", waiter.changed()).await.unwrap() else { panic!() };
    assert!(grant.tokens.first.get() > waiting.last_token);
    assert!(matches!(waiter.changed().await, Ok(Wake::Granted(_))), "a wake is a level");
    assert_eq!(waiter.renew().await.unwrap(), Renewal::Renewed(Validity::Lease(Duration::from_secs(30))));
    assert_eq!(granted(&mut waiter).await.tokens, grant.tokens);
}

/// An engine behind a proxy that knows the messages.
async fn behind(server: &PostgresServer) -> (Proxy, Postgres) {
    let proxy = Proxy::before(server.port(), Proxy::postgres).unwrap();
    let postgres = Postgres::open(&options(&url_of(proxy.port()))).await.unwrap();
    (proxy, postgres)
}

/// A row of an answer.
fn is_row(frame: &[u8]) -> bool {
    frame[0] == b'D'
}

/// A whole statement.
fn is_statement(frame: &[u8]) -> bool {
    frame[0] == b'P'
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c026_a_lost_reply_does_not_block_its_own_claim() {
    let server = server().await;
    let (proxy, postgres) = behind(&server).await;
    let mut contender = postgres.contend(claim("k"));
    proxy.next(Side::Replies, is_row, Trick::CutBefore);
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth));
    let grant = granted(&mut contender).await;
    let line = open(&server).await.inspect(&key("k")).await.unwrap();
    assert_eq!(line.places.len(), 1);
    assert_eq!(line.last_token, Some(grant.tokens.first), "it was applied once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c035_a_statement_that_a_proxy_sends_twice_makes_one_place() {
    let server = server().await;
    let (proxy, postgres) = behind(&server).await;
    let mut contender = postgres.contend(claim("k"));
    proxy.next(Side::Requests, is_statement, Trick::Duplicate);
    let first = contender.attempt().await;
    let grant = granted_at_last(&mut contender).await;
    if let Ok(Attempt::Granted(first)) = first {
        assert_eq!(first, grant);
    }
    let line = open(&server).await.inspect(&key("k")).await.unwrap();
    assert_eq!((line.places.len(), line.last_token), (1, Some(grant.tokens.first)));
    proxy.next(Side::Requests, is_statement, Trick::Duplicate);
    // The answer is that of the first, or the second answer has ended the connection meanwhile.
    let _ = contender.withdraw(Stray::Impossible).await;
    granted_at_last(&mut postgres.contend(claim("k"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c029_an_attempt_that_arrives_after_its_withdrawal_is_refused() {
    let server = server().await;
    let (proxy, late) = behind(&server).await;
    let direct = open(&server).await;
    let wish = claim("k");
    let mut contender = late.contend(wish.clone());
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
async fn c029_a_late_attempt_of_a_hold_that_was_alone_and_is_withdrawn_is_refused() {
    let server = server().await;
    let (proxy, late) = behind(&server).await;
    let direct = open(&server).await;
    let wish = claim("k");
    let mut contender = late.contend(wish.clone());
    proxy.next(Side::Replies, is_row, Trick::CutBefore);
    contender.attempt().await.unwrap_err();
    assert_eq!(alone(&server), "1", "it was granted, and its answer is lost");
    at_last("it connects anew", async || late.inspect(&key("k")).await).await;
    proxy.hold(Side::Requests, true);
    let events = proxy.events();
    let attempt = tokio::spawn(async move { contender.attempt().await });
    assert!(proxy.wait_for_events(events + 1));
    assert_eq!(direct.contend(wish).withdraw(Stray::Possible).await.unwrap(), Withdrawn::Held);
    let mut next = direct.contend(claim("k"));
    let grant = granted(&mut next).await;
    proxy.hold(Side::Requests, false);
    let attempt = attempt.await.unwrap();
    assert!(matches!(attempt, Ok(Attempt::Gone(Gone::Withdrawn))), "{attempt:?}");
    assert_eq!(granted(&mut next).await, grant, "the next one goes on");
    assert_eq!(places(&direct, "k").await, 1);
}

/// How many holds are alone in their lines.
fn alone(server: &PostgresServer) -> String {
    server.sql("SELECT count(*) FROM tenure_keys WHERE claim IS NOT NULL").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_alone_lies_in_its_keys_row_until_somebody_joins() {
    let server = server().await;
    let postgres = open(&server).await;
    let rows = || server.sql("SELECT count(*) FROM tenure_places").unwrap();
    let (mut holder, mut waiter) = (postgres.contend(claim("k")), postgres.contend(claim("k")));
    for _ in 0..2 {
        let grant = granted(&mut holder).await;
        assert_eq!((alone(&server).as_str(), rows().as_str()), ("1", "0"));
        assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
        assert_eq!((alone(&server).as_str(), rows().as_str()), ("1", "0"), "a renewal moves nothing");
        waits(&mut waiter).await;
        assert_eq!((alone(&server).as_str(), rows().as_str()), ("0", "2"));
        assert_eq!(granted(&mut holder).await.tokens, grant.tokens, "it is the same hold");
        holder.withdraw(Stray::Impossible).await.unwrap();
        granted(&mut waiter).await;
        waiter.withdraw(Stray::Impossible).await.unwrap();
        assert_eq!((alone(&server).as_str(), rows().as_str()), ("0", "0"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_alone_can_be_broken() {
    let server = server().await;
    let (postgres, operator) = (open(&server).await, open(&server).await);
    let wish = claim("k");
    let mut holder = postgres.contend(wish.clone());
    let grant = granted(&mut holder).await;
    assert_eq!(operator.evict(&key("k"), claim("k").id).await.unwrap(), Withdrawn::Absent, "another claim");
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
    assert_eq!(operator.evict(&key("k"), wish.id).await.unwrap(), Withdrawn::Held);
    assert_eq!(operator.evict(&key("k"), wish.id).await.unwrap(), Withdrawn::Absent);
    assert_eq!(holder.renew().await.unwrap(), Renewal::Gone(Gone::Evicted));
    assert_eq!(gone(&mut holder).await, Gone::Evicted);
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
    assert!(granted(&mut operator.contend(claim("k"))).await.tokens.first > grant.tokens.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c049_a_waiter_for_whom_there_is_no_token_keeps_its_place_in_a_free_line() {
    let server = server().await;
    let postgres = open(&server).await;
    let mut before = postgres.contend(claim("k"));
    granted(&mut before).await;
    before.withdraw(Stray::Impossible).await.unwrap();
    let mut forged = claim("k");
    forged.floor = FencingToken::new((1 << 53) - 1);
    let mut first = postgres.contend(forged);
    assert_eq!(waits(&mut first).await.ahead, 0);
    let mut second = postgres.contend(claim("k"));
    assert_eq!(waits(&mut second).await.ahead, 1, "nobody passes it by");
    first.withdraw(Stray::Impossible).await.unwrap();
    granted(&mut second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verb_that_is_asked_again_is_not_parsed_again() {
    let server = server().await;
    let proxy = Proxy::before(server.port(), Proxy::postgres).unwrap();
    let postgres = Postgres::open(&options(&url_of(proxy.port()))).await.unwrap();
    let mut contender = postgres.contend(claim("k"));
    let cycle = async |contender: &mut tenure_postgres::PostgresContender| {
        granted(contender).await;
        contender.withdraw(Stray::Impossible).await.unwrap();
    };
    let parsed = Arc::new(AtomicUsize::new(0));
    // Looks at every request, and tampers with none.
    let count = Arc::clone(&parsed);
    let look = move |frame: &[u8]| {
        count.fetch_add(usize::from(is_statement(frame)), Ordering::Relaxed);
        false
    };
    proxy.next(Side::Requests, look, Trick::Drop);
    eventually("nothing is left to parse", async || {
        let before = parsed.load(Ordering::Relaxed);
        cycle(&mut contender).await;
        cycle(&mut contender).await;
        parsed.load(Ordering::Relaxed) == before
    })
    .await;
    assert_ne!(parsed.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c030_an_answer_for_another_claim_ends_the_connection() {
    let server = server().await;
    let (proxy, postgres) = behind(&server).await;
    let wish = claim("k");
    let (from, to) = (wish.id.to_string().into_bytes(), claim("k").id.to_string().into_bytes());
    proxy.next(Side::Replies, is_row, Trick::Replace { from, to });
    let mut contender = postgres.contend(wish);
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Protocol, Effect::Unknown, Retry::Useless));
    // The next statement goes over another connection.
    granted(&mut contender).await;
    until("the connection is given up", || connections(&server) == 1);
}

fn connections(server: &PostgresServer) -> usize {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tenure'";
    server.sql(count).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c031_c032_a_repeated_withdrawal_hits_nobody_else() {
    let server = server().await;
    let postgres = open(&server).await;
    let (mut first, mut second) = (postgres.contend(claim("k")), postgres.contend(claim("k")));
    granted(&mut first).await;
    assert_eq!(first.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    let grant = granted(&mut second).await;
    assert_eq!(first.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
    assert_eq!(first.withdraw(Stray::Possible).await.unwrap(), Withdrawn::Absent);
    assert_eq!(granted(&mut second).await, grant);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c044_a_row_that_somebody_locks_is_a_bounded_wait_without_effect() {
    let server = server().await;
    let postgres = open(&server).await;
    wait_for_a_locked_row(&server, &postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c089_the_clock_is_read_after_the_wait_for_the_row() {
    let server = server().await;
    let patient = options(&server.url()).with_lock_timeout(Duration::from_secs(20));
    let patient = patient.with_response_timeout(Duration::from_secs(25));
    let postgres = Postgres::open(&patient).await.unwrap();
    granted(&mut postgres.contend(short_claim("k", Duration::from_secs(1)))).await;
    let foreign = lock_row(&server, "k").await;
    let mut next = postgres.contend(claim("k"));
    let attempt = tokio::spawn(async move { next.attempt().await });
    until("it waits for the row", || {
        server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").unwrap() == "1"
    });
    // The statement began before the lease ended, and is let on after.
    let ended = "SELECT count(*) FROM tenure_keys WHERE ends_us > tenure_now()";
    until("the lease ends", || server.sql(ended).unwrap() == "0");
    foreign.batch_execute("COMMIT").await.unwrap();
    assert!(matches!(attempt.await.unwrap(), Ok(Attempt::Granted(_))), "the lease had ended by then");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c045_a_rollback_of_the_users_transaction_undoes_no_lock() {
    let server = server().await;
    let postgres = open(&server).await;
    let (mut own, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let transaction = own.transaction().await.unwrap();
    transaction.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    let mut contender = postgres.contend(claim("k"));
    granted(&mut contender).await;
    transaction.rollback().await.unwrap();
    assert!(matches!(contender.renew().await, Ok(Renewal::Renewed(_))));
}

/// Grants in a row on a server that is killed in the middle of them: the highest token that was reported, and what the
/// server remembers when it is back.
async fn tokens_over_a_crash(settings: &str) -> (u64, u64) {
    let mut server = PostgresServer::durable(&["wal_writer_delay=10s"]).unwrap();
    tenure_postgres::migrate(&options(&server.url())).await.unwrap();
    server.sql(settings).unwrap();
    let postgres = open(&server).await;
    let load = tokio::spawn(async move {
        let (mut reported, mut count) = (0, 0);
        loop {
            let mut contender = postgres.contend(claim("k"));
            match contender.attempt().await {
                Ok(Attempt::Granted(grant)) => reported = grant.tokens.last().get(),
                Ok(_) => {}
                Err(_) if count > 0 => return (reported, count),
                Err(error) => panic!("{error}"),
            }
            count += 1;
            if contender.withdraw(Stray::Impossible).await.is_err() {
                return (reported, count);
            }
        }
    });
    until("there are some", || server.sql("SELECT count(*) FROM tenure_keys").unwrap() == "1");
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.kill();
    let (reported, count) = in_time("the load ends", load).await.unwrap();
    assert!(count > 0);
    server.restart().unwrap();
    let remembered = server.sql("SELECT last_token FROM tenure_keys").unwrap().parse().unwrap();
    let next =
        granted_at_last(&mut open(&server).await.contend(short_claim("k", Duration::from_secs(1)))).await;
    assert!(next.tokens.first.get() > reported);
    (reported, remembered)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c051_a_server_that_is_killed_in_the_middle_remembers_every_token_it_has_reported() {
    let (reported, remembered) = tokens_over_a_crash("SELECT 1").await;
    assert!(remembered >= reported, "{remembered} < {reported}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c052_a_role_whose_commits_do_not_wait_for_the_disk_loses_no_token() {
    let (reported, remembered) =
        tokens_over_a_crash("ALTER ROLE postgres SET synchronous_commit = off").await;
    assert!(remembered >= reported, "{remembered} < {reported}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c053_a_standby_that_lags_and_takes_over_forgets_the_hold_and_gives_a_higher_token() {
    let mut server = PostgresServer::durable(&[]).unwrap();
    tenure_postgres::migrate(&options(&server.url())).await.unwrap();
    assert_eq!(open(&server).await.facts().exclusion, Exclusion::WithinClockRates);
    assert_eq!(open(&server).await.facts().token_durability, TokenDurability::Disk);
    let standby = server.standby().unwrap();
    let followers = "SELECT count(*) FROM pg_stat_replication";
    until("it follows", || server.sql(followers).unwrap() == "1");
    let refused = refused(&standby.url()).await;
    assert_eq!(axes(&refused), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{refused}");
    let postgres = open(&server).await;
    assert_eq!(postgres.facts().exclusion, Exclusion::BestEffort, "nobody waits for the standby");
    assert_eq!(postgres.facts().token_durability, TokenDurability::Volatile);
    // What the standby does not get any more is lost.
    freeze_receiver(&standby);
    let before = granted(&mut postgres.contend(claim("k"))).await;
    server.kill();
    standby.promote().unwrap();
    let after = granted_at_last(&mut open(&standby).await.contend(claim("k"))).await;
    assert!(after.tokens.first > before.tokens.last(), "the hold is forgotten, the order of tokens is not");
}

/// Cuts the stream to a standby, which goes on with what it has.
fn freeze_receiver(standby: &PostgresServer) {
    standby.sql("ALTER SYSTEM SET primary_conninfo = ''").unwrap();
    standby.sql("SELECT pg_reload_conf()").unwrap();
    until("it does not follow", || standby.sql("SELECT count(*) FROM pg_stat_wal_receiver").unwrap() == "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c078_a_network_that_is_half_gone_is_noticed_by_the_answer_that_does_not_come() {
    let server = server().await;
    let proxy = Proxy::before(server.port(), Proxy::postgres).unwrap();
    let hasty = options(&url_of(proxy.port())).with_response_timeout(Duration::from_millis(500));
    let postgres = Postgres::open(&hasty).await.unwrap();
    let mut contender = postgres.contend(claim("k"));
    granted(&mut contender).await;
    proxy.swallow(Side::Replies, true);
    let error = in_time("the wait is bounded", contender.renew()).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth));
    proxy.swallow(Side::Replies, false);
    let back = async {
        while contender.renew().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time("another connection serves", back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c082_a_pooler_is_noticed_and_keeps_no_setting_of_ours() {
    let server = server().await;
    let bouncer = PgBouncer::before(&server, &["default_pool_size = 3"]).unwrap();
    let pooled = Postgres::open(&options(&bouncer.url())).await.unwrap();
    assert_eq!(open(&server).await.facts().refresh_every, Duration::from_secs(1));
    assert_eq!(pooled.facts().refresh_every, Duration::from_millis(250), "waiters look more often");
    assert!(pooled.facts().cautions.iter().any(|caution| caution.contains("pooler")));
    let (mut holder, mut waiter) = (pooled.contend(claim("k")), pooled.contend(claim("k")));
    granted(&mut holder).await;
    waits(&mut waiter).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    granted(&mut waiter).await;
    for _ in 0..5 {
        let left = "SELECT count(*), current_setting('lock_timeout') FROM pg_listening_channels()";
        assert_eq!(psql(bouncer.port(), left).unwrap(), "0|0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c083_c086_a_connection_that_the_server_ends_costs_no_hold() {
    let server = server().await;
    let postgres = open(&server).await;
    let mut holder = postgres.contend(claim("k"));
    let grant = granted(&mut holder).await;
    for _ in 0..5 {
        terminate(&server);
        let renewed = async {
            loop {
                match holder.renew().await {
                    Ok(Renewal::Renewed(_)) => return,
                    Ok(gone) => panic!("{gone:?}"),
                    Err(error) => assert_eq!(error.retry(), Retry::Worth),
                }
            }
        };
        in_time("it is renewed over another", renewed).await;
    }
    assert_eq!(granted(&mut holder).await.tokens, grant.tokens);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c084_a_server_that_ends_idle_connections_costs_no_hold() {
    let server = server_with(&["idle_session_timeout=300"]).await;
    let postgres = open(&server).await;
    let mut holder = postgres.contend(claim("k"));
    granted(&mut holder).await;
    until("it was idle for too long", || connections(&server) == 0);
    let renewed = async {
        // The end may be noticed by the first statement.
        while !matches!(holder.renew().await, Ok(Renewal::Renewed(_))) {}
    };
    in_time("it is renewed", renewed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c087_names_that_look_alike_are_different_keys() {
    let server = server().await;
    let postgres = open(&server).await;
    // Case, blanks, composed and decomposed, prefixes, what SQL would take for a pattern.
    let names =
        ["k", "K", "k ", " k", "é", "e\u{301}", "k/1", "k/10", "k%", "k_", "'; DROP TABLE tenure_keys; --"];
    for name in names {
        granted(&mut postgres.contend(claim(name))).await;
    }
    let mut sorted: Vec<_> = names.iter().map(|name| key(name)).collect();
    sorted.sort();
    assert_eq!(postgres.keys("", None, 99).await.unwrap(), sorted);
    assert_eq!(postgres.keys("k/1", None, 99).await.unwrap(), [key("k/1"), key("k/10")]);
    assert_eq!(postgres.keys("k_", None, 99).await.unwrap(), [key("k_")]);
    assert_eq!(postgres.keys("k", Some(&key("k/1")), 1).await.unwrap(), [key("k/10")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c088_many_who_find_a_new_key_free_at_once_get_it_one_by_one() {
    let server = server_with(&["max_connections=200"]).await;
    let engines = futures_util::future::join_all((0..8).map(|_| open(&server))).await;
    for round in 0..20 {
        let name = format!("k{round}");
        let tries = engines.iter().map(|engine| {
            let mut wish = claim(&name);
            wish.if_busy = tenure_core::IfBusy::Leave;
            let mut contender = engine.contend(wish);
            async move { matches!(contender.attempt().await.unwrap(), Attempt::Granted(_)) }
        });
        let won = futures_util::future::join_all(tries).await;
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_has_certainly_no_effect_and_a_silent_server_an_unknown_one() {
    let server = server().await;
    let (proxy, postgres) = behind(&server).await;
    let mut contender = postgres.contend(claim("k"));
    granted(&mut contender).await;
    proxy.refuse(true);
    proxy.cut();
    // The first notices that the connection is gone, or that the next one is refused.
    let _ = contender.renew().await;
    let error = contender.renew().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
    proxy.refuse(false);
    let back = async { while contender.renew().await.is_err() {} };
    in_time("it is back", back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c103_a_waiter_whose_connection_is_killed_looks_again_and_is_woken() {
    let server = server().await;
    let (one, two) = (open(&server).await, open(&server).await);
    let (mut holder, mut waiter) = (one.contend(claim("k")), two.contend(claim("k")));
    granted(&mut holder).await;
    for _ in 0..3 {
        in_time("it waits", async { while waiter.attempt().await.is_err() {} }).await;
        terminate(&server);
        assert_eq!(in_time("it looks again", waiter.changed()).await.unwrap(), Wake::LookAgain);
    }
    in_time("it waits", async { while waiter.attempt().await.is_err() {} }).await;
    in_time("it is released", async { while holder.withdraw(Stray::Impossible).await.is_err() {} }).await;
    assert!(matches!(in_time("the grant comes", waiter.changed()).await, Ok(Wake::Granted(_))));
}

#[test]
fn runtimes_may_come_and_go_and_callers_need_none() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let server = first.block_on(server());
    let postgres = first.block_on(open(&server));
    let mut holder = postgres.contend(claim("k"));
    first.block_on(granted(&mut holder));
    let mut waiter = postgres.contend(claim("k"));
    first.block_on(waits(&mut waiter));
    drop(first);
    let block_on = futures_executor::block_on;
    assert_eq!(block_on(waiter.changed()).unwrap(), Wake::LookAgain, "its connection has ended");
    let second = runtime();
    assert!(matches!(second.block_on(holder.renew()), Ok(Renewal::Renewed(_))));
    // Without a runtime.
    futures_executor::block_on(waits(&mut waiter));
    assert_eq!(second.block_on(holder.withdraw(Stray::Impossible)).unwrap(), Withdrawn::Held);
    assert!(matches!(futures_executor::block_on(waiter.changed()), Ok(Wake::Granted(_))));
    drop((postgres, holder, waiter, second));
    until("nothing is left open", || connections(&server) == 0);
}

#[test]
fn the_blocking_face_works_without_a_runtime() {
    let server = PostgresServer::start(&[]).unwrap();
    futures_executor::block_on(tenure_postgres::migrate(&options(&server.url()))).unwrap();
    let engine = futures_executor::block_on(open(&server));
    let tenure = blocking::Tenure::from(Tenure::new(engine));
    let guard = tenure.lock("k").acquire().unwrap();
    std::thread::scope(|threads| {
        let other = threads.spawn(|| tenure.lock("k").acquire().unwrap().release().unwrap());
        guard.check().unwrap();
        guard.release().unwrap();
        other.join().unwrap();
    });
}
