//! The suite on a real cluster of three servers.

mod support;

use std::process::ExitCode;

use tenure_servers::etcd::EtcdCluster;

fn main() -> ExitCode {
    support::site::run(EtcdCluster::three)
}
