//! A real server with one database, which all trials share.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

use std::sync::Arc;
use std::time::Duration;

use tenure_conformance::Site;
use tenure_mysql::{Dialect, MySql, MySqlOptions};
use tenure_servers::mariadb::MariaDbServer;
use tokio::sync::OnceCell;

/// All trials share one server and its tables.
#[derive(Clone, Debug)]
pub(crate) struct MySqlSite {
    server: Arc<MariaDbServer>,
    options: MySqlOptions,
}

impl MySqlSite {
    /// The site of a dialect; the server is started by the first trial.
    pub(crate) async fn of(dialect: Dialect) -> Self {
        static SITE: OnceCell<MySqlSite> = OnceCell::const_new();
        let site = SITE.get_or_init(Self::open).await.clone();
        Self { options: site.options.with_dialect(dialect), ..site }
    }

    async fn open() -> Self {
        let server = MariaDbServer::start(&["--max-connections=1000"]).expect("a server");
        let options = MySqlOptions::from_url(&server.url("tenure")).expect("a URL of ours");
        let options = options.with_response_timeout(Duration::from_secs(10));
        let options = options.with_connect_timeout(Duration::from_secs(20));
        tenure_mysql::migrate(&options).await.expect("a schema");
        Self { server: Arc::new(server), options }
    }
}

impl Site for MySqlSite {
    type Engine = MySql;

    async fn client(&self) -> MySql {
        MySql::open(&self.options).await.expect("a server of ours")
    }

    /// A client whose connections have ended: what it held ends with its leases or its session.
    async fn vanish(&self, client: MySql) {
        drop(client);
    }

    /// Other trials go on at the same time: only the rows of those that ask for this are forgotten, as their names
    /// tell, and no others are locked.
    async fn forget(&self) {
        let say = |statements: &str| self.server.say("tenure", statements).expect("a server of ours");
        let keys = say("SELECT HEX(`key`) FROM tenure_keys WHERE `key` LIKE 'conformance/%/%forgotten%'");
        for key in keys.lines() {
            let forget = ["tenure_holds", "tenure_places", "tenure_keys"]
                .map(|table| format!("DELETE FROM {table} WHERE `key` = x'{key}'"));
            say(&format!("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; {}", forget.join("; ")));
        }
    }
}
