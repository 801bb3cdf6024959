//! Servers and databases that may not keep locks, and people who may not: each is refused with what mends it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::engine::{Contender, Effect, Engine, EngineError, EngineErrorKind, Retry, Stray};
use tenure_postgres::{Hold, Postgres, PostgresOptions, migrate, migration_sql};

fn assert_refused(error: &EngineError, kind: EngineErrorKind, says: &str) {
    assert_eq!(axes(error), (kind, Effect::None, Retry::Useless), "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_tables_of_another_version_or_with_foreign_ones_is_refused() {
    let server = PostgresServer::start(&[]).unwrap();
    let url = server.url();
    assert_refused(&refused(&url).await, EngineErrorKind::Unsupported, "tenure migrate --at URL");
    let elsewhere = format!("{url}?schema=nowhere");
    assert_refused(&refused(&elsewhere).await, EngineErrorKind::Unsupported, "\"nowhere\"");
    let migrated = migrate(&options(&url)).await.unwrap();
    assert_eq!((migrated.schema.as_str(), migrated.from, migrated.to), ("public", None, 1));
    assert_eq!(migrate(&options(&url)).await.unwrap().from, Some(1), "again changes nothing");
    let postgres = open(&server).await;
    for (version, says) in [(0, "older than 1: run tenure migrate"), (2, "newer than 1: use a newer tenure")]
    {
        server.sql(&format!("UPDATE tenure_schema SET version = {version}")).unwrap();
        assert_refused(&refused(&url).await, EngineErrorKind::Foreign, says);
    }
    assert_refused(&migrate(&options(&url)).await.unwrap_err(), EngineErrorKind::Foreign, "newer");
    server.sql("UPDATE tenure_schema SET version = 1").unwrap();
    // Tables that go while we work.
    server.sql("DROP TABLE tenure_keys").unwrap();
    let error = postgres.contend(claim("k")).attempt().await.unwrap_err();
    assert_refused(&error, EngineErrorKind::Unsupported, "tenure migrate");
    server.sql("CREATE SCHEMA theirs; CREATE TABLE theirs.tenure_schema (n int)").unwrap();
    let theirs = format!("{url}?schema=theirs");
    assert_refused(&refused(&theirs).await, EngineErrorKind::Foreign, "schema=NAME");
    assert_refused(&migrate(&options(&theirs)).await.unwrap_err(), EngineErrorKind::Foreign, "schema=NAME");
    server.sql("DROP TABLE theirs.tenure_schema; CREATE TABLE theirs.tenure_places (n int)").unwrap();
    assert_refused(&migrate(&options(&theirs)).await.unwrap_err(), EngineErrorKind::Foreign, "schema=NAME");
    let left = "SELECT count(*) FROM pg_class WHERE relnamespace = 'theirs'::regnamespace AND relkind = 'r'";
    assert_eq!(server.sql(left).unwrap(), "1", "nothing was left half done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_migrate_at_once_and_printed_sql_does_the_same() {
    let server = PostgresServer::start(&[]).unwrap();
    let at_once = (0..6).map(|_| {
        let options = options(&server.url()).with_schema("locks");
        async move { migrate(&options).await.unwrap().from }
    });
    let from = futures_util::future::join_all(at_once).await;
    assert_eq!(from.iter().filter(|from| from.is_none()).count(), 1);
    for schema in [None, Some("other")] {
        server.sql(&migration_sql(schema)).unwrap();
    }
    for url in ["", "?schema=locks", "?schema=other"] {
        let postgres = Postgres::open(&options(&format!("{}{url}", server.url()))).await.unwrap();
        granted(&mut postgres.contend(claim("k"))).await;
    }
    let named =
        Postgres::open(&options(&format!("{}?options=-csearch_path%3Dlocks", server.url()))).await.unwrap();
    assert_eq!(places(&named, "k").await, 1, "the first schema of the search path that has tables");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_missing_are_named_and_those_of_the_manual_are_enough() {
    let server = server().await;
    server.sql("CREATE ROLE app LOGIN").unwrap();
    let url = format!("postgres://app@127.0.0.1:{}/postgres", server.port());
    assert_refused(&refused(&url).await, EngineErrorKind::Denied, "docs/engines/postgres.md");
    let error = migrate(&options(&format!("{url}?schema=mine"))).await.unwrap_err();
    assert_refused(&error, EngineErrorKind::Denied, "schema=NAME");
    server.sql("GRANT SELECT ON tenure_schema TO app").unwrap();
    let postgres = Postgres::open(&options(&url)).await.unwrap();
    let error = postgres.contend(claim("k")).attempt().await.unwrap_err();
    assert_refused(&error, EngineErrorKind::Denied, "docs/engines/postgres.md");
    server
        .sql(
            "GRANT UPDATE (forgotten) ON tenure_schema TO app; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON tenure_keys, tenure_places, tenure_tombstones TO app",
        )
        .unwrap();
    let mut contender = postgres.contend(claim("k"));
    granted(&mut contender).await;
    contender.renew().await.unwrap();
    contender.restamp().await.unwrap();
    contender.withdraw(Stray::Possible).await.unwrap();
    assert_eq!(postgres.keys("", None, 9).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_database_user_or_encoding_is_refused() {
    let server = server().await;
    let at = |user: &str, database: &str| format!("postgres://{user}@127.0.0.1:{}/{database}", server.port());
    assert_refused(
        &refused(&at("postgres", "nowhere")).await,
        EngineErrorKind::Unsupported,
        "create the database",
    );
    assert_refused(&refused(&at("nobody", "postgres")).await, EngineErrorKind::Denied, "does not let us in");
    server.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0").unwrap();
    assert_refused(&refused(&at("postgres", "latin")).await, EngineErrorKind::Unsupported, "UTF8");
    server.sql("ALTER ROLE postgres SET default_transaction_isolation = 'serializable'").unwrap();
    let postgres = open(&server).await;
    let error = postgres.contend(claim("k")).attempt().await.unwrap_err();
    assert_refused(&error, EngineErrorKind::Unsupported, "default_transaction_isolation = 'read committed'");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_role_is_told_to_name_the_primary() {
    let server = server().await;
    server.sql("ALTER ROLE postgres SET default_transaction_read_only = on").unwrap();
    let postgres = open(&server).await;
    let error = postgres.contend(claim("k")).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_are_asked_for_and_shown_nowhere() {
    let server = server().await;
    server.sql("CREATE ROLE app LOGIN SUPERUSER PASSWORD 'hunter2'").unwrap();
    let rules = "host all postgres all trust\nhost all app all scram-sha-256\n";
    std::fs::write(server.directory().join("data/pg_hba.conf"), rules).unwrap();
    server.sql("SELECT pg_reload_conf()").unwrap();
    let at = |login: &str| format!("postgres://{login}@127.0.0.1:{}/postgres", server.port());
    let opened = async {
        // The server reads its rules anew a moment after it was told to.
        while Postgres::open(&options(&at("app"))).await.is_ok() {}
    };
    in_time("a password is wanted", opened).await;
    Postgres::open(&options(&at("app:hunter2"))).await.unwrap();
    let missing = Postgres::open(&options(&at("app"))).await.unwrap_err();
    assert_refused(&missing, EngineErrorKind::Denied, "PGPASSFILE");
    let wrong = refused(&at("app:hunter3")).await;
    assert_refused(&wrong, EngineErrorKind::Denied, "does not let us in");
    assert!(!format!("{wrong} {wrong:?}").contains("hunter"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_proves_the_server_or_is_refused() {
    let certificates = Certificates::new().unwrap();
    let server = server().await;
    let port = server.port();
    let plain = refused(&format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=require")).await;
    assert_refused(&plain, EngineErrorKind::Denied, "sslmode=disable");
    give_certificate(&server, &certificates);
    let ca = certificates.authority();
    let ca = ca.to_str().unwrap();
    let open = |host: &str, query: String| {
        let url = format!("postgres://postgres@{host}:{port}/postgres?{query}");
        async move { Postgres::open(&options(&url)).await }
    };
    let postgres = in_time("TLS is on", async {
        loop {
            match open("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}")).await {
                Ok(postgres) => return postgres,
                Err(error) => assert_eq!(error.kind(), EngineErrorKind::Denied, "{error}"),
            }
        }
    })
    .await;
    granted(&mut postgres.contend(claim("k"))).await;
    let over_tls = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
        WHERE s.ssl AND a.application_name = 'tenure'";
    assert_ne!(server.sql(over_tls).unwrap(), "0");
    open("localhost", format!("sslmode=require&ca={ca}")).await.unwrap();
    let stranger = open("127.0.0.1", "sslmode=require".to_owned()).await.unwrap_err();
    assert_refused(&stranger, EngineErrorKind::Denied, "no TLS with");
    let missing = open("127.0.0.1", "sslmode=require&ca=/no/such/file".to_owned()).await.unwrap_err();
    assert_refused(&missing, EngineErrorKind::Denied, "/no/such/file");
}

fn give_certificate(server: &PostgresServer, certificates: &Certificates) {
    let data = server.directory().join("data");
    for (from, to) in [(certificates.certificate(), "server.crt"), (certificates.key(), "server.key")] {
        // Files of the server's user, as the cluster is: written through the server.
        let text = std::fs::read_to_string(from).unwrap();
        let path = data.join(to);
        server.sql(&format!("COPY (SELECT 1) TO '{}'", path.display())).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(data.join("server.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    server.sql("ALTER SYSTEM SET ssl = on").unwrap();
    server.sql("SELECT pg_reload_conf()").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_behind_a_socket_is_reached() {
    let server = server().await;
    let folder = server.directory().display().to_string().replace('/', "%2f");
    let url = format!("postgres://postgres@{folder}:{}/postgres", server.port());
    let postgres = Postgres::open(&PostgresOptions::from_url(&url).unwrap()).await.unwrap();
    granted(&mut postgres.contend(claim("k"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c049_idle_keys_are_swept_and_their_tokens_never_come_back() {
    let server = server().await;
    let postgres = open(&server).await;
    let mut last = Vec::new();
    for n in 0..5 {
        let mut contender = postgres.contend(claim(&format!("idle/{n}")));
        last.push(granted(&mut contender).await.tokens.last());
        contender.withdraw(Stray::Impossible).await.unwrap();
    }
    granted(&mut postgres.contend(claim("held"))).await;
    let mut left = postgres.contend(claim("grave"));
    left.withdraw(Stray::Possible).await.unwrap();
    let keys = "SELECT count(*) FROM tenure_keys";
    assert_eq!(server.sql("SELECT tenure_sweep('', 3600000000, 100)").unwrap(), "", "the end");
    assert_eq!(server.sql(keys).unwrap(), "7", "nothing was idle for so long");
    assert_eq!(server.sql("SELECT tenure_sweep('', 0, 2)").unwrap(), "held", "where to go on");
    assert_eq!(server.sql("SELECT tenure_sweep('held', 0, 100)").unwrap(), "");
    assert_eq!(server.sql(keys).unwrap(), "2", "what is held and what is refused is kept");
    // Only what was kept of the swept keys is above their tokens.
    set_back(&server);
    for n in 0..5 {
        let again = granted(&mut postgres.contend(claim(&format!("idle/{n}")))).await;
        assert!(last.iter().all(|last| again.tokens.first > *last), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c049_a_hold_that_is_alone_is_swept_when_it_is_over_and_not_before() {
    let server = server().await;
    let postgres = open(&server).await;
    let sweep = || server.sql("SELECT tenure_sweep('', 0, 100)").unwrap();
    let keys = || server.sql("SELECT string_agg(key, ',' ORDER BY key) FROM tenure_keys").unwrap();
    let own = stranger(&server).await;
    granted(&mut postgres.contend(claim("held"))).await;
    let mut last = Vec::new();
    for name in ["over", "pinned"] {
        let wish = short_claim(name, Duration::from_millis(500));
        let grant = granted(&mut postgres.contend(wish.clone())).await;
        last.push(grant.tokens.last());
        if name == "pinned" {
            let token = i64::try_from(grant.tokens.first.get()).unwrap();
            own.batch_execute("BEGIN").await.unwrap();
            let pin = own.query_one(&Hold::pin_sql(None), &[&name, &wish.id.to_string(), &token]).await;
            assert_eq!(pin.unwrap().get::<_, Option<String>>(0), None, "it is pinned");
        }
    }
    until("the leases end", || {
        server.sql("SELECT count(*) FROM tenure_keys WHERE ends_us > tenure_now()").unwrap() == "1"
    });
    sweep();
    assert_eq!(keys(), "held,pinned");
    own.batch_execute("COMMIT").await.unwrap();
    sweep();
    assert_eq!(keys(), "held");
    set_back(&server);
    for name in ["over", "pinned"] {
        let again = granted(&mut postgres.contend(claim(name))).await;
        assert!(last.iter().all(|last| again.tokens.first > *last), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_or_silent_is_unreachable_within_the_limit() {
    let server = server().await;
    let hasty = |url: &str| options(url).with_connect_timeout(Duration::from_millis(500));
    let nobody = hasty("postgres://postgres@127.0.0.1:1/postgres");
    let error = in_time("an answer", Postgres::open(&nobody)).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
    server.process().freeze();
    let error = in_time("an answer", Postgres::open(&hasty(&server.url()))).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth), "{error}");
    server.process().thaw();
}
