//! The suite over TLS, as a user who may do no more than the documentation asks for.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

#[path = "support/shared.rs"]
mod shared;

use std::process::ExitCode;
use std::sync::Arc;

use shared::{OnEach, SharedSite};
use tenure_servers::redis::RedisServer;
use tenure_servers::{Certificates, free_ports};

/// The rights that `docs/engines/redis.md` lists, as it lists them.
const RIGHTS: &str = "ACL SETUSER app on >password resetkeys ~tenure:* resetchannels &tenure:to:* -@all +hello +auth \
                      +client|setname +select +info +config|get +script|load +evalsha +eval +subscribe +publish +time \
                      +hmget +hget +hset +hdel +hgetall +exists +type +pexpireat +set +get +scan +wait";

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
    let on_each: OnEach = Arc::new(move |each| each(&server));
    // All trials connect at the same time, and without optimisation TLS is slow.
    let patience = "connect-timeout-ms=30000&timeout-ms=10000";
    let url = format!("rediss://app:password@127.0.0.1:{port}?ca={authority}&{patience}");
    let result = tenure_conformance::run("redis", move || {
        let site = SharedSite::new(&url, &on_each);
        async move { site }
    });
    drop(certificates);
    result
}
