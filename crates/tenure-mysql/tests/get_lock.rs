//! The dialect `get_lock`: sessions that are killed, silent, lost and begun anew, on a real server.
//!
//! Slow: it waits until a server gives a silent session up.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Exclusion, Gone, Liveness, Renewal, Restamp, Retry,
    Stray, Validity, Withdrawn,
};
use tenure_core::{LossCause, Mode, Released, Tenure};
use tenure_mysql::{Dialect, GuardedTx, MySql, MySqlContender, MySqlOptions};

/// For how long a holder may count on an answer.
const VALIDITY: Duration = Duration::from_secs(6);

fn by_session(url: &str) -> MySqlOptions {
    options(url).with_dialect(Dialect::GetLock)
}

async fn session(server: &MariaDbServer) -> MySql {
    MySql::open(&by_session(&server.url("tenure"))).await.unwrap()
}

/// What one statement says, without the line's end.
fn say(server: &MariaDbServer, statement: &str) -> String {
    server.say("tenure", statement).unwrap().trim().to_owned()
}

/// The connections that have the lock of a session which a place names.
fn of_places(server: &MariaDbServer) -> Vec<u64> {
    let asked = "SELECT DISTINCT COALESCE(IS_USED_LOCK(CONCAT('tenure ', session)), 0) FROM tenure_places \
        WHERE session <> 0";
    say(server, asked).lines().map(|id| id.parse().unwrap()).filter(|id| *id != 0).collect()
}

