//! Leases that are used again, and the names of places with them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use support::*;
use tenure_core::Claim;
use tenure_core::engine::{
    Attempt, Contender, Effect, Engine, EngineErrorKind, Renewal, Retry, Stray, Withdrawn,
};
use tenure_etcd::rpc::{KvClient, RangeRequest};
use tenure_etcd::{Etcd, EtcdContender};

async fn waits_at_last(contender: &mut EtcdContender) {
    eventually("it waits", async || matches!(contender.attempt().await, Ok(Attempt::Waiting(_)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_locked_again_and_again_leaves_no_trail_of_names() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    for _ in 0..20 {
        let (mut holder, mut waiter) = (etcd.contend(claim("k")), etcd.contend(claim("k")));
        granted(&mut holder).await;
        waits(&mut waiter).await;
        holder.withdraw(Stray::Impossible).await.unwrap();
        granted(&mut waiter).await;
        waiter.withdraw(Stray::Impossible).await.unwrap();
    }
    // All names that etcd remembers: whoever reads the line passes by them.
    let at = format!("http://127.0.0.1:{}", cluster.port(0));
    let channel = tonic::transport::Endpoint::from_shared(at).unwrap().connect().await.unwrap();
    let last = etcd.inspect(&key("k")).await.unwrap().last_token.unwrap().get();
    let mut names = std::collections::BTreeSet::new();
    for revision in 2..=i64::try_from(last).unwrap() {
        let (key, range_end) = (b"tenure/".to_vec(), b"tenure0".to_vec());
        let then = RangeRequest { key, range_end, revision, ..Default::default() };
        let then = KvClient::new(channel.clone()).range(then).await.unwrap().into_inner();
        names.extend(then.kvs.into_iter().map(|kv| kv.key));
    }
    assert!((2..=4).contains(&names.len()), "{} names for forty locks", names.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_release_does_not_hit_the_next_claim_on_the_same_lease() {
    let cluster = EtcdCluster::single().unwrap();
    let (etcd, other) = (open(&cluster).await, open(&cluster).await);
    let wish = claim("k");
    let (mut first, mut late) = (etcd.contend(wish.clone()), other.contend(wish));
    granted(&mut first).await;
    assert!(matches!(late.renew().await, Ok(Renewal::Renewed(_))), "it knows the place");
    first.withdraw(Stray::Impossible).await.unwrap();
    // Its place has the name that the first had.
    let mut next = etcd.contend(claim("k"));
    let grant = granted(&mut next).await;
    assert_eq!(late.withdraw(Stray::Impossible).await.unwrap(), Withdrawn::Absent);
    assert_eq!(granted(&mut next).await.tokens, grant.tokens);
    assert!(matches!(next.renew().await, Ok(Renewal::Renewed(_))));
    assert_eq!(places(&etcd, "k").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c035_a_claim_does_not_join_again_before_its_former_leases_have_ended() {
    let cluster = EtcdCluster::single().unwrap();
    with_users(&cluster);
    let proxy = Proxy::before(cluster.port(0), Proxy::http2).unwrap();
    let login = |url: &str| url.replace("etcd://", "etcd://app:secret@");
    let direct = Etcd::open(&options(&url_as(&cluster, "app:secret"))).await.unwrap();
    let etcd = Etcd::open(&options(&login(&url_of(&proxy)))).await.unwrap();
    warm_up(&etcd).await;
    granted(&mut direct.contend(claim("k"))).await;
    let wish = claim("k");
    let mut waiter = etcd.contend(wish.clone());
    attempt_unanswered(&mut waiter, &proxy).await;
    waits_at_last(&mut waiter).await;
    // Its place ends, but the lease that names it cannot be ended: something hangs on it that is none of our business.
    let (name, _) = place_of(&cluster, "k", wish.id);
    let lease = name.rsplit_once('\t').unwrap().1;
    as_root(&cluster, &["put", "elsewhere", "x", &format!("--lease={lease}")]);
    revoke_lease_of(&cluster, "k", wish.id);
    // The first attempt might still arrive under it, so a second place must not be made.
    let error = waiter.attempt().await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Denied, Effect::None, Retry::Useless), "{error}");
    assert_eq!(places(&direct, "k").await, 1);
    as_root(&cluster, &["del", "elsewhere"]);
    waits(&mut waiter).await;
    assert_eq!(places(&direct, "k").await, 2);
    // What arrives now is refused.
    let late = ["--user", "root:top", "put", &name, "late", &format!("--lease={lease}")];
    let refused = cluster.etcdctl(0, &late).unwrap_err().to_string();
    assert!(refused.contains("requested lease not found"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c035_a_claim_never_holds_by_a_place_that_it_did_not_just_make() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    warm_up(&etcd).await;
    let wish = claim("k");
    // A place of the same claim on a lease that is not known: as if two of its attempts had been applied.
    let lease = cluster.etcdctl(0, &["lease", "grant", "600"]).unwrap();
    let lease = lease.split(' ').nth(1).unwrap();
    let (name, value) = (format!("tenure/line/k\t{lease}"), format!("tenure 1 {} x 30 - - {{}}", wish.id));
    cluster.etcdctl(0, &["put", &name, &value, &format!("--lease={lease}")]).unwrap();
    let mut waiter = etcd.contend(wish);
    assert_eq!(
        waits(&mut waiter).await.ahead,
        1,
        "what it proves is another lease than that of the first place"
    );
    assert_eq!(waits(&mut waiter).await.ahead, 1);
    cluster.etcdctl(0, &["lease", "revoke", lease]).unwrap();
    granted(&mut waiter).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_left_on_a_lease_that_is_used_again_goes_with_it() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    let (first, left) = (claim("k"), claim("k"));
    let mut holder = etcd.contend(first.clone());
    granted(&mut holder).await;
    let (name, lease) = place_of(&cluster, "k", first.id);
    holder.withdraw(Stray::Impossible).await.unwrap();
    let value = format!("tenure 1 {} x 30 - - {{}}", left.id);
    cluster.etcdctl(0, &["put", &name, &value, &format!("--lease={lease:x}")]).unwrap();
    // The next claim gets the lease, and would keep alive what bars its way.
    granted(&mut etcd.contend(claim("k"))).await;
    assert_eq!(places(&etcd, "k").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c034_a_claim_leaves_a_line_that_it_cannot_read() {
    let (cluster, proxy, etcd) = behind_a_proxy().await;
    warm_up(&etcd).await;
    let wish = claim("k");
    let mut contender = etcd.contend(wish.clone());
    attempt_unanswered(&mut contender, &proxy).await;
    let (name, _) = place_of(&cluster, "k", wish.id);
    cluster.etcdctl(0, &["put", "tenure/line/k\tothers", "not ours"]).unwrap();
    eventually("it has left", async || contender.withdraw(Stray::Possible).await.is_ok()).await;
    let left = cluster.etcdctl(0, &["get", &name, "--keys-only"]).unwrap();
    assert_eq!(left.trim(), "", "its place is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_that_finds_the_key_busy_leaves_its_lease_to_the_next() {
    let cluster = EtcdCluster::single().unwrap();
    let etcd = open(&cluster).await;
    granted(&mut etcd.contend(claim("k"))).await;
    for _ in 0..5 {
        let tried = etcd.contend(only_try("k")).attempt().await.unwrap();
        assert!(matches!(tried, Attempt::Busy(_)), "{tried:?}");
    }
    let leases = cluster.etcdctl(0, &["lease", "list"]).unwrap();
    // The first line says how many there are: that of the holder, with the one for waiting, and one for all who try.
    assert!((2..=4).contains(&leases.lines().count()), "{leases}");
}

/// A hold whose release was sent and has not arrived: it may still do so. The name of its place.
async fn release_underway(
    cluster: &EtcdCluster,
    proxy: &Proxy,
    holder: &mut EtcdContender,
    wish: &Claim,
) -> String {
    granted(holder).await;
    let (name, _) = place_of(cluster, "k", wish.id);
    proxy.next(Side::Requests, is_data, Trick::CutBefore);
    let error = holder.withdraw(Stray::Impossible).await.unwrap_err();
    assert_eq!(axes(&error), (EngineErrorKind::Unreachable, Effect::Unknown, Retry::Worth), "{error}");
    name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c031_a_release_that_may_still_arrive_hits_no_later_claim() {
    let (cluster, proxy, etcd) = behind_a_proxy().await;
    warm_up(&etcd).await;
    let (wish, next) = (claim("k"), claim("k"));
    let mut holder = etcd.contend(wish.clone());
    let former = release_underway(&cluster, &proxy, &mut holder, &wish).await;
    // The second one is answered, and the first may come after it.
    let left = at_last("it leaves", async || holder.withdraw(Stray::Impossible).await).await;
    assert_eq!(left, Withdrawn::Held);
    granted(&mut etcd.contend(next.clone())).await;
    assert_ne!(place_of(&cluster, "k", next.id).0, former, "it would be deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c031_a_release_that_may_still_arrive_hits_no_later_place_of_its_claim() {
    let cluster = EtcdCluster::single().unwrap();
    let proxy = Proxy::before(cluster.port(0), Proxy::http2).unwrap();
    let (direct, etcd) = (open(&cluster).await, Etcd::open(&options(&url_of(&proxy))).await.unwrap());
    warm_up(&etcd).await;
    for is_evicted in [false, true] {
        let wish = claim("k");
        let mut holder = etcd.contend(wish.clone());
        let former = release_underway(&cluster, &proxy, &mut holder, &wish).await;
        if is_evicted {
            assert_eq!(direct.evict(&key("k"), wish.id).await.unwrap(), Withdrawn::Held);
            let told = at_last("it is told", async || holder.attempt().await).await;
            assert!(matches!(told, Attempt::Gone(_)), "{told:?}");
            // As when its time is over.
            cluster.etcdctl(0, &["del", "--prefix", "tenure/gone/"]).unwrap();
        } else {
            cluster.etcdctl(0, &["del", &former]).unwrap();
        }
        granted_at_last(&mut holder).await;
        assert_ne!(place_of(&cluster, "k", wish.id).0, former, "it would be deleted");
        holder.withdraw(Stray::Impossible).await.unwrap();
    }
}
