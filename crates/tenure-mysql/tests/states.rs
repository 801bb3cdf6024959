//! What servers, settings, schemas and rights there are, and what is said of each.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::engine::{
    Contender, Effect, Engine, EngineErrorKind, Exclusion, Retry, Stray, TokenDurability, Wake,
};
use tenure_mysql::{MySql, migrate, migration_sql};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c052_a_server_that_does_not_write_each_commit_is_said_to_promise_less() {
    for (setting, exclusion, durability) in [
        ("--innodb-flush-log-at-trx-commit=1", Exclusion::WithinClockRates, TokenDurability::Disk),
        ("--innodb-flush-log-at-trx-commit=0", Exclusion::BestEffort, TokenDurability::Volatile),
    ] {
        let server = migrated(&[setting]).await;
        let facts = open(&server).await.facts();
        assert_eq!((facts.exclusion, facts.token_durability), (exclusion, durability), "{setting}");
        assert_eq!(facts.cautions.is_empty(), durability == TokenDurability::Disk, "{:?}", facts.cautions);
    }
    // Somebody may fail over to a replica that has not heard of a grant.
    let server =
        migrated(&["--innodb-flush-log-at-trx-commit=1", "--log-bin", "--sync-binlog=1", "--server-id=1"])
            .await;
    let facts = open(&server).await.facts();
    assert_eq!((facts.exclusion, facts.token_durability), (Exclusion::BestEffort, TokenDurability::Disk));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_our_tables_is_refused_with_the_command_that_mends_it() {
    let server = MariaDbServer::start(&[]).unwrap();
    let url = server.url("tenure");
    let error = refused(&url).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless));
    assert!(error.to_string().contains("tenure migrate --at"), "{error}");
    assert_eq!(server.say("tenure", "SHOW TABLES").unwrap(), "", "nothing is half made");
    // Migrating twice, and by two at once, is as good as once.
    let (one, two) = (options(&url), options(&url));
    let (one, two) = tokio::join!(migrate(&one), migrate(&two));
    one.unwrap();
    two.unwrap();
    migrate(&options(&url)).await.unwrap();
    granted(&mut open(&server).await.contend(claim("k"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_was_interrupted_is_refused_and_finished_by_another() {
    let server = migrated(&[]).await;
    for damage in [
        "DELETE FROM tenure_schema",
        "DELETE FROM tenure_schema; DROP PROCEDURE tenure_probe",
        "DROP TABLE tenure_schema; DROP TABLE tenure_places; DROP PROCEDURE tenure_attempt",
    ] {
        server.say("tenure", damage).unwrap();
        let error = refused(&server.url("tenure")).await;
        assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless), "{damage}");
        assert!(error.to_string().contains("tenure migrate --at"), "{error}");
        let wishes = options(&server.url("tenure"));
        at_last("it is migrated", async || migrate(&wishes).await).await;
        let mut contender = open(&server).await.contend(claim("k"));
        granted(&mut contender).await;
        contender.withdraw(Stray::Impossible).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_refused_and_left_alone() {
    let server = migrated(&[]).await;
    server.say("tenure", "UPDATE tenure_schema SET version = 2").unwrap();
    let (opened, migrated) =
        (refused(&server.url("tenure")).await, migrate(&options(&server.url("tenure"))).await.unwrap_err());
    for error in [opened, migrated] {
        assert_eq!(axes(&error), (EngineErrorKind::Unsupported, Effect::None, Retry::Useless));
        assert!(
            error.to_string().contains("version 2") && error.to_string().contains("newer tenure"),
            "{error}"
        );
    }
    assert_eq!(server.say("tenure", "SELECT version FROM tenure_schema").unwrap().trim(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c075_a_table_of_our_name_that_is_not_ours_is_refused_and_not_touched() {
    let server = MariaDbServer::start(&[]).unwrap();
    server.say("tenure", "CREATE TABLE tenure_keys (id INT PRIMARY KEY, door VARCHAR(9))").unwrap();
    server.say("tenure", "INSERT INTO tenure_keys VALUES (1, 'front')").unwrap();
    let (opened, migrated) =
        (refused(&server.url("tenure")).await, migrate(&options(&server.url("tenure"))).await.unwrap_err());
    for error in [opened, migrated] {
        assert_eq!(axes(&error), (EngineErrorKind::Foreign, Effect::None, Retry::Useless));
        assert!(error.to_string().contains("tenure_keys"), "{error}");
    }
    assert_eq!(server.say("tenure", "SELECT * FROM tenure_keys").unwrap(), "1\tfront\n");
    assert_eq!(server.say("tenure", "SHOW TABLES").unwrap().trim(), "tenure_keys", "nothing is half made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_a_wrong_database_and_a_wrong_password_are_denied_by_name() {
    let server = migrated(&[]).await;
    let rights = "CREATE USER app IDENTIFIED BY 'hunter2'; \
        GRANT SELECT, INSERT, UPDATE, DELETE, EXECUTE ON tenure.* TO app; \
        CREATE USER reader IDENTIFIED BY 'hunter2'; GRANT SELECT, EXECUTE ON tenure.* TO reader; \
        CREATE USER stranger IDENTIFIED BY 'hunter2'; GRANT SELECT ON tenure.* TO stranger";
    server.say("tenure", rights).unwrap();
    let url = |user: &str, database: &str| format!("mysql://{user}@127.0.0.1:{}/{database}", server.port());
    for url in [
        url("reader:hunter2", "tenure"),
        url("stranger:hunter2", "tenure"),
        url("app:wrong", "tenure"),
        url("app:hunter2", "elsewhere"),
    ] {
        let error = refused(&url).await;
        assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{error}");
        assert!(
            error.to_string().contains("docs/engines/mysql.md") && !error.to_string().contains("hunter2")
        );
    }
    // Reading, writing and calling are enough.
    let app = MySql::open(&options(&url("app:hunter2", "tenure"))).await.unwrap();
    granted(&mut app.contend(claim("k"))).await;
    let error = migrate(&options(&url("stranger:hunter2", "tenure"))).await;
    error.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_server_is_refused_and_worth_another_try() {
    let server = migrated(&[]).await;
    let rights = "CREATE USER app; GRANT SELECT, INSERT, UPDATE, DELETE, EXECUTE ON tenure.* TO app";
    server.say("tenure", rights).unwrap();
    let url = format!("mysql://app@127.0.0.1:{}/tenure", server.port());
    let engine = MySql::open(&options(&url)).await.unwrap();
    let mut holder = engine.contend(claim("k"));
    granted(&mut holder).await;
    server.say("tenure", "SET GLOBAL read_only = ON").unwrap();
    let error = refused(&url).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
    assert!(error.to_string().contains("primary"), "{error}");
    let error = holder.renew().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
    server.say("tenure", "SET GLOBAL read_only = OFF").unwrap();
    assert!(holder.renew().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c090_names_that_differ_in_case_accents_or_blanks_are_different_keys() {
    let server = migrated(&[]).await;
    let engine = open(&server).await;
    let long = "ß".repeat(256);
    let names = ["k", "K", "k ", " k", "ke\u{301}", "ké", "ke", &long, &long[..510]];
    for name in names {
        granted(&mut engine.contend(claim(name))).await;
    }
    let mut expected: Vec<_> = names.iter().map(|name| key(name)).collect();
    expected.sort();
    assert_eq!(engine.keys("", None, 99).await.unwrap(), expected);
    assert_eq!(engine.keys("ß", None, 99).await.unwrap().len(), 2);
    assert_eq!(engine.keys("", Some(&key("ke")), 2).await.unwrap(), [key("ke\u{301}"), key("ké")]);
    for name in names {
        assert_eq!(places(&engine, name).await, 1, "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c081_idle_keys_are_cleaned_up_and_no_token_is_issued_again() {
    let server = migrated(&[]).await;
    let engine = open(&server).await;
    let mut last = None;
    let mut held = engine.contend(claim("held"));
    granted(&mut held).await;
    for n in 0..30 {
        let mut ahead = claim(&format!("k{n}"));
        // Another client has seen a token far ahead of the clock: only what is remembered keeps the next above it.
        ahead.floor = tenure_core::FencingToken::new(4_000_000_000_000_000 + n);
        let mut contender = engine.contend(ahead);
        last = last.max(Some(granted(&mut contender).await.tokens.last()));
        contender.withdraw(Stray::Impossible).await.unwrap();
    }
    engine.contend(claim("dead")).withdraw(Stray::Possible).await.unwrap();
    let count = || server.say("tenure", "SELECT COUNT(*) FROM tenure_keys").unwrap().trim().to_owned();
    assert_eq!(count(), "32");
    // As the engine does, but for keys that have been idle for less than no time.
    let sweep = "CALL tenure_sweep('', 20, -9000000000000000)";
    assert_eq!(server.say("tenure", sweep).unwrap().split('\t').next(), Some("0"), "there are more");
    let before = count();
    let swept = server.say("tenure", "CALL tenure_sweep('', 99, 86400000000)").unwrap();
    assert_eq!((swept.split('\t').next(), count()), (Some("1"), before), "nothing has been idle for a day");
    server.say("tenure", "CALL tenure_sweep('', 99, -9000000000000000)").unwrap();
    assert_eq!(count(), "2", "a line that is not empty stays");
    for n in 0..3 {
        assert!(Some(granted(&mut engine.contend(claim(&format!("k{n}")))).await.tokens.first) > last);
    }
    assert!(held.renew().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_waiter_is_told_by_asking_too() {
    let server = migrated(&[]).await;
    let (one, two) = (open(&server).await, open(&server).await);
    granted(&mut one.contend(claim("k"))).await;
    let wish = claim("k");
    let mut waiter = two.contend(wish.clone());
    waits(&mut waiter).await;
    one.evict(&key("k"), wish.id).await.unwrap();
    assert_eq!(in_time("it is told", waiter.changed()).await.unwrap(), Wake::LookAgain);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_migration_is_the_one_that_is_made() {
    let server = MariaDbServer::start(&[]).unwrap();
    let script = server.directory().join("migration.sql");
    std::fs::write(&script, migration_sql()).unwrap();
    server.say("tenure", &format!("source {}", script.display())).unwrap();
    granted(&mut open(&server).await.contend(claim("k"))).await;
    // The client sends no comments.
    let body = "REGEXP_REPLACE(REGEXP_REPLACE(routine_definition, '--[^\n]*', ''), '[[:space:]]+', ' ')";
    let printed = format!(
        "SELECT SHA1(GROUP_CONCAT({body} ORDER BY routine_name)), COUNT(*) \
         FROM information_schema.routines WHERE routine_schema = DATABASE()"
    );
    let printed = format!("SET SESSION group_concat_max_len = 1000000; {printed}");
    let made = migrated(&[]).await;
    assert_eq!(server.say("tenure", &printed).unwrap(), made.say("tenure", &printed).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_work_over_tls_with_a_password_and_a_stranger_is_refused() {
    let (ours, others) = (Certificates::new().unwrap(), Certificates::new().unwrap());
    let file = |option: &str, path: std::path::PathBuf| format!("--{option}={}", path.display());
    let settings =
        [file("ssl-ca", ours.authority()), file("ssl-cert", ours.certificate()), file("ssl-key", ours.key())];
    let server = migrated(&settings.each_ref().map(String::as_str)).await;
    let rights = "CREATE USER app IDENTIFIED BY 'p@ss/word' REQUIRE SSL; GRANT ALL ON tenure.* TO app";
    server.say("tenure", rights).unwrap();
    let url = |query: &str| {
        format!(
            "mysql://app:p%40ss%2fword@localhost:{}/tenure?connect-timeout-ms=20000&{query}",
            server.port()
        )
    };
    let ca = |certificates: &Certificates| format!("ssl-ca={}", certificates.authority().display());
    for query in [ca(&ours), "ssl-mode=required".to_owned(), String::new()] {
        let engine = MySql::open(&options(&url(&query))).await.unwrap();
        granted(&mut engine.contend(only_try(&format!("k{}", query.len())))).await;
    }
    let refusals =
        [(ca(&others), EngineErrorKind::Denied), ("ssl-mode=disabled".to_owned(), EngineErrorKind::Denied)];
    for (query, kind) in refusals {
        let error = refused(&url(&query)).await;
        assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{error}");
    }
    // A broken client timeout is one of the URL.
    assert_eq!(
        options(&url("timeout-ms=2500")),
        options(&url("")).with_response_timeout(Duration::from_millis(2500))
    );
}