/// What a renewal says, once the server can be asked.
async fn renewed_at_last(contender: &mut MySqlContender) -> Renewal {
    at_last("an answer", async || contender.renew().await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c001_a_holder_that_dies_frees_its_key_long_before_its_lease_ends() {
    let server = migrated(&[]).await;
    let (dies, heir) = (session(&server).await, session(&server).await);
    let facts = dies.facts();
    assert_eq!((facts.liveness, facts.exclusion), (Liveness::Session, Exclusion::BestEffort));
    assert!(facts.cautions.iter().any(|caution| caution.contains("ends the connection")), "{facts:?}");
    let first = granted(&mut dies.contend(short_claim("k", Duration::from_secs(24 * 3600)))).await;
    assert_eq!(first.validity, Validity::Lease(VALIDITY), "nobody may count on a day");
    waits(&mut dies.contend(claim("k"))).await;
    let mut next = heir.contend(claim("k"));
    assert_eq!(waits(&mut next).await.ahead, 2);
    drop(dies);
    assert!(granted_at_last(&mut next).await.tokens.first > first.tokens.last());
    assert_eq!(places(&heir, "k").await, 1, "its waiter has gone with it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c085_a_killed_session_is_noticed_and_nothing_of_it_is_adopted() {
    let server = migrated(&[]).await;
    let engine = session(&server).await;
    let tenure = Tenure::new(engine.clone());
    let guard = tenure.lock("guarded").ttl(Duration::from_secs(24 * 3600)).acquire().await.unwrap();
    let mut holder = engine.contend(claim("k"));
    let grant = granted(&mut holder).await;
    let killed = of_places(&server);
    assert_eq!(killed.len(), 1, "one connection for all holds");
    say(&server, &format!("KILL {}", killed[0]));
    let loss = in_time("the loss is noticed", guard.lost()).await;
    assert_eq!(loss.cause, LossCause::Denied, "the server has said so, before any deadline");
    assert_eq!(guard.release().await.unwrap(), Released::AlreadyLost(loss));
    assert_eq!(renewed_at_last(&mut holder).await, Renewal::Gone(Gone::Absent));
    assert_eq!(holder.restamp().await.unwrap(), Restamp::Gone(Gone::Absent));
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
    assert!(granted(&mut holder).await.tokens.first > grant.tokens.last(), "it begins anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c085_a_verb_that_comes_over_another_connection_than_its_sessions_is_refused() {
    let server = migrated(&[]).await;
    let engine = session(&server).await;
    let wish = claim("k");
    let mut holder = engine.contend(wish.clone());
    granted(&mut holder).await;
    let number = say(&server, "SELECT session FROM tenure_places");
    for verb in [
        format!("tenure_attempt('k', '{}', 'x', 0, 1, 0, 0, 0, 0, {number}, '')", wish.id),
        format!("tenure_renew('k', '{}', 1, {number})", wish.id),
        format!("tenure_restamp('k', '{}', 0, 0, {number})", wish.id),
    ] {
        assert_eq!(say(&server, &format!("CALL {verb}")), format!("{} astray\tNULL", wish.id), "{verb}");
    }
    // What a proxy that shares connections looks like from here: somebody else's connection has the session's lock.
    say(&server, &format!("UPDATE tenure_places SET session = 1 WHERE session = {number}"));
    let mut stranger = connection(&server).await;
    let taken: i64 =
        sqlx::query_scalar("SELECT GET_LOCK('tenure 1', 0)").fetch_one(&mut stranger).await.unwrap();
    assert_eq!(taken, 1);
    assert_eq!(holder.renew().await.unwrap(), Renewal::Gone(Gone::Absent));
    assert!(matches!(holder.attempt().await.unwrap(), Attempt::Gone(Gone::Absent)));
    assert_eq!(places(&engine, "k").await, 1, "the other session still has it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c007_c023_c084_who_is_cut_off_knows_it_before_the_server_frees_the_key() {
    let server = migrated(&[]).await;
    let proxy = Proxy::before(server.port(), Proxy::mysql).unwrap();
    let engine = MySql::open(&by_session(&url_of(&proxy))).await.unwrap();
    let guard = Tenure::new(engine).lock("k").acquire().await.unwrap();
    let near = session(&server).await;
    let mut next = near.contend(claim("k"));
    waits(&mut next).await;
    proxy.hold(Side::Requests, true);
    granted_at_last(&mut next).await;
    assert!(!guard.is_held(), "both hold");
    assert_eq!(in_time("the loss is told", guard.lost()).await.cause, LossCause::Expired);
    proxy.hold(Side::Requests, false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c084_a_session_without_work_is_heard_of_all_the_same() {
    let server = migrated(&["--wait-timeout=1", "--interactive-timeout=1"]).await;
    let engine = session(&server).await;
    let mut holder = engine.contend(claim("k"));
    granted(&mut holder).await;
    let before = of_places(&server);
    // A connection of somebody else shows when the killer has passed.
    let mut other = connection(&server).await;
    let id: u64 = sqlx::query_scalar("SELECT CONNECTION_ID()").fetch_one(&mut other).await.unwrap();
    until("the killer passes", || !connections(&server).contains(&id));
    let idle = format!("SELECT time FROM information_schema.processlist WHERE id = {}", before[0]);
    let mut times = Vec::new();
    until("it was idle, and heard of again", || {
        let time: u64 = say(&server, &idle).parse().unwrap();
        times.push(time);
        times.windows(2).any(|pair| pair[1] < pair[0])
    });
    assert_eq!(of_places(&server), before);
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c026_a_lost_reply_does_not_block_its_own_claim_though_it_is_another_session() {
    let server = migrated(&[]).await;
    let proxy = Proxy::before(server.port(), Proxy::mysql).unwrap();
    let engine = MySql::open(&by_session(&url_of(&proxy))).await.unwrap();
    let wish = claim("k");
    let text = wish.id.to_string().into_bytes();
    let mut contender = engine.contend(wish);
    proxy.next(Side::Replies, mentions(text), Trick::CutBefore);
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth));
    granted(&mut contender).await;
    assert_eq!(of_places(&server).len(), 1);
    assert_eq!(places(&engine, "k").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c078_c085_a_session_that_was_given_up_is_over_before_the_next_begins() {
    let server = migrated(&[]).await;
    let impatient = by_session(&server.url("tenure")).with_response_timeout(Duration::from_secs(1));
    let engine = MySql::open(&impatient.with_connect_timeout(LIMIT)).await.unwrap();
    let mut contender = engine.contend(claim("k"));
    granted_at_last(&mut contender).await;
    let before = of_places(&server);
    contender.withdraw(Stray::Impossible).await.unwrap();
    // The server goes on working for a client that has closed the connection.
    let mut stranger = connection(&server).await;
    let mut tx = stranger.begin().await.unwrap();
    sqlx::query("SELECT * FROM tenure_keys FOR UPDATE").fetch_all(&mut *tx).await.unwrap();
    let error = contender.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth));
    // A look begins the next session, and itself waits for no row.
    in_time("the next session begins", engine.inspect(&key("k"))).await.unwrap();
    assert!(!connections(&server).contains(&before[0]), "its last statement may still be applied");
    tx.rollback().await.unwrap();
    granted_at_last(&mut contender).await;
    assert_eq!(places(&engine, "k").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c051_a_crash_of_the_server_ends_sessions_and_tokens_rise() {
    let mut server = migrated(&["--innodb-flush-log-at-trx-commit=1"]).await;
    let engine = session(&server).await;
    let mut holder = engine.contend(claim("k"));
    let first = granted(&mut holder).await;
    tokio::task::block_in_place(|| server.restart()).unwrap();
    let other = session(&server).await;
    let mut next = other.contend(claim("k"));
    assert!(granted_at_last(&mut next).await.tokens.first > first.tokens.last());
    assert_eq!(renewed_at_last(&mut holder).await, Renewal::Gone(Gone::Absent));
    // The numbers of connections begin anew; that of a session does not.
    assert!(matches!(next.renew().await, Ok(Renewal::Renewed(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c090_no_name_of_a_key_is_the_name_of_a_lock() {
    let server = migrated(&[]).await;
    let (one, two) = (session(&server).await, session(&server).await);
    let mut stranger = connection(&server).await;
    for name in ["k", "tenure k", "tenure migrates"] {
        let taken = sqlx::query_scalar::<_, i64>("SELECT GET_LOCK(?, 0)").bind(name);
        assert_eq!(taken.fetch_one(&mut stranger).await.unwrap(), 1);
    }
    // Longer than a lock's name may be, and alike to its end; and names that its collation takes for one.
    let long = "x".repeat(70);
    for name in ["k", "K", "tenure k", &format!("{long}1"), &format!("{long}2")] {
        granted(&mut one.contend(claim(name))).await;
        waits(&mut two.contend(claim(name))).await;
        // The server's locks may be taken twice by one connection; ours may not.
        waits(&mut one.contend(claim(name))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_with_the_number_of_a_dead_session_makes_others_wait_and_lets_nobody_in() {
    let server = migrated(&[]).await;
    let (dies, heir) = (session(&server).await, session(&server).await);
    granted(&mut dies.contend(claim("k"))).await;
    let take = format!("SELECT GET_LOCK('tenure {}', 60)", say(&server, "SELECT session FROM tenure_places"));
    let mut stranger = connection(&server).await;
    let taking = tokio::spawn(async move {
        let taken = sqlx::raw_sql(sqlx::AssertSqlSafe(take)).execute(&mut stranger).await;
        taken.map(|_| stranger)
    });
    let queued = "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User lock'";
    until("it waits for the lock", || say(&server, queued) == "1");
    drop(dies);
    let mut stranger = in_time("it has the lock", taking).await.unwrap().unwrap();
    let mut next = heir.contend(claim("k"));
    waits(&mut next).await;
    sqlx::raw_sql("DO RELEASE_ALL_LOCKS()").execute(&mut stranger).await.unwrap();
    granted_at_last(&mut next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_dialects_keep_one_line() {
    let server = migrated(&[]).await;
    let (by_lease, by_session) = (open(&server).await, session(&server).await);
    for mode in [Mode::Exclusive, Mode::Shared, Mode::Permit { limit: NonZeroU32::new(2).unwrap() }] {
        let wish = || {
            let mut wish = claim("k");
            wish.mode = mode;
            wish
        };
        let (mut one, mut two) = (by_lease.contend(wish()), by_session.contend(wish()));
        granted(&mut one).await;
        if mode == Mode::Exclusive {
            waits(&mut two).await;
        } else {
            granted(&mut two).await;
        }
        one.withdraw(Stray::Impossible).await.unwrap();
        granted(&mut two).await;
        let mut last = by_lease.contend(claim("k"));
        waits(&mut last).await;
        assert_eq!(two.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
        granted(&mut last).await;
        last.withdraw(Stray::Impossible).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_a_hold_whose_lease_has_ended_and_it_is_not_swept() {
    let server = migrated(&[]).await;
    let (one, two) = (session(&server).await, session(&server).await);
    let mut holder = one.contend(short_claim("k", Duration::from_millis(100)));
    granted(&mut holder).await;
    let ended = "SELECT COUNT(*) FROM tenure_places \
        WHERE ends_us < TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))";
    until("the lease has ended", || say(&server, ended) == "1");
    say(&server, "CALL tenure_sweep('', 99, -9000000000000000)");
    assert_eq!(waits(&mut two.contend(claim("k"))).await.look_in, None, "nobody can say when it ends");
    assert_eq!(two.keys("", None, 9).await.unwrap(), [key("k")]);
    assert_eq!(places(&two, "k").await, 2);
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_granted_while_a_transaction_of_the_holder_is_open_although_its_session_has_ended() {
    let server = migrated(&[]).await;
    let (dies, heir) = (session(&server).await, session(&server).await);
    let wish = claim("k");
    let grant = granted(&mut dies.contend(wish.clone())).await;
    let (mut user, mut late) = (connection(&server).await, connection(&server).await);
    let begun = user.begin().await.unwrap();
    let tx = GuardedTx::of_claim(begun, &wish.key, wish.id, grant.tokens.first).await.unwrap();
    let lock = of_places(&server);
    drop(dies);
    until("the session has ended", || !connections(&server).contains(&lock[0]));
    let mut next = heir.contend(claim("k"));
    for _ in 0..5 {
        waits(&mut next).await;
    }
    // What the dead hold has is no longer enough to begin another.
    let begun = late.begin().await.unwrap();
    assert!(GuardedTx::of_claim(begun, &wish.key, wish.id, grant.tokens.first).await.is_err());
    tx.commit().await.unwrap();
    assert!(granted_at_last(&mut next).await.tokens.first > grant.tokens.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_is_one_statement_and_writes_nothing() {
    let server = migrated(&[]).await;
    let engine = session(&server).await;
    let mut holder = engine.contend(claim("k"));
    granted(&mut holder).await;
    let count = |what: &str| -> u64 {
        let said = say(&server, &format!("SHOW GLOBAL STATUS LIKE '{what}'"));
        said.split('\t').nth(1).unwrap().parse().unwrap()
    };
    // It is prepared by now.
    assert!(holds(&mut holder).await);
    let (statements, updates) = (count("Com_stmt_execute"), count("Com_update"));
    for _ in 0..5 {
        assert!(holds(&mut holder).await);
    }
    assert_eq!(count("Com_stmt_execute") - statements, 5);
    assert_eq!(count("Com_update"), updates);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holding_costs_few_statements_however_many_are_held() {
    let server = migrated(&[]).await;
    let engine = session(&server).await;
    let mut holders: Vec<_> = (0..50).map(|n| engine.contend(claim(&format!("k{n}")))).collect();
    for holder in &mut holders {
        granted(holder).await;
        // The first call of who has not looked may say so at once.
        in_time("it may look again", holder.changed()).await.unwrap();
    }
    let count = || -> u64 {
        let said = say(&server, "SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'");
        said.split('\t').nth(1).unwrap().parse().unwrap()
    };
    let before = count();
    let all = futures_util::future::join_all(holders.iter_mut().map(|holder| holder.changed()));
    assert!(tokio::time::timeout(Duration::from_secs(1), all).await.is_err());
    let asked = count() - before;
    println!("{asked} statements in a second for 50 holds");
    assert!(asked <= 8, "{asked} statements in a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantine_is_refused() {
    let server = migrated(&[]).await;
    let engine = session(&server).await;
    let mut wish = claim("k");
    wish.quarantine = Duration::from_secs(1);
    let error = engine.contend(wish).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless));
    assert_eq!(places(&engine, "k").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c085_a_session_that_the_server_sees_on_another_connection_is_refused_and_given_up() {
    let server = migrated(&[]).await;
    let proxy = Proxy::before(server.port(), Proxy::mysql).unwrap();
    let engine = MySql::open(&by_session(&url_of(&proxy))).await.unwrap();
    let mut holder = engine.contend(claim("k"));
    granted(&mut holder).await;
    let number: i64 = say(&server, "SELECT session FROM tenure_places").parse().unwrap();
    let before = of_places(&server);
    // As behind a proxy that shares connections, the one that the verb comes over has another session.
    let (from, to) = (number.to_le_bytes().to_vec(), 1_i64.to_le_bytes().to_vec());
    proxy.next(Side::Requests, mentions(from.clone()), Trick::Replace { from, to });
    let error = holder.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless));
    assert!(error.to_string().contains("proxy"), "{error}");
    assert_eq!(renewed_at_last(&mut holder).await, Renewal::Gone(Gone::Absent));
    until("the session is given up", || !connections(&server).contains(&before[0]));
}
