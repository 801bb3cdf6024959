//! Many who ask at once over one connection share commands, and nothing else.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::future::ready;
use std::pin::pin;

use futures_util::future::{join_all, select};
use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineError, EngineErrorKind, Gone, Retry, Stray, Withdrawn,
};
use tenure_redis::{Redis, RedisContender};

const MANY: usize = 60;

fn contend(redis: &Redis) -> Vec<RedisContender> {
    (0..MANY).map(|n| redis.contend(claim(&format!("k{n}")))).collect()
}

/// All in one turn.
async fn attempt(line: &mut [RedisContender]) -> Vec<Result<Attempt, EngineError>> {
    join_all(line.iter_mut().map(Contender::attempt)).await
}

fn all_granted(attempts: Vec<Result<Attempt, EngineError>>) {
    for attempt in attempts {
        assert!(matches!(attempt, Ok(Attempt::Granted(_))), "{attempt:?}");
    }
}

async fn withdraw(line: &mut [RedisContender], stray: Stray) -> Vec<Result<Withdrawn, EngineError>> {
    join_all(line.iter_mut().map(|contender| contender.withdraw(stray))).await
}

fn all_held(withdrawals: Vec<Result<Withdrawn, EngineError>>) {
    for withdrawn in withdrawals {
        assert_eq!(withdrawn.unwrap(), Withdrawn::Held);
    }
}

#[tokio::test]
async fn c070_c075_each_of_many_who_ask_at_once_has_a_verdict_of_its_own() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let mut line = contend(&redis);
    server.say("SET tenure:{k20} precious").unwrap();
    granted(&mut redis.contend(claim("k30"))).await;
    line[40].withdraw(Stray::Possible).await.unwrap();
    for (n, attempt) in attempt(&mut line).await.into_iter().enumerate() {
        match (n, attempt) {
            (20, Err(error)) => {
                let foreign = (EngineErrorKind::Foreign, Effect::None, Retry::Useless);
                assert_eq!(axes(&error), foreign);
                assert!(error.to_string().contains("\"k20\""), "{error}");
            }
            (30, Ok(Attempt::Waiting(waiting))) => assert_eq!(waiting.ahead, 1),
            (40, Ok(Attempt::Gone(Gone::Withdrawn))) => {}
            (_, Ok(Attempt::Granted(_))) => {}
            (n, other) => panic!("{n}: {other:?}"),
        }
    }
    for (n, withdrawn) in withdraw(&mut line, Stray::Impossible).await.into_iter().enumerate() {
        match (n, withdrawn) {
            (20, Err(error)) => assert_eq!(error.kind(), EngineErrorKind::Foreign),
            (30, Ok(Withdrawn::Waited)) | (40, Ok(Withdrawn::Absent)) | (_, Ok(Withdrawn::Held)) => {}
            (n, other) => panic!("{n}: {other:?}"),
        }
    }
    assert!(server.say("GET tenure:{k20}").unwrap().contains("precious"));
}

/// Whether this is an answer to many: it has a line for each.
fn to_many(frame: &[u8]) -> bool {
    frame.windows(2).any(|two| two[0] != b'\r' && two[1] == b'\n')
}

