//! Holds that last as long as a session: ended connections, killed servers, poolers and strangers, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Exclusion, Gone, Liveness, Renewal, Restamp, Retry,
    Stray, Validity, Withdrawn,
};
use tenure_core::{LossCause, Mode, Tenure};
use tenure_postgres::{Dialect, GuardedTx, Hold, Postgres, PostgresContender};
use tenure_servers::Program;

async fn by_session(server: &PostgresServer) -> Postgres {
    Postgres::open(&options(&server.url()).with_dialect(Dialect::Advisory)).await.unwrap()
}

/// How many advisory locks there are.
fn locks(server: &PostgresServer) -> String {
    server.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c001_a_holder_that_dies_frees_its_key_long_before_its_lease_ends() {
    let server = server().await;
    let (dies, heir) = (by_session(&server).await, by_session(&server).await);
    assert_eq!(dies.facts().liveness, Liveness::Session);
    assert_eq!(dies.facts().exclusion, Exclusion::BestEffort);
    let mut long = claim("k");
    long.ttl = tenure_core::Ttl::new(Duration::from_secs(24 * 3600)).unwrap();
    let first = granted(&mut dies.contend(long)).await;
    // The server would end the session of a machine that is cut off after 20 s: nobody may count on a day.
    assert_eq!(first.validity, Validity::Lease(Duration::from_secs(15)));
    let mut next = heir.contend(claim("k"));
    assert_eq!(waits(&mut next).await.look_in, None, "nobody can say when");
    let ends = server.sql("SELECT ends_us FROM tenure_places WHERE state = 'holds'").unwrap();
    drop(dies);
    let grant = granted_at_last(&mut next).await;
    assert_eq!(server.sql(&format!("SELECT tenure_now() < {ends}")).unwrap(), "t", "the lease goes on");
    assert!(grant.tokens.first > first.tokens.last());
    assert_eq!(places(&heir, "k").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c086_a_session_that_the_server_ends_is_noticed_and_nothing_of_it_is_adopted() {
    let server = server().await;
    let postgres = by_session(&server).await;
    let tenure = Tenure::new(postgres.clone());
    let guard = tenure.lock("guarded").ttl(Duration::from_secs(24 * 3600)).acquire().await.unwrap();
    let mut holder = postgres.contend(claim("k"));
    let grant = granted(&mut holder).await;
    terminate(&server);
    let loss = in_time("the loss is noticed", guard.lost()).await;
    assert_ne!(loss.cause, LossCause::MaxHold);
    let renewal = at_last("an answer", async || holder.renew().await).await;
    assert_eq!(renewal, Renewal::Gone(Gone::Absent));
    assert_eq!(holder.restamp().await.unwrap(), Restamp::Gone(Gone::Absent));
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
    assert!(granted(&mut holder).await.tokens.first > grant.tokens.last(), "it begins anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c086_a_claim_that_asks_again_in_another_session_is_granted_anew() {
    let server = server().await;
    let postgres = by_session(&server).await;
    let mut holder = postgres.contend(claim("k"));
    let grant = granted(&mut holder).await;
    // As if the connection had broken, and the server had not noticed yet.
    server.sql("UPDATE tenure_keys SET session = session # 1").unwrap();
    let keeps = stranger(&server).await;
    keeps.batch_execute("SELECT pg_advisory_lock(session) FROM tenure_keys").await.unwrap();
    assert_eq!(holder.renew().await.unwrap(), Renewal::Gone(Gone::Absent));
    assert_eq!(places(&postgres, "k").await, 1, "the other session still has it");
    assert!(granted(&mut holder).await.tokens.first > grant.tokens.last());
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c007_c023_a_holder_that_is_cut_off_knows_it_by_its_own_deadline_and_nobody_is_let_in() {
    let server = server().await;
    let proxy = Proxy::before(server.port(), Proxy::postgres).unwrap();
    let far = options(&url_of(proxy.port())).with_dialect(Dialect::Advisory);
    let tenure = Tenure::new(Postgres::open(&far).await.unwrap());
    let guard = tenure.lock("k").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    proxy.hold(Side::Requests, true);
    assert_eq!(in_time("the loss is told", guard.lost()).await.cause, LossCause::Expired);
    // The server still hears its machine.
    let near = by_session(&server).await;
    waits(&mut near.contend(claim("k"))).await;
    proxy.hold(Side::Requests, false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_granted_while_a_transaction_of_the_holder_is_open_although_its_session_has_ended() {
    let server = server().await;
    let (postgres, mut own) = (by_session(&server).await, stranger(&server).await);
    let wish = claim("k");
    let grant = granted(&mut postgres.contend(wish.clone())).await;
    let hold = Hold::new(&wish.key, wish.id, grant.tokens.first);
    let transaction = GuardedTx::begin(&mut own, hold).await.unwrap();
    terminate(&server);
    until("the session has ended", || locks(&server) == "0");
    let other = by_session(&server).await;
    let mut next = other.contend(claim("k"));
    for _ in 0..5 {
        waits(&mut next).await;
    }
    transaction.commit().await.unwrap();
    assert!(granted_at_last(&mut next).await.tokens.first > grant.tokens.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c083_a_role_whose_idle_sessions_are_ended_keeps_its_holds() {
    let server = server().await;
    server.sql("ALTER ROLE postgres SET idle_session_timeout = '300ms'").unwrap();
    let postgres = by_session(&server).await;
    let mut holder = postgres.contend(claim("k"));
    granted(&mut holder).await;
    let process = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'";
    let before = server.sql(process).unwrap();
    // Nothing is to happen meanwhile.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(server.sql(process).unwrap(), before);
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c076_a_server_without_a_connection_left_renews_and_releases() {
    let server = server_with(&["max_connections=8", "superuser_reserved_connections=0"]).await;
    let postgres = by_session(&server).await;
    let mut holder = postgres.contend(claim("k"));
    granted(&mut holder).await;
    let mut taken = Vec::new();
    while let Ok((client, connection)) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await {
        tokio::spawn(connection);
        taken.push(client);
        assert!(taken.len() < 9);
    }
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c082_a_pooler_is_refused_because_it_would_share_the_session() {
    let server = server().await;
    let bouncer = PgBouncer::before(&server, &["default_pool_size = 3"]).unwrap();
    for _ in 0..3 {
        let error = refused(&format!("{}?dialect=advisory", bouncer.url())).await;
        assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless));
        assert!(error.to_string().contains("pooler"), "{error}");
    }
    assert_eq!(locks(&server), "0", "nothing of us is left in it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c082_a_verb_that_another_process_runs_is_refused() {
    let server = server().await;
    let postgres = by_session(&server).await;
    let mut holder = postgres.contend(claim("k"));
    granted(&mut holder).await;
    let session = server.sql("SELECT session FROM tenure_keys").unwrap();
    let other = stranger(&server).await;
    for verb in [
        format!("tenure_renew('k', 'me', 1, {session}, 100)"),
        format!("tenure_restamp('k', 'me', 0, 0, {session}, 100)"),
        format!("tenure_withdraw('k', 'me', 1, false, {session}, 100)"),
        format!("tenure_attempt('k', 'me', 'x', 0, 1, 0, 0, false, '', '', {session}, 100)"),
    ] {
        let error = other.batch_execute(&format!("SELECT {verb}")).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "TN002", "{verb}");
    }
    assert_eq!(places(&postgres, "k").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c087_names_with_one_hash_are_two_keys() {
    let server = server().await;
    // A pair on which locks of `pg_advisory_lock(hashtext(name))` would be one.
    let pair = "SELECT min(n), max(n) FROM generate_series(1, 300000) AS n \
        GROUP BY hashtext(n::text) HAVING count(*) > 1 LIMIT 1";
    let pair = server.sql(pair).unwrap();
    let (one, two) = pair.split_once('|').unwrap();
    let (postgres, other) = (by_session(&server).await, by_session(&server).await);
    granted(&mut postgres.contend(claim(one))).await;
    granted(&mut other.contend(claim(two))).await;
    waits(&mut other.contend(claim(one))).await;
    waits(&mut postgres.contend(claim(two))).await;
    assert_eq!(locks(&server), "2", "one for each session, however many holds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c087_a_stranger_with_the_number_of_a_dead_session_makes_others_wait_and_lets_nobody_in() {
    let server = server().await;
    let (dies, heir) = (by_session(&server).await, by_session(&server).await);
    granted(&mut dies.contend(claim("k"))).await;
    let foreign = stranger(&server).await;
    // Waits in the server's own queue for the lock, and so has it the moment the session ends.
    let session = server.sql("SELECT session FROM tenure_keys").unwrap();
    let takes = format!("SELECT pg_advisory_lock({session})");
    let taking = tokio::spawn(async move { foreign.batch_execute(&takes).await.map(|()| foreign) });
    until("it waits for the number", || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        server.sql(waiting).unwrap() == "1"
    });
    drop(dies);
    let foreign = in_time("it has the number", taking).await.unwrap().unwrap();
    let mut next = heir.contend(claim("k"));
    waits(&mut next).await;
    foreign.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    granted_at_last(&mut next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c044_a_row_that_somebody_locks_is_a_bounded_wait_and_leaves_no_lock() {
    let server = server().await;
    let postgres = by_session(&server).await;
    wait_for_a_locked_row(&server, &postgres).await;
    assert_eq!(locks(&server), "1", "that of the session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c027_a_storm_of_cancelled_attempts_leaves_no_lock() {
    let server = server().await;
    let postgres = by_session(&server).await;
    let storm = (0..100_u64).map(|n| {
        let mut contender = postgres.contend(claim(&format!("k{}", n % 7)));
        tokio::spawn(async move {
            let cut = tokio::time::timeout(Duration::from_micros(n * 80), contender.attempt()).await.is_err();
            let stray = if cut { Stray::Possible } else { Stray::Impossible };
            contender.withdraw(stray).await.unwrap()
        })
    });
    for one in futures_util::future::join_all(storm).await {
        one.unwrap();
    }
    assert_eq!(postgres.keys("", None, 9).await.unwrap(), []);
    assert_eq!(locks(&server), "1", "that of the session");
    let other = by_session(&server).await;
    for n in 0..7 {
        granted(&mut other.contend(claim(&format!("k{n}")))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c053_a_server_that_is_killed_forgets_sessions_and_gives_a_higher_token() {
    let mut server = PostgresServer::durable(&[]).unwrap();
    tenure_postgres::migrate(&options(&server.url())).await.unwrap();
    let postgres = by_session(&server).await;
    let mut holder = postgres.contend(claim("k"));
    let first = granted(&mut holder).await;
    server.kill();
    server.restart().unwrap();
    let other = by_session(&server).await;
    let next = granted_at_last(&mut other.contend(claim("k"))).await;
    assert!(next.tokens.first > first.tokens.last());
    let renewal = at_last("an answer", async || holder.renew().await).await;
    assert_eq!(renewal, Renewal::Gone(Gone::Absent));
}

/// Kills a server with all its processes at once, so that nothing of it can write any more.
fn crash(server: &PostgresServer) {
    let children = server.sql("SELECT string_agg(pid::text, ' ') FROM pg_stat_activity").unwrap();
    let kill = format!("kill -KILL {} {children}", server.process().pid());
    // One of them has ended meanwhile: the one that told us.
    let _ = Program::new("sh", "dash").args(["-c", &kill]).run();
}

/// The last token that was reported of cycles of acquire and release in a session, on a server that crashes in the
/// middle of them.
async fn cycles_until_a_crash(server: &PostgresServer) -> u64 {
    let postgres = by_session(server).await;
    let (tell, reported) = tokio::sync::watch::channel(0);
    let load = tokio::spawn(async move {
        loop {
            let mut contender = postgres.contend(claim("k"));
            match contender.attempt().await {
                Ok(Attempt::Granted(grant)) => {
                    tell.send_replace(grant.tokens.last().get());
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => return,
            }
            if contender.withdraw(Stray::Impossible).await.is_err() {
                return;
            }
        }
    });
    let mut some = reported.clone();
    let mut cycles = 0;
    in_time("there are some", async {
        while cycles < 300 {
            some.changed().await.unwrap();
            cycles += 1;
        }
    })
    .await;
    crash(server);
    in_time("the load ends", load).await.unwrap();
    *reported.borrow()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c051_c052_a_crash_that_forgets_grants_of_a_session_gives_none_of_their_tokens_again() {
    let mut server = PostgresServer::durable(&["wal_writer_delay=10s", "autovacuum=off"]).unwrap();
    tenure_postgres::migrate(&options(&server.url())).await.unwrap();
    let (mut highest, mut forgotten) = (0, 0);
    for round in 0..6 {
        let reported = cycles_until_a_crash(&server).await;
        assert!(reported > highest, "tokens rise over crashes: {reported}, {highest}");
        highest = reported;
        server.restart().unwrap();
        let remembered = server.sql("SELECT last_token, reserve FROM tenure_keys").unwrap();
        let (last, reserve) = remembered.split_once('|').unwrap();
        let (last, reserve): (u64, u64) = (last.parse().unwrap(), reserve.parse().unwrap());
        assert!(last.max(reserve) >= reported, "{last}, {reserve}, but {reported} was given out");
        forgotten += u32::from(last < reported);
        if round == 4 {
            // From here on the clock cannot save us.
            set_back(&server);
        }
        // Whoever comes next, by lease or by session.
        let heir = if round % 2 == 0 { open(&server).await } else { by_session(&server).await };
        let mut next = heir.contend(claim("k"));
        let tokens = granted_at_last(&mut next).await.tokens;
        assert!(tokens.first.get() > highest, "round {round}");
        highest = tokens.last().get();
        next.withdraw(Stray::Impossible).await.unwrap();
    }
    assert!(forgotten > 0, "no crash has forgotten anything, so nothing was shown");
}

/// Where the server's log ends, once a grant is there that is not on the disk.
async fn granted_without_a_wait(server: &PostgresServer, holder: &mut PostgresContender) -> String {
    let unflushed =
        "SELECT pg_current_wal_insert_lsn() WHERE pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()";
    let mut end = String::new();
    eventually("a grant that did not wait", async || {
        holder.withdraw(Stray::Impossible).await.unwrap();
        granted(holder).await;
        end = server.sql(unflushed).unwrap();
        !end.is_empty()
    })
    .await;
    end
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_of_a_session_that_is_alone_waits_for_the_disk_now_and_then_and_its_renewals_always() {
    let server = PostgresServer::durable(&["wal_writer_delay=10s", "autovacuum=off"]).unwrap();
    tenure_postgres::migrate(&options(&server.url())).await.unwrap();
    let (by_session, by_lease) = (by_session(&server).await, open(&server).await);
    let is_on_the_disk = |end: &str| {
        let flushed = format!("SELECT pg_current_wal_flush_lsn() >= '{end}'");
        server.sql(&flushed).unwrap() == "t"
    };
    let mut holder = by_session.contend(claim("k"));
    let end = granted_without_a_wait(&server, &mut holder).await;
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
    assert!(is_on_the_disk(&end), "with what came before it");
    // What others are granted waits, and with it what came before.
    let end = granted_without_a_wait(&server, &mut holder).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    granted(&mut by_lease.contend(claim("k"))).await;
    assert!(is_on_the_disk(&end));
}

/// A holder in a session that has come back to its key, and how far tokens are set aside for it.
async fn come_back(server: &PostgresServer, postgres: &Postgres, name: &str) -> (PostgresContender, u64) {
    let mut holder = postgres.contend(claim(name));
    for _ in 0..20 {
        granted(&mut holder).await;
        holder.withdraw(Stray::Impossible).await.unwrap();
    }
    let last = granted(&mut holder).await.tokens.last().get();
    let reserve = server.sql(&format!("SELECT reserve FROM tenure_keys WHERE key = '{name}'")).unwrap();
    let reserve: u64 = reserve.parse().unwrap();
    assert!(reserve >= last);
    (holder, reserve)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c049_whoever_comes_after_a_session_begins_above_what_was_set_aside_for_it() {
    let server = server().await;
    let (postgres, other, by_lease) =
        (by_session(&server).await, by_session(&server).await, open(&server).await);
    let heirs = [("free by lease", &by_lease), ("free by session", &other), ("in a line", &by_lease)];
    let mut holders = Vec::new();
    for (name, _) in heirs {
        holders.push(come_back(&server, &postgres, name).await);
    }
    set_back(&server);
    for ((name, heir), (mut holder, reserve)) in heirs.into_iter().zip(holders) {
        let mut next = heir.contend(claim(name));
        if name == "in a line" {
            waits(&mut next).await;
        }
        holder.withdraw(Stray::Impossible).await.unwrap();
        assert!(granted(&mut next).await.tokens.first.get() > reserve, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c049_a_key_that_is_swept_gives_no_token_that_was_set_aside() {
    let server = server().await;
    let postgres = by_session(&server).await;
    let (mut holder, reserve) = come_back(&server, &postgres, "k").await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    server.sql("SELECT tenure_sweep('', 0, 100)").unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM tenure_keys").unwrap(), "0");
    set_back(&server);
    assert!(granted(&mut holder).await.tokens.first.get() > reserve);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_dialects_keep_one_line() {
    let server = server().await;
    let (by_lease, by_session) = (open(&server).await, by_session(&server).await);
    let with = |name: &str, mode: Mode| {
        let mut claim = claim(name);
        claim.mode = mode;
        claim
    };
    for mode in [Mode::Exclusive, Mode::Shared, Mode::Permit { limit: NonZeroU32::new(2).unwrap() }] {
        let fits = mode != Mode::Exclusive;
        let (mut one, mut two) = (by_lease.contend(with("k", mode)), by_session.contend(with("k", mode)));
        granted(&mut one).await;
        if fits {
            granted(&mut two).await;
            one.withdraw(Stray::Impossible).await.unwrap();
        } else {
            waits(&mut two).await;
            one.withdraw(Stray::Impossible).await.unwrap();
            granted_at_last(&mut two).await;
        }
        let mut next = by_lease.contend(claim("other"));
        granted(&mut next).await;
        next.withdraw(Stray::Impossible).await.unwrap();
        assert_eq!(two.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_hold_outlives_its_lease_and_is_not_swept() {
    let server = server().await;
    let (one, two) = (by_session(&server).await, by_session(&server).await);
    let mut holder = one.contend(short_claim("k", Duration::from_millis(100)));
    granted(&mut holder).await;
    until("the lease has ended", || {
        server.sql("SELECT count(*) FROM tenure_keys WHERE ends_us > tenure_now()").unwrap() == "0"
    });
    server.sql("SELECT tenure_sweep('', 0, 100)").unwrap();
    waits(&mut two.contend(claim("k"))).await;
    assert_eq!(two.keys("", None, 9).await.unwrap(), [key("k")]);
    assert_eq!(places(&two, "k").await, 2);
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantine_is_refused() {
    let server = server().await;
    let postgres = by_session(&server).await;
    let mut claim = claim("k");
    claim.quarantine = Duration::from_secs(1);
    let error = postgres.contend(claim).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless));
    assert_eq!(places(&postgres, "k").await, 0);
}
