//! Transactions that only a holder can commit, on a real server: pauses, ends of leases, releases and breaks meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::engine::{Attempt, Contender, Engine, Gone, Grant, Renewal, Restamp, Stray, Withdrawn};
use tenure_core::{Claim, FencingToken, Tenure};
use tenure_postgres::{FencedTable, FencedTableError, GuardedTx, GuardedTxError, Hold, Postgres};
use tokio_postgres::types::Type;

fn hold<'a>(claim: &'a Claim, grant: &Grant) -> Hold<'a> {
    Hold::new(&claim.key, claim.id, grant.tokens.first)
}

/// A hold of so many milliseconds that nobody renews, as that of a client that is paused.
async fn paused(postgres: &Postgres, millis: u64) -> (Claim, Grant) {
    let wish = short_claim("k", Duration::from_millis(millis));
    let grant = granted(&mut postgres.contend(wish.clone())).await;
    (wish, grant)
}

/// Waits until the server's clock is past the lease.
async fn lease_ends(postgres: &Postgres, claim: &Claim) {
    let over = async {
        while postgres.inspect(&claim.key).await.unwrap().places.iter().any(|place| place.claim == claim.id) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time("the lease ends", over).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_granted_while_a_transaction_of_the_holder_is_open_although_its_lease_has_ended() {
    let server = server().await;
    let (postgres, mut own) = (open(&server).await, stranger(&server).await);
    let (wish, grant) = paused(&postgres, 300).await;
    let transaction = GuardedTx::begin(&mut own, hold(&wish, &grant)).await.unwrap();
    let mut waiter = postgres.contend(claim("k"));
    lease_ends(&postgres, &wish).await;
    for _ in 0..10 {
        let waiting = waits(&mut waiter).await;
        assert!(waiting.look_in.unwrap() <= Duration::from_millis(50), "it looks again soon");
    }
    assert_eq!(
        postgres.contend(wish.clone()).renew().await.unwrap(),
        Renewal::Gone(Gone::Absent),
        "the hold is over all the same"
    );
    assert!(matches!(postgres.contend(wish.clone()).attempt().await, Ok(Attempt::Gone(Gone::Absent))));
    transaction.commit().await.unwrap();
    let next = granted_at_last(&mut waiter).await;
    assert!(next.tokens.first > grant.tokens.last());
    let late = GuardedTx::begin(&mut own, hold(&wish, &grant)).await;
    assert!(matches!(late, Err(GuardedTxError::NotHeld(_))), "{late:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_renews_and_restamps_while_its_transaction_is_open() {
    let server = server().await;
    let (postgres, mut own) = (open(&server).await, stranger(&server).await);
    let (wish, grant) = paused(&postgres, 30_000).await;
    let mut contender = postgres.contend(wish.clone());
    let transaction = GuardedTx::begin(&mut own, hold(&wish, &grant)).await.unwrap();
    transaction.batch_execute("CREATE TABLE written (n int)").await.unwrap();
    assert!(matches!(contender.renew().await, Ok(Renewal::Renewed(_))));
    let Ok(Restamp::Fresh(fresh)) = contender.restamp().await else { panic!() };
    assert!(matches!(contender.renew().await, Ok(Renewal::Renewed(_))));
    transaction.rollback().await.unwrap();
    let stale = GuardedTx::begin(&mut own, hold(&wish, &grant)).await;
    assert!(matches!(stale, Err(GuardedTxError::NotHeld(_))), "the old token holds nothing: {stale:?}");
    drop(stale);
    let grant = Grant { tokens: fresh, ..grant };
    GuardedTx::begin(&mut own, hold(&wish, &grant)).await.unwrap().commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_and_a_break_take_effect_when_the_transaction_ends() {
    let server = server().await;
    let (postgres, mut own, mut other) =
        (open(&server).await, stranger(&server).await, stranger(&server).await);
    for breaks in [false, true] {
        let (wish, grant) = paused(&postgres, 30_000).await;
        let transaction = GuardedTx::begin(&mut own, hold(&wish, &grant)).await.unwrap();
        let gone = if breaks {
            assert_eq!(postgres.evict(&wish.key, wish.id).await.unwrap(), Withdrawn::Held);
            Gone::Evicted
        } else {
            let mut holder = postgres.contend(wish.clone());
            assert_eq!(holder.withdraw(Stray::Possible).await.unwrap(), Withdrawn::Held);
            assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
            Gone::Withdrawn
        };
        let mut waiter = postgres.contend(claim("k"));
        waits(&mut waiter).await;
        assert_eq!(postgres.contend(wish.clone()).renew().await.unwrap(), Renewal::Gone(gone));
        let second = GuardedTx::begin(&mut other, hold(&wish, &grant)).await;
        assert!(matches!(second, Err(GuardedTxError::NotHeld(_))), "{second:?}");
        transaction.commit().await.unwrap();
        granted_at_last(&mut waiter).await;
        waiter.withdraw(Stray::Impossible).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_begins_while_its_hold_is_released_is_refused_or_keeps_others_out() {
    let server = server().await;
    let (postgres, other) = (open(&server).await, open(&server).await);
    let mut own = stranger(&server).await;
    let (mut kept, mut refused) = (0, 0);
    for round in 0..200_u64 {
        let wish = claim("k");
        let mut holder = postgres.contend(wish.clone());
        let grant = granted_at_last(&mut holder).await;
        // Once a line has formed, the hold has moved out of its key's row.
        let mut second = other.contend(claim("k"));
        if round % 4 == 0 {
            waits(&mut second).await;
        }
        let release = async {
            tokio::time::sleep(Duration::from_micros(round * 37 % 1_500)).await;
            holder.withdraw(Stray::Impossible).await
        };
        let begin = async {
            tokio::time::sleep(Duration::from_micros(round * 53 % 1_000)).await;
            GuardedTx::begin(&mut own, hold(&wish, &grant)).await
        };
        // Now and then, the transaction has begun in any case.
        let (begun, released) =
            if round % 5 == 0 { (begin.await, release.await) } else { tokio::join!(begin, release) };
        assert_eq!(released.unwrap(), Withdrawn::Held);
        match begun {
            Ok(transaction) => {
                for _ in 0..3 {
                    waits(&mut second).await;
                }
                transaction.commit().await.unwrap();
                kept += 1;
            }
            Err(GuardedTxError::NotHeld(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(granted_at_last(&mut second).await.tokens.first > grant.tokens.last());
        second.withdraw(Stray::Impossible).await.unwrap();
    }
    assert!(kept >= 40, "{kept} transactions began in time, {refused} did not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_pinned_alone_stays_pinned_when_others_join_its_line() {
    let server = server().await;
    let (postgres, mut own, mut late) =
        (open(&server).await, stranger(&server).await, stranger(&server).await);
    let (wish, grant) = paused(&postgres, 600).await;
    let alone = "SELECT claim IS NOT NULL FROM tenure_keys";
    let transaction = GuardedTx::begin(&mut own, hold(&wish, &grant)).await.unwrap();
    assert_eq!(server.sql(alone).unwrap(), "t");
    let mut waiter = postgres.contend(claim("k"));
    waits(&mut waiter).await;
    assert_eq!(server.sql(alone).unwrap(), "f", "it has moved into the line, and is pinned where it was");
    // While the lease runs, a second transaction pins it where it is now.
    let second = GuardedTx::begin(&mut late, hold(&wish, &grant)).await;
    lease_ends(&postgres, &wish).await;
    for _ in 0..5 {
        waits(&mut waiter).await;
    }
    assert_eq!(postgres.contend(wish.clone()).withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
    transaction.commit().await.unwrap();
    if let Ok(second) = second {
        waits(&mut waiter).await;
        second.commit().await.unwrap();
    }
    assert!(granted_at_last(&mut waiter).await.tokens.first > grant.tokens.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_cannot_begin_a_transaction() {
    let server = server().await;
    let (postgres, mut own) = (open(&server).await, stranger(&server).await);
    let (_, grant) = paused(&postgres, 30_000).await;
    let wish = claim("k");
    waits(&mut postgres.contend(wish.clone())).await;
    let refused = GuardedTx::begin(&mut own, hold(&wish, &grant)).await.unwrap_err();
    assert!(refused.to_string().contains("it waits"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c001_no_update_is_lost_under_guarded_transactions_although_leases_end_in_the_middle() {
    let server = server().await;
    server.sql("CREATE TABLE counter AS SELECT 0 AS n").unwrap();
    let postgres = open(&server).await;
    let mut workers = Vec::new();
    for worker in 0..4_u64 {
        let (postgres, mut own) = (postgres.clone(), stranger(&server).await);
        workers.push(tokio::spawn(async move {
            let mut committed = 0;
            for round in 0..10 {
                // Some leases are too short for the work, and nobody renews them.
                let wish = short_claim(
                    "k",
                    Duration::from_millis(if (worker + round) % 3 == 0 { 60 } else { 30_000 }),
                );
                let mut contender = postgres.contend(wish.clone());
                let grant = match tokio::time::timeout(LIMIT, granted_or_gone(&mut contender)).await.unwrap()
                {
                    Some(grant) => grant,
                    None => continue,
                };
                let Ok(transaction) = GuardedTx::begin(&mut own, hold(&wish, &grant)).await else { continue };
                let read: i32 = transaction.query_one("SELECT n FROM counter", &[]).await.unwrap().get(0);
                tokio::time::sleep(Duration::from_millis(10 * (worker % 3) * 4)).await;
                transaction.execute("UPDATE counter SET n = $1", &[&(read + 1)]).await.unwrap();
                transaction.commit().await.unwrap();
                committed += 1;
                contender.withdraw(Stray::Impossible).await.unwrap();
            }
            committed
        }));
    }
    let mut committed = 0;
    for worker in workers {
        committed += worker.await.unwrap();
    }
    assert!(committed > 10, "{committed}");
    assert_eq!(server.sql("SELECT n FROM counter").unwrap(), committed.to_string());
}

/// The grant, or none when the claim was dropped from the line meanwhile.
async fn granted_or_gone(contender: &mut impl Contender) -> Option<Grant> {
    loop {
        match contender.attempt().await.unwrap() {
            Attempt::Granted(grant) => return Some(grant),
            Attempt::Gone(_) => return None,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[cfg(feature = "sqlx")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holds_on_sqlx_and_behind_a_pooler() {
    use sqlx::{Connection, PgConnection, Row};
    use tenure_postgres::{SqlxGuardedTx, SqlxGuardedTxError};

    let server = server().await;
    // What sqlx asks of every server, and PgBouncer does not know.
    let bouncer = PgBouncer::before(&server, &["ignore_startup_parameters = extra_float_digits"]).unwrap();
    let postgres = open(&server).await;
    for port in [server.port(), bouncer.port()] {
        let mut own = PgConnection::connect(&url_of(port)).await.unwrap();
        let (wish, grant) = paused(&postgres, 400).await;
        let mut transaction = SqlxGuardedTx::begin(&mut own, hold(&wish, &grant)).await.unwrap();
        let one: i32 = sqlx::query("SELECT 1").fetch_one(&mut **transaction).await.unwrap().get(0);
        assert_eq!(one, 1);
        lease_ends(&postgres, &wish).await;
        let mut waiter = postgres.contend(claim("k"));
        waits(&mut waiter).await;
        transaction.commit().await.unwrap();
        granted_at_last(&mut waiter).await;
        let late = SqlxGuardedTx::begin(&mut own, hold(&wish, &grant)).await;
        assert!(matches!(late, Err(SqlxGuardedTxError::NotHeld(_))), "{late:?}");
        waiter.withdraw(Stray::Impossible).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_pins_its_hold_in_any_schema() {
    let server = PostgresServer::start(&[]).unwrap();
    let options = options(&server.url()).with_schema("lo\"cks");
    tenure_postgres::migrate(&options).await.unwrap();
    let tenure = Tenure::new(Postgres::open(&options).await.unwrap());
    let mut own = stranger(&server).await;
    let guard = tenure.lock("k").acquire().await.unwrap();
    let transaction = GuardedTx::begin(&mut own, Hold::from(&guard).in_schema("lo\"cks")).await.unwrap();
    transaction.commit().await.unwrap();
    let elsewhere = GuardedTx::begin(&mut own, &guard).await.unwrap_err();
    assert!(matches!(&elsewhere, GuardedTxError::Trouble(_)), "{elsewhere}");
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c001_a_row_in_another_database_refuses_a_stale_holder() {
    let server = PostgresServer::start(&[]).unwrap();
    server
        .sql("CREATE TABLE accounts (id int PRIMARY KEY, balance int, fence bigint NOT NULL DEFAULT 0)")
        .unwrap();
    server.sql("INSERT INTO accounts VALUES (7, 100)").unwrap();
    let own = stranger(&server).await;
    let accounts = FencedTable::new("accounts", "id", "fence");
    let (old, new) = (FencingToken::new(33).unwrap(), FencingToken::new(34).unwrap());
    let write = "UPDATE accounts SET balance = $3, fence = $1 WHERE id = $2 AND fence <= $1";
    accounts.enter(&own, (&7_i32, Type::INT4), old).await.unwrap();
    accounts.enter(&own, (&7_i32, Type::INT4), new).await.unwrap();
    accounts.enter(&own, (&7_i32, Type::INT4), new).await.unwrap();
    assert_eq!(own.execute(write, &[&33_i64, &7_i32, &0_i32]).await.unwrap(), 0, "the late write");
    assert_eq!(own.execute(write, &[&34_i64, &7_i32, &101_i32]).await.unwrap(), 1);
    match accounts.enter(&own, (&7_i32, Type::INT4), old).await {
        Err(FencedTableError::Stale(stale)) => assert_eq!((stale.offered, stale.mark), (old, new)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(accounts.enter(&own, (&8_i32, Type::INT4), new).await, Err(FencedTableError::Missing)));
    assert_eq!(server.sql("SELECT balance, fence FROM accounts").unwrap(), "101|34");
}
