//! Servers and settings that do not fit: unreachable, wrong login, missing rights, bad certificates, keys of others.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use support::*;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Exclusion, Liveness, Renewal, Retry, Stray,
    TokenDurability,
};
use tenure_etcd::Etcd;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cluster_can_promise_is_said_in_facts() {
    let cluster = EtcdCluster::single().unwrap();
    let facts = open(&cluster).await.facts();
    assert_eq!((facts.engine, facts.liveness), ("etcd", Liveness::Lease));
    assert_eq!(facts.exclusion, Exclusion::WithinClockRates);
    assert_eq!(facts.token_durability, TokenDurability::Quorum);
    // The version is that of the package that is installed: whatever it is, its bugs are known.
    let status = cluster.etcdctl(0, &["version"]).unwrap();
    let old = status.contains("version: 3.4.23");
    assert!(!old || facts.cautions.iter().any(|caution| caution.contains("15247")), "{:?}", facts.cautions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_the_address_is_unreachable_and_somebody_else_is_no_etcd() {
    let [port] = free_ports().unwrap();
    let error = refused(&format!("etcd://127.0.0.1:{port},127.0.0.1:{port}")).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
    assert!(error.to_string().contains("none of 2 servers"), "{error}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let error = refused(&format!("etcd://{address}?connect-timeout-ms=300")).await;
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
    assert!(error.to_string().contains("did not let us in"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_that_is_up_is_enough() {
    let cluster = EtcdCluster::single().unwrap();
    let [nobody] = free_ports().unwrap();
    let url = format!("etcd://127.0.0.1:{nobody},127.0.0.1:{}", cluster.port(0));
    for _ in 0..4 {
        let etcd = Etcd::open(&options(&url)).await.unwrap();
        granted(&mut etcd.contend(only_try(&format!("k/{}", rand::random::<u64>())))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_checked_rights_are_needed_and_a_password_is_never_shown() {
    let cluster = EtcdCluster::single().unwrap();
    // Without users, a login makes no sense.
    let error = refused(&url_as(&cluster, "app:secret")).await;
    assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{error}");
    with_users(&cluster);
    let error = refused(&url_as(&cluster, "app:wrong")).await;
    assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{error}");
    assert!(!format!("{error} {error:?}").contains("wrong,"), "{error:?}");
    // Nobody in particular gets in, and may do nothing.
    let nobody = Etcd::open(&options(&cluster.url())).await.unwrap();
    let error = nobody.contend(claim("k")).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{error}");
    let app = Etcd::open(&options(&url_as(&cluster, "app:secret"))).await.unwrap();
    let mut holder = app.contend(claim("k"));
    granted(&mut holder).await;
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
    holder.withdraw(Stray::Impossible).await.unwrap();
    // Outside its root it has no rights, and leaves nothing.
    let elsewhere = options(&url_as(&cluster, "app:secret")).with_root("elsewhere");
    let elsewhere = Etcd::open(&elsewhere).await.unwrap();
    let error = elsewhere.contend(claim("k")).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{error}");
    let root = Etcd::open(&options(&url_as(&cluster, "root:top")).with_root("elsewhere")).await.unwrap();
    assert_eq!(places(&root, "k").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_has_run_out_is_made_again_unseen() {
    let start = EtcdStart {
        options: ["--unsafe-no-fsync", "--auth-token-ttl", "1"].map(str::to_owned).to_vec(),
        ..EtcdStart::default()
    };
    let cluster = EtcdCluster::start::<1>(&start).unwrap();
    with_users(&cluster);
    let app = Etcd::open(&options(&url_as(&cluster, "app:secret"))).await.unwrap();
    let mut holder = app.contend(claim("k"));
    granted(&mut holder).await;
    for _ in 0..2 {
        // A token that is not used runs out after a second; nothing tells when.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let renewed = holder.renew().await;
        assert!(matches!(renewed, Ok(Renewal::Renewed(_))), "{renewed:?}");
    }
    // Streams are made anew with the new login: a waiter is told.
    let mut waiter = app.contend(claim("k"));
    waits(&mut waiter).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    in_time("the waiter is granted", async {
        loop {
            // The stream on which it listened may be that of the old login; then it is told so, and looks again.
            let _ = waiter.changed().await;
            if let Ok(Attempt::Granted(_)) = waiter.attempt().await {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_needs_an_authority_that_vouches_for_the_server_and_a_certificate_that_is_good() {
    let certificates = Certificates::new().unwrap();
    let start =
        EtcdStart { tls: Some((certificates.certificate(), certificates.key())), ..EtcdStart::default() };
    let cluster = EtcdCluster::start::<1>(&start).unwrap();
    let ca = certificates.authority();
    let etcd = Etcd::open(&options(&format!("{}?ca={}", cluster.url(), ca.display()))).await.unwrap();
    granted(&mut etcd.contend(claim("k"))).await;
    let error = refused(&cluster.url()).await;
    assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{error}");
    let error = refused(&format!("{}?ca=/nowhere.pem", cluster.url())).await;
    assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{error}");
    // Without TLS nobody answers as an etcd does.
    let error = refused(&cluster.url().replace("etcds://", "etcd://")).await;
    assert_eq!(error.kind(), EngineErrorKind::Unreachable, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_refused() {
    let certificates = Certificates::expired().unwrap();
    let start =
        EtcdStart { tls: Some((certificates.certificate(), certificates.key())), ..EtcdStart::default() };
    let cluster = EtcdCluster::start::<1>(&start).unwrap();
    let error = refused(&format!("{}?ca={}", cluster.url(), certificates.authority().display())).await;
    assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_wants_a_certificate_of_ours_gets_it() {
    let certificates = Certificates::new().unwrap();
    let start = EtcdStart {
        tls: Some((certificates.certificate(), certificates.key())),
        client_ca: Some(certificates.authority()),
        ..EtcdStart::default()
    };
    let cluster = EtcdCluster::start::<1>(&start).unwrap();
    let url = format!("{}?ca={}", cluster.url(), certificates.authority().display());
    let error = refused(&url).await;
    assert!(matches!(error.kind(), EngineErrorKind::Denied | EngineErrorKind::Unreachable), "{error}");
    let (cert, key) = (certificates.certificate(), certificates.key());
    let etcd = Etcd::open(&options(&url).with_certificate(cert, key)).await.unwrap();
    granted(&mut etcd.contend(claim("k"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_not_ours_is_refused_and_not_touched() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    for (place, name) in [("tenure/line/k\tstranger", "k"), ("tenure/mark/m", "m")] {
        cluster.etcdctl(0, &["put", place, "whatever"]).unwrap();
        let mut contender = etcd.contend(only_try(name));
        let error = contender.attempt().await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (EngineErrorKind::Foreign, Retry::Useless), "{error}");
        // The keeper withdraws what may have been applied.
        if error.effect() == Effect::Unknown {
            let _ = contender.withdraw(Stray::Possible).await;
        }
        let left = cluster.etcdctl(0, &["get", place, "--print-value-only"]).unwrap();
        assert_eq!(left.trim(), "whatever");
    }
    let places = cluster.etcdctl(0, &["get", "--prefix", "tenure/line/", "--keys-only"]).unwrap();
    assert_eq!(places.lines().filter(|line| !line.is_empty()).count(), 1, "{places}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c100_a_cluster_without_room_refuses_a_claim_and_releases_what_is_held() {
    let start = EtcdStart {
        // etcd's word for its storage is not one of ours.
        options: vec![["--quota-back", "end-bytes=1000000"].concat(), "--unsafe-no-fsync".to_owned()],
        ..EtcdStart::default()
    };
    let cluster = EtcdCluster::start::<1>(&start).unwrap();
    let etcd = open(&cluster).await;
    let mut holder = etcd.contend(claim("held"));
    granted(&mut holder).await;
    let big = "x".repeat(100_000);
    for n in 0..20 {
        // The last ones are refused.
        let _ = cluster.etcdctl(0, &["put", &format!("fill/{n}"), &big]);
    }
    let error = etcd.contend(claim("k")).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Full, Effect::None, Retry::Worth), "{error}");
    assert!(matches!(holder.renew().await, Ok(Renewal::Renewed(_))));
    holder.withdraw(Stray::Impossible).await.unwrap();
    assert_eq!(places(&etcd, "held").await, 0);
}
