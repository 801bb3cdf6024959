//! Transactions that only a holder can commit, on a real server.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Gone, Renewal, Restamp, Retry, Stray, Withdrawn,
};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{Claim, Fairness, FencingToken, Released, Tenure};
use tenure_mysql::{FencedTable, FencedTableError, GuardedTx, GuardedTxError};

/// Begins a transaction that the claim guards.
async fn begin<'c>(
    connection: &'c mut MySqlConnection,
    claim: &Claim,
    token: FencingToken,
) -> Result<GuardedTx<'c, 'static>, GuardedTxError> {
    let tx = connection.begin().await.unwrap();
    GuardedTx::of_claim(tx, &claim.key, claim.id, token).await
}

async fn with_account(settings: &[&str]) -> MariaDbServer {
    let server = migrated(settings).await;
    let account = "CREATE TABLE account (id INT PRIMARY KEY, balance INT, fence BIGINT NOT NULL DEFAULT 0); \
        INSERT INTO account (id, balance) VALUES (1, 100)";
    server.say("tenure", account).unwrap();
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_guarded_by_a_guard_and_the_release_comes_after_it() {
    let server = with_account(&[]).await;
    let tenure = Tenure::new(open(&server).await);
    let guard = tenure.lock("account/1").acquire().await.unwrap();
    let mut connection = connection(&server).await;
    let mut tx = GuardedTx::begin(&mut connection, &guard).await.unwrap();
    sqlx::query("UPDATE account SET balance = balance - 30").execute(&mut **tx).await.unwrap();
    tx.commit().await.unwrap();
    let tx = GuardedTx::begin(&mut connection, &guard).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Cleanly);
    assert_eq!(server.say("tenure", "SELECT balance FROM account").unwrap().trim(), "70");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c001_until_a_guarded_transaction_ends_nobody_else_is_granted_whatever_the_time() {
    let server = with_account(&[]).await;
    let (one, two) = (open(&server).await, open(&server).await);
    let wish = short_claim("k", Duration::from_millis(300));
    let mut holder = one.contend(wish.clone());
    let grant = granted(&mut holder).await;
    let mut user = connection(&server).await;
    let tx = begin(&mut user, &wish, grant.tokens.first).await.unwrap();
    let mut waiter = two.contend(claim("k"));
    let since = SystemClock.now();
    while SystemClock.now().since(since) < Duration::from_millis(1_500) {
        // Nobody renews, the lease has long ended, and no verb of others is blocked.
        waits(&mut waiter).await;
        assert!(matches!(two.contend(only_try("k")).attempt().await.unwrap(), Attempt::Busy(_)));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // An operator cannot take it away either, and is told why.
    let error = two.evict(&key("k"), wish.id).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
    assert!(error.to_string().contains("transaction"), "{error}");
    tx.commit().await.unwrap();
    let next = granted_at_last(&mut waiter).await;
    assert!(next.tokens.first > grant.tokens.last());
    assert_eq!(holder.renew().await.unwrap(), Renewal::Gone(Gone::Absent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_holder_renews_and_restamps_while_its_transaction_is_open_and_releases_after_it() {
    let server = with_account(&[]).await;
    let engine = open(&server).await;
    let wish = claim("k");
    let mut holder = engine.contend(wish.clone());
    let grant = granted(&mut holder).await;
    let mut user = connection(&server).await;
    let tx = begin(&mut user, &wish, grant.tokens.first).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(in_time("a renewal", holder.renew()).await, Ok(Renewal::Renewed(_))));
        assert_eq!(granted(&mut holder).await.tokens, grant.tokens);
    }
    let error = holder.withdraw(Stray::Impossible).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
    assert_eq!(places(&engine, "k").await, 1);
    let Ok(Restamp::Fresh(fresh)) = holder.restamp().await else { panic!() };
    tx.commit().await.unwrap();
    // The token of before is that of a guard that was passed on.
    assert!(matches!(begin(&mut user, &wish, grant.tokens.first).await, Err(GuardedTxError::Unseen)));
    begin(&mut user, &wish, fresh.first).await.unwrap().commit().await.unwrap();
    assert_eq!(holder.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c045_a_transaction_that_is_rolled_back_leaves_the_hold_and_one_of_a_lost_hold_does_not_begin() {
    let server = with_account(&[]).await;
    let engine = open(&server).await;
    let wish = short_claim("k", Duration::from_millis(300));
    let mut holder = engine.contend(wish.clone());
    let grant = granted(&mut holder).await;
    let mut user = connection(&server).await;
    drop(begin(&mut user, &wish, grant.tokens.first).await.unwrap());
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
    // Of another claim, and of another token.
    assert!(matches!(begin(&mut user, &claim("k"), grant.tokens.first).await, Err(GuardedTxError::Lost)));
    let other = grant.tokens.last().next().unwrap();
    assert!(matches!(begin(&mut user, &wish, other).await, Err(GuardedTxError::Unseen)));
    // The lease ends, and nobody has noticed.
    let expired = async {
        while begin(&mut user, &wish, grant.tokens.first).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begin(&mut user, &wish, grant.tokens.first).await
    };
    assert!(matches!(in_time("the lease ends", expired).await, Err(GuardedTxError::Expired)));
    // Somebody has: the place is gone.
    granted(&mut engine.contend(claim("k"))).await;
    assert!(matches!(begin(&mut user, &wish, grant.tokens.first).await, Err(GuardedTxError::Lost)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_has_read_before_the_grant_is_refused() {
    let server = with_account(&[]).await;
    let engine = open(&server).await;
    let mut user = connection(&server).await;
    let mut tx = user.begin().await.unwrap();
    sqlx::query("SELECT * FROM account").fetch_all(&mut *tx).await.unwrap();
    let wish = claim("k");
    let grant = granted(&mut engine.contend(wish.clone())).await;
    let guarded = GuardedTx::of_claim(tx, &wish.key, wish.id, grant.tokens.first).await;
    assert!(matches!(guarded, Err(GuardedTxError::Unseen)), "what it has read may be stale");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_guard_their_transactions_side_by_side_and_each_token_of_a_block_counts() {
    let server = with_account(&[]).await;
    let engine = open(&server).await;
    let wishes = [(); 2].map(|()| {
        let mut wish = claim("k");
        wish.mode = tenure_core::Mode::Shared;
        wish.spare_tokens = 4;
        wish
    });
    let (mut one, mut two) = (connection(&server).await, connection(&server).await);
    let first = granted(&mut engine.contend(wishes[0].clone())).await.tokens;
    let second = granted(&mut engine.contend(wishes[1].clone())).await.tokens;
    let first = begin(&mut one, &wishes[0], first.last()).await.unwrap();
    let second = begin(&mut two, &wishes[1], second.first).await.unwrap();
    let error = engine.contend(wishes[0].clone()).withdraw(Stray::Impossible).await.unwrap_err();
    assert_eq!(error.effect(), Effect::None);
    second.commit().await.unwrap();
    assert_eq!(engine.contend(wishes[1].clone()).withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Held);
    first.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost_by_many_who_guard_their_transactions() {
    let server = with_account(&["--max-connections=100"]).await;
    let mut workers = Vec::new();
    for _ in 0..4 {
        let tenure = Tenure::new(open(&server).await);
        let mut user = connection(&server).await;
        workers.push(tokio::spawn(async move {
            for _ in 0..10 {
                let lock = tenure.lock("account/1").fairness(Fairness::StrictFifo);
                let guard = lock.ttl(Duration::from_secs(20)).acquire().await.unwrap();
                let mut tx = GuardedTx::begin(&mut user, &guard).await.unwrap();
                let balance: i32 =
                    sqlx::query_scalar("SELECT balance FROM account").fetch_one(&mut **tx).await.unwrap();
                tokio::task::yield_now().await;
                let write = sqlx::query("UPDATE account SET balance = ?").bind(balance + 1);
                write.execute(&mut **tx).await.unwrap();
                tx.commit().await.unwrap();
                guard.release().await.unwrap();
            }
        }));
    }
    for worker in workers {
        in_time("the work is done", worker).await.unwrap();
    }
    assert_eq!(server.say("tenure", "SELECT balance FROM account").unwrap().trim(), "140");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_elsewhere_refuses_a_stale_holder_once_a_newer_one_has_entered() {
    let server = with_account(&[]).await;
    let mut user = connection(&server).await;
    let fence = FencedTable::new("account", "id", "fence");
    let token = |number| FencingToken::new(number).unwrap();
    fence.enter(&mut user, 1, token(33)).await.unwrap();
    fence.enter(&mut user, 1, token(33)).await.unwrap();
    let write = async |user: &mut MySqlConnection, number: i64| {
        let write =
            sqlx::query("UPDATE account SET balance = balance + 1, fence = ? WHERE id = ? AND fence <= ?");
        write.bind(number).bind(1).bind(number).execute(user).await.unwrap().rows_affected()
    };
    assert_eq!(write(&mut user, 33).await, 1);
    fence.enter(&mut user, 1, token(34)).await.unwrap();
    assert_eq!(write(&mut user, 33).await, 0, "a stale write finds no row");
    let FencedTableError::Stale(stale) = fence.enter(&mut user, 1, token(33)).await.unwrap_err() else {
        panic!()
    };
    assert_eq!((stale.offered, stale.mark), (token(33), token(34)));
    assert!(matches!(fence.enter(&mut user, 2, token(33)).await, Err(FencedTableError::NoRow)));
    let hostile = FencedTable::new("account`; DROP TABLE account; -- ", "id", "fence");
    assert!(matches!(hostile.enter(&mut user, 1, token(35)).await, Err(FencedTableError::Sql(_))));
    assert_eq!(server.say("tenure", "SELECT balance, fence FROM account").unwrap().trim(), "101\t34");
}
