//! The suite on a real server that is a cluster of its own.

mod support;

use std::process::ExitCode;

use tenure_servers::etcd::EtcdCluster;

fn main() -> ExitCode {
    support::site::run(EtcdCluster::single)
}
