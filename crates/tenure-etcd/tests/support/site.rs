//! The site of the suite: one cluster for all trials, in which each has keys of its own.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tenure_conformance::Site;
use tenure_etcd::{Etcd, EtcdOptions, LongerTtl};
use tenure_servers::ServerError;
use tenure_servers::etcd::EtcdCluster;

/// What all keys of one trial begin with.
struct EtcdSite {
    cluster: Arc<EtcdCluster>,
    root: String,
}

impl std::fmt::Debug for EtcdSite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EtcdSite").field(&self.root).finish()
    }
}

impl Site for EtcdSite {
    type Engine = Etcd;

    async fn client(&self) -> Etcd {
        let options = EtcdOptions::from_url(&self.cluster.url()).expect("a URL of ours");
        // The suite uses TTLs that are shorter than what etcd grants.
        let options = options.with_root(self.root.clone()).with_longer_ttl(LongerTtl::Allow);
        let options = options.with_response_timeout(Duration::from_secs(10));
        let options = options.with_connect_timeout(Duration::from_secs(20));
        Etcd::open(&options).await.expect("a cluster of ours")
    }

    /// A client whose connections have ended: only leases tell.
    async fn vanish(&self, client: Etcd) {
        drop(client);
    }

    /// All keys are deleted; etcd's own revision goes on.
    async fn forget(&self) {
        let root = format!("{}/", self.root);
        self.cluster.etcdctl(0, &["del", "--prefix", &root]).expect("a cluster of ours");
    }
}

/// Runs the suite on a cluster.
pub fn run(start: impl Fn() -> Result<EtcdCluster, ServerError>) -> ExitCode {
    let cluster = Arc::new(start().expect("a cluster"));
    tenure_conformance::run("etcd", move || {
        let (cluster, root) = (Arc::clone(&cluster), format!("suite/{:016x}", rand::random::<u64>()));
        async move { EtcdSite { cluster, root } }
    })
}