#[tokio::test]
async fn c030_an_answer_to_others_who_asked_for_the_same_is_taken_by_nobody() {
    let server = RedisServer::start(&[]).unwrap();
    let proxy = Proxy::before(server.port(), Proxy::resp).unwrap();
    let redis = Redis::open(&options(&url_of(&proxy))).await.unwrap();
    let mut line = contend(&redis);
    all_granted(attempt(&mut line).await);
    // All go sixteen at a time now. One answer is lost, so each of the others comes to those who asked before.
    proxy.next(Side::Replies, to_many, Trick::Drop);
    for attempt in attempt(&mut line).await {
        assert_eq!(attempt.unwrap_err().effect(), Effect::Unknown);
    }
    // The connection was given up, and the next one is in step.
    all_held(withdraw(&mut line, Stray::Impossible).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c026_a_lost_reply_to_many_is_unknown_to_each_and_was_applied_once() {
    let server = RedisServer::start(&[]).unwrap();
    let proxy = Proxy::before(server.port(), Proxy::resp).unwrap();
    let redis = Redis::open(&options(&url_of(&proxy))).await.unwrap();
    granted(&mut redis.contend(claim("other"))).await;
    let mut line = contend(&redis);
    proxy.next(Side::Replies, to_many, Trick::CutBefore);
    let mut lost = 0;
    for attempt in attempt(&mut line).await {
        let Err(error) = attempt else { continue };
        assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth), "{error}");
        lost += 1;
    }
    assert!(lost > 1, "{lost}");
    // The same claims ask again, and none stands in its own way.
    let direct = open(&server).await;
    for (n, attempt) in attempt(&mut line).await.into_iter().enumerate() {
        let Ok(Attempt::Granted(grant)) = attempt else { panic!("{n}: {attempt:?}") };
        let found = direct.inspect(&key(&format!("k{n}"))).await.unwrap();
        assert_eq!((found.places.len(), found.last_token), (1, Some(grant.tokens.first)));
    }
}

#[tokio::test]
async fn c028_whoever_asks_no_more_takes_nothing_from_the_others() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let mut line = contend(&redis);
    let asked = line.iter_mut().enumerate().map(|(n, contender)| async move {
        let attempt = contender.attempt();
        // Every third future is polled once, and dropped.
        if n % 3 == 0 {
            select(pin!(attempt), ready(())).await;
            return;
        }
        assert!(matches!(attempt.await, Ok(Attempt::Granted(_))), "{n}");
    });
    join_all(asked).await;
    for withdrawn in withdraw(&mut line, Stray::Possible).await {
        withdrawn.unwrap();
    }
    all_granted(attempt(&mut contend(&redis)).await);
}

#[tokio::test]
async fn c048_c070_each_of_many_is_refused_for_now_by_a_server_without_enough_replicas() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let mut line = contend(&redis);
    all_granted(attempt(&mut line).await);
    server.say("CONFIG SET min-replicas-to-write 1").unwrap();
    let looks = attempt(&mut line).await.into_iter().map(Result::unwrap_err).collect::<Vec<_>>();
    let renewals = join_all(line.iter_mut().map(Contender::renew)).await.into_iter();
    let renewals = renewals.map(Result::unwrap_err).collect::<Vec<_>>();
    let withdrawals = withdraw(&mut line, Stray::Impossible).await.into_iter().map(Result::unwrap_err);
    for error in looks.into_iter().chain(renewals).chain(withdrawals) {
        assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
    }
    server.say("CONFIG SET min-replicas-to-write 0").unwrap();
    all_held(withdraw(&mut line, Stray::Impossible).await);
}

#[tokio::test]
async fn c069_of_many_who_ask_a_full_server_the_new_are_refused_and_the_others_leave() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let mut holders = contend(&redis);
    all_granted(attempt(&mut holders).await);
    server.say("CONFIG SET maxmemory 100000").unwrap();
    let mut new: Vec<_> = (0..MANY).map(|n| redis.contend(claim(&format!("new{n}")))).collect();
    for attempt in attempt(&mut new).await {
        let error = attempt.unwrap_err();
        assert_eq!(axes(&error), (EngineErrorKind::Full, Effect::None, Retry::Worth), "{error}");
    }
    all_held(withdraw(&mut holders, Stray::Impossible).await);
}

#[tokio::test]
async fn c071_many_scripts_are_found_again_when_they_are_forgotten() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = open(&server).await;
    let mut line = contend(&redis);
    server.say("SCRIPT FLUSH").unwrap();
    all_granted(attempt(&mut line).await);
    server.say("SCRIPT FLUSH").unwrap();
    all_held(withdraw(&mut line, Stray::Impossible).await);
}
