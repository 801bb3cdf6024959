//! The suite on a real server, with a database of its own for each trial.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use tenure_conformance::{Hook, Site};
use tenure_mysql::{MySql, MySqlOptions};
use tenure_servers::mariadb::MariaDbServer;

/// A database of its own for each trial, on one server.
#[derive(Debug)]
struct MySqlSite {
    server: Arc<MariaDbServer>,
    database: String,
    options: MySqlOptions,
}

impl MySqlSite {
    async fn open(server: Arc<MariaDbServer>) -> Self {
        let database = format!("trial_{:016x}", rand::random::<u64>());
        server.say("", &format!("CREATE DATABASE {database}")).expect("a database");
        let options = MySqlOptions::from_url(&server.url(&database)).expect("a URL of ours");
        tenure_mysql::migrate(&options).await.expect("a schema");
        Self { server, database, options }
    }
}

impl Site for MySqlSite {
    type Engine = MySql;

    async fn client(&self) -> MySql {
        MySql::open(&self.options).await.expect("a server of ours")
    }

    fn can(&self, hook: Hook) -> Result<(), &'static str> {
        match hook {
            Hook::Vanish | Hook::Forget => Ok(()),
            _ => Err("the site does not know how"),
        }
    }

    /// A client whose connections have ended: only leases tell.
    async fn vanish(&self, client: MySql) {
        drop(client);
    }

    async fn forget(&self) {
        let forget = "DELETE FROM tenure_places; DELETE FROM tenure_keys";
        self.server.say(&self.database, forget).expect("a server of ours");
    }
}

fn main() -> ExitCode {
    static SERVER: OnceLock<Arc<MariaDbServer>> = OnceLock::new();
    tenure_conformance::run("mysql", || async {
        let start = || Arc::new(MariaDbServer::start(&["--max-connections=1000"]).expect("a server"));
        MySqlSite::open(Arc::clone(SERVER.get_or_init(start))).await
    })
}
