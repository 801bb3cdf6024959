//! The suite on a real server with `dialect=get_lock`.

mod site;

use std::process::ExitCode;

use site::MySqlSite;
use tenure_mysql::Dialect;

fn main() -> ExitCode {
    tenure_conformance::run_variant("mysql", "mysql-get_lock", || MySqlSite::of(Dialect::GetLock))
}
