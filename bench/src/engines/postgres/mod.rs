//! PostgreSQL on this machine, with commits that wait for the disk, as locks need them.

mod advisory;
mod peers;
mod rows;

use anyhow::Result;
use tenure_servers::postgres::PostgresServer;

use super::{ADVISORY, Counter, EVERYWHERE, Engine, Entrant, STRICTLY, Site};
use crate::crew::tasks;

pub(crate) const ENGINE: Engine = Engine {
    name: "postgres",
    start: || Ok(Box::new(Postgres::start()?)),
    entrants: &[
        Entrant::here(
            "rows",
            "the same commits by hand: a row that one update takes and another gives back; no line, no renewal",
            &["w1", "w2"],
            tasks::<rows::Rows>,
        )
        .anchors(&["w1", "w2"]),
        Entrant::here(
            "advisory",
            "session advisory locks by hand on tokio-postgres, a connection for each lock; no fence, no commit",
            &["w1", "w2", "w3", "w4"],
            tasks::<advisory::Advisory>,
        )
        .anchors(&["w3", "w4"]),
        Entrant::here(
            "sqlx",
            "`PgAdvisoryLock` of sqlx 0.9, a connection for each lock",
            &["w1", "w2", "w3", "w4"],
            tasks::<peers::Sqlx>,
        ),
        Entrant::tenure(EVERYWHERE),
        Entrant::strict(STRICTLY),
        Entrant::by_session(
            ADVISORY,
            "advisory",
            "`tenure` with `dialect=advisory`: the same, and holds end with the session",
            &["w1", "w2", "w3"],
        ),
    ],
};

struct Postgres {
    server: PostgresServer,
    before: (f64, f64),
}

impl Postgres {
    fn start() -> Result<Self> {
        let server = PostgresServer::durable(&["max_connections=300"])?;
        let options = tenure_postgres::PostgresOptions::from_url(&server.url())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(tenure_postgres::migrate(&options))?;
        server.sql(rows::TABLE)?;
        Ok(Self { server, before: (0.0, 0.0) })
    }

    /// Transactions that have written something, and bytes of the log.
    fn counts(&self) -> Result<(f64, f64)> {
        let asked = "SELECT pg_snapshot_xmax(pg_current_snapshot()), pg_current_wal_lsn() - '0/0'::pg_lsn";
        let answer = self.server.sql(asked)?;
        let (transactions, bytes) = answer.split_once('|').unwrap_or_default();
        Ok((transactions.parse()?, bytes.parse()?))
    }
}

impl Site for Postgres {
    fn url(&self) -> String {
        // A machine that does other work as well may stall for longer than is usual between computers.
        format!(
            "{}?timeout-ms=10000&connect-timeout-ms=10000&lock-timeout-ms=5000&application_name=bench",
            self.server.url()
        )
    }

    fn address(&self) -> String {
        self.server.url()
    }

    fn begin(&mut self, _closely: bool) -> Result<()> {
        self.before = self.counts()?;
        Ok(())
    }

    fn end(&mut self) -> Result<Vec<Counter>> {
        let (transactions, bytes) = self.counts()?;
        let count = |per_cycle, per_second, count| Counter { per_cycle, per_second, count };
        Ok(vec![
            count("commits/cycle", "commits/s", transactions - self.before.0),
            count("log bytes/cycle", "log bytes/s", bytes - self.before.1),
        ])
    }
}
