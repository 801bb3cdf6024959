//! The suite on a real server, in one database.

mod site;

use std::process::ExitCode;

use site::MySqlSite;
use tenure_mysql::Dialect;

fn main() -> ExitCode {
    tenure_conformance::run("mysql", || MySqlSite::of(Dialect::Table))
}
