//! The suite on one real server.

mod site;

use std::process::ExitCode;

use tenure_servers::zookeeper::ZookeeperEnsemble;

fn main() -> ExitCode {
    site::run(|| ZookeeperEnsemble::single(site::JAVA))
}
