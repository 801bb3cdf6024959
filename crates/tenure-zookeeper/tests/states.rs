//! States of a server and of its tree, bad input, rights and guarded writes, on a real server.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use support::*;
use tenure_core::engine::{
    Contender, Effect, Engine, EngineErrorKind, Exclusion, Gone, Liveness, Renewal, Retry, Stray,
    TokenDurability, TokenOrigin,
};
use tenure_core::{FencingToken, Mode, Tenure, Ttl};
use tenure_zookeeper::{Layout, Terms, Write, Zookeeper, ZookeeperFenceError};
use zookeeper_client::{Acls, Client, CreateMode};

const USELESS: (Effect, Retry) = (Effect::None, Retry::Useless);

/// Makes a node, for all or for one who has logged in.
async fn make(client: &Client, path: &str, acls: Acls<'_>) {
    client.create(path, b"", &CreateMode::Persistent.with_acls(acls)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_ensemble_can_promise_is_stated() {
    let facts = client().await.facts();
    assert_eq!((facts.engine, facts.liveness), ("zookeeper", Liveness::Session));
    assert_eq!(facts.exclusion, Exclusion::WithinClockRates);
    assert_eq!(
        (facts.token_durability, facts.token_origin),
        (TokenDurability::Quorum, TokenOrigin::Revision)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ensemble_that_cannot_be_reached_and_a_chroot_that_does_not_exist_are_told_apart() {
    let [closed] = free_ports().unwrap();
    let error = Zookeeper::open(&at(closed)).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
    assert!(error.to_string().contains(&closed.to_string()), "{error}");
    let error = Zookeeper::open(&at(server().port()).with_chroot("/nowhere")).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, USELESS.0, USELESS.1));
    assert!(error.to_string().contains("/nowhere"), "{error}");
    let error = Zookeeper::open(&at(server().port()).with_chroot("no/path")).await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Unsupported);
    // Silent, as behind a firewall.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hurried = at(silent.local_addr().unwrap().port()).with_connect_timeout(Duration::from_millis(300));
    let error = Zookeeper::open(&hurried).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::None, Retry::Worth));
    let other = raw(server().port()).await;
    assert_eq!(other.check_stat("/nowhere").await.unwrap(), None, "a look made a node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chroot_keeps_lines_apart() {
    let other = raw(server().port()).await;
    make(&other, "/apart", Acls::anyone_all()).await;
    let (one, two) = (open(&at(server().port()).with_chroot("/apart")).await, client().await);
    let name = name("k");
    granted(&mut one.contend(claim(&name))).await;
    granted(&mut two.contend(claim(&name))).await;
    let (lines, _) = other.get_children("/apart/tenure").await.unwrap();
    assert_eq!(lines.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c022_a_session_much_longer_than_the_ttl_is_refused_unless_allowed() {
    let name = name("k");
    let near = open(&at(server().port()).with_terms(Terms::Near)).await;
    let mut short = claim(&name);
    short.ttl = Ttl::new(SESSION / 5).unwrap();
    let error = near.contend(short.clone()).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, USELESS.0, USELESS.1));
    assert!(error.to_string().contains("longer-terms"), "{error}");
    assert_eq!(places(&near, &name).await, 0);
    let any = client().await;
    let mut holder = any.contend(short.clone());
    assert_eq!(granted(&mut holder).await.validity, tenure_core::engine::Validity::Lease(SESSION / 5));
    holder.withdraw(Stray::Impossible).await.unwrap();
    // The server cuts what is asked for, and what it grants is what counts.
    let asked = Duration::from_secs(1_000_000);
    let cut = open(&at(server().port()).with_session(asked)).await;
    let (_, granted) = cut.session().await.unwrap();
    assert_eq!(granted, Duration::from_secs(60));
    let mut held = cut.contend(claim(&name));
    let validity = support::granted(&mut held).await.validity;
    assert_eq!(
        validity,
        tenure_core::engine::Validity::Lease(Duration::from_secs(30)),
        "never more than was asked"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantine_is_refused_and_leaves_nothing() {
    let (zookeeper, name) = (client().await, name("k"));
    let mut wish = claim(&name);
    wish.quarantine = Duration::from_secs(1);
    let error = zookeeper.contend(wish).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, USELESS.0, USELESS.1));
    assert_eq!(places(&zookeeper, &name).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c050_a_token_below_what_was_seen_is_refused_and_leaves_nothing() {
    let (zookeeper, name) = (client().await, name("k"));
    let mut wish = claim(&name);
    wish.floor = FencingToken::new(1 << 50);
    let error = zookeeper.contend(wish).attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unsupported, USELESS.0, USELESS.1));
    assert!(error.to_string().contains(&(1_u64 << 50).to_string()), "{error}");
    assert_eq!(places(&zookeeper, &name).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c075_what_is_not_ours_is_named_and_left_alone() {
    let (zookeeper, name) = (client().await, name("k"));
    let mut holder = zookeeper.contend(claim(&name));
    granted(&mut holder).await;
    holder.withdraw(Stray::Impossible).await.unwrap();
    let other = raw(server().port()).await;
    let folder = format!("/tenure/{}", name.replace('/', "%2f"));
    for stranger in ["settings", "_c_0b7a9a3c-52d4-4d8f-8d3c-0123456789ab-lock-0000000003"] {
        make(&other, &format!("{folder}/{stranger}"), Acls::anyone_all()).await;
        let error = zookeeper.contend(claim(&name)).attempt().await.unwrap_err();
        assert_eq!(axes(&error), (EngineErrorKind::Foreign, USELESS.0, USELESS.1));
        assert!(error.to_string().contains(stranger), "{error}");
        assert_eq!(zookeeper.inspect(&key(&name)).await.unwrap_err().kind(), EngineErrorKind::Foreign);
        let (children, _) = other.get_children(&folder).await.unwrap();
        assert_eq!(children, [stranger]);
        other.delete(&format!("{folder}/{stranger}"), None).await.unwrap();
    }
    granted(&mut zookeeper.contend(claim(&name))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c077_missing_rights_and_another_login_are_denied_and_leave_nothing() {
    let server = ZookeeperEnsemble::single(&[]).unwrap();
    let port = server.port();
    let owner = Client::connector().with_auth("digest", b"owner:secret");
    let owner = owner.connect(&format!("127.0.0.1:{port}")).await.unwrap();
    make(&owner, "/theirs", Acls::creator_all()).await;
    let open_to_all = at(port).with_chroot("/theirs");
    for options in [open_to_all.clone(), open_to_all.clone().with_login("owner", "wrong")] {
        let zookeeper = open(&options).await;
        let error = zookeeper.contend(claim("k")).attempt().await.unwrap_err();
        assert_eq!(axes(&error), (EngineErrorKind::Denied, USELESS.0, USELESS.1));
        assert!(!format!("{error:?}").contains("wrong"), "{error:?}");
        let (children, _) = owner.get_children("/theirs").await.unwrap();
        assert_eq!(children, Vec::<String>::new());
    }
    let zookeeper = open(&open_to_all.with_login("owner", "secret")).await;
    granted(&mut zookeeper.contend(claim("k"))).await;
    for path in ["/theirs/tenure", "/theirs/tenure/k"] {
        let (acl, _) = owner.get_acl(path).await.unwrap();
        assert!(acl.iter().all(|acl| acl.scheme() == "digest" && acl.id().starts_with("owner:")), "{acl:?}");
    }
    let stranger = raw(port).await;
    let (children, _) = owner.get_children("/theirs/tenure/k").await.unwrap();
    let place = format!("/theirs/tenure/k/{}", children[0]);
    assert!(stranger.get_data(&place).await.is_err(), "who claims is nobody else's business");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layout_without_permits_and_a_key_that_is_no_path_are_refused() {
    let zookeeper = open(&at(server().port()).with_layout(Layout::Curator)).await;
    let mut permit = claim(&name("k"));
    permit.mode = Mode::Permit { limit: NonZeroU32::new(2).unwrap() };
    for wish in [permit, claim("a//b")] {
        let error = zookeeper.contend(wish).attempt().await.unwrap_err();
        assert_eq!(axes(&error), (EngineErrorKind::Unsupported, USELESS.0, USELESS.1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c081_an_unused_folder_is_removed_and_tokens_go_on_rising() {
    let server = ZookeeperEnsemble::single(&["-Dznode.container.checkIntervalMs=100"]).unwrap();
    let zookeeper = open(&at(server.port())).await;
    let other = raw(server.port()).await;
    let mut last = None;
    for round in 0..4 {
        let mut holder = zookeeper.contend(claim("k"));
        let token = granted(&mut holder).await.tokens.first;
        assert!(Some(token) > last, "round {round}");
        last = Some(token);
        holder.withdraw(Stray::Impossible).await.unwrap();
        eventually("the folder is removed", async || other.check_stat("/tenure/k").await.unwrap().is_none())
            .await;
    }
    // While folders come and go, nobody is told that one is missing.
    let tenure = Tenure::new(zookeeper);
    for n in 0..200 {
        tenure.lock(format!("k{}", n % 5)).acquire().await.unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_survives_the_restart_of_the_server_and_not_the_loss_of_its_data() {
    let mut server = ZookeeperEnsemble::single(&[]).unwrap();
    let zookeeper = open(&at(server.port()).with_session(Duration::from_secs(10))).await;
    let mut holder = zookeeper.contend(claim("k"));
    let grant = granted(&mut holder).await;
    server.servers()[0].restart().unwrap();
    server.wait_ready().unwrap();
    eventually("it is reached again", async || matches!(holder.renew().await, Ok(Renewal::Renewed(_)))).await;
    assert_eq!(granted(&mut holder).await.tokens, grant.tokens);
    server.servers()[0].restart_empty().unwrap();
    server.wait_ready().unwrap();
    eventually("it is told", async || matches!(holder.renew().await, Ok(Renewal::Gone(Gone::Absent)))).await;
    // An ensemble without its data begins to count anew; who has seen more is not given less.
    let mut informed = claim("k");
    informed.floor = Some(grant.tokens.last());
    let mut informed = zookeeper.contend(informed);
    eventually("it is refused or above", async || match informed.attempt().await {
        Ok(tenure_core::engine::Attempt::Granted(again)) => {
            assert!(again.tokens.first > grant.tokens.last());
            true
        }
        Err(error) if error.retry() == Retry::Worth => false,
        outcome => {
            assert_eq!(outcome.unwrap_err().kind(), EngineErrorKind::Unsupported);
            true
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c001_a_stale_holder_cannot_write_what_its_hold_guards() {
    let (zookeeper, other) = (client().await, raw(server().port()).await);
    let path = format!("/data-{:016x}", rand::random::<u64>());
    make(&other, &path, Acls::anyone_all()).await;
    let tenure = Tenure::new(zookeeper.clone());
    let name = name("k");
    let guard = tenure.lock(&*name).acquire().await.unwrap();
    let fence = zookeeper.fence(guard.claim()).await.unwrap().unwrap();
    let write = |data: &[u8]| Write::SetData { path: path.clone(), data: data.to_vec(), version: None };
    fence.commit(&[write(b"first")]).await.unwrap();
    let missing = Write::Delete { path: format!("{path}/missing"), version: None };
    let refused = fence.commit(&[write(b"never"), missing]).await.unwrap_err();
    assert!(matches!(refused, ZookeeperFenceError::Refused { index: 1, .. }), "{refused}");
    // An operator lets the next one in, and the first does not know it yet.
    tenure.evict(&*name, guard.claim()).await.unwrap();
    let next = Tenure::new(client().await).lock(&*name).acquire().await.unwrap();
    assert!(matches!(fence.commit(&[write(b"late")]).await, Err(ZookeeperFenceError::Stale)));
    // The same by the client library of the user.
    let mut late = other.new_multi_writer();
    late.add_check_version(fence.node(), -1).unwrap();
    late.add_set_data(&path, b"late", None).unwrap();
    assert!(late.commit().await.is_err());
    assert_eq!(other.get_data(&path).await.unwrap().0, b"first");
    next.release().await.unwrap();
    eventually("the first is told", async || !guard.is_held()).await;
    assert!(zookeeper.fence(guard.claim()).await.unwrap().is_none());
}
