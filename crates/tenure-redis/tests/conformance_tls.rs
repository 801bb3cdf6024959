//! The suite over TLS, as a user who may do no more than the documentation asks for.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

use std::process::ExitCode;
use std::sync::Arc;

use tenure_conformance::{Hook, Site};
use tenure_redis::{Redis, RedisOptions};
use tenure_servers::redis::RedisServer;
use tenure_servers::{Certificates, free_ports};

/// The rights that `docs/engines/redis.md` lists, as it lists them.
const RIGHTS: &str = "ACL SETUSER app on >password resetkeys ~tenure:* resetchannels &tenure:to:* -@all +hello +auth \
                      +client|setname +select +info +config|get +script|load +evalsha +eval +subscribe +publish +time \
                      +hmget +hget +hset +hdel +hgetall +exists +type +pexpireat +set +get +scan +wait";

/// One server for all trials; their keys tell them apart.
#[derive(Debug)]
struct TlsSite {
    server: Arc<RedisServer>,
    url: String,
    trial: &'static str,
}

impl Site for TlsSite {
    type Engine = Redis;

    async fn client(&self) -> Redis {
        let options = RedisOptions::from_url(&self.url).expect("a URL of ours");
        Redis::open(&options).await.expect("a server of ours")
    }

    fn can(&self, hook: Hook) -> Result<(), &'static str> {
        match hook {
            Hook::Vanish | Hook::Forget => Ok(()),
            _ => Err("the site does not know how"),
        }
    }

    /// A client whose connections have ended: only leases tell.
    async fn vanish(&self, client: Redis) {
        drop(client);
    }

    /// The server forgets what this trial keeps there.
    async fn forget(&self) {
        let ours = format!("KEYS tenure:{{conformance/*/{}/*", self.trial);
        let found = self.server.say(&ours).expect("a server of ours");
        for key in found.lines().filter(|line| line.starts_with("tenure:")) {
            self.server.say(&format!("DEL {key}")).expect("a server of ours");
        }
    }
}

fn main() -> ExitCode {
    let certificates = Certificates::new().expect("certificates");
    let [port] = free_ports().expect("a free port");
    let (port, path) = (port.to_string(), |path: std::path::PathBuf| path.display().to_string());
    let (certificate, key, authority) =
        (path(certificates.certificate()), path(certificates.key()), path(certificates.authority()));
    let tls = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
        "--tls-auth-clients",
        "no",
    ];
    let server = RedisServer::start(&tls).expect("a server");
    assert_eq!(server.say(RIGHTS).expect("a server of ours"), "+OK\r\n");
    let server = Arc::new(server);
    // All trials connect at the same time, and without optimisation TLS is slow.
    let url = format!("rediss://app:password@127.0.0.1:{port}?ca={authority}&connect-timeout-ms=30000");
    let result = tenure_conformance::run("redis", move || {
        let (server, url, trial) = (Arc::clone(&server), url.clone(), tenure_conformance::trial_name());
        async move { TlsSite { server, url, trial } }
    });
    drop(certificates);
    result
}
