//! The suite on an ensemble of three servers, each client at another of them.

mod site;

use std::process::ExitCode;

use tenure_servers::zookeeper::ZookeeperEnsemble;

fn main() -> ExitCode {
    site::run(|| ZookeeperEnsemble::three(site::JAVA))
}
