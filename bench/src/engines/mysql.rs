//! MariaDB on this machine, without waiting for the disk.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::mysql::MySqlConnection;
use sqlx::{Connection, Row};
use tenure_mysql::MySqlOptions;
use tenure_servers::mariadb::MariaDbServer;
use tokio::sync::Mutex;

use super::{Client, Counter, EVERYWHERE, Engine, Entrant, STRICTLY, Site};
use crate::clock::cpu_of;
use crate::crew::tasks;
use crate::locks::Lock;

pub(crate) const ENGINE: Engine = Engine {
    name: "mysql",
    start: || Ok(Box::new(Mysql::start()?)),
    entrants: &[
        Entrant::here(
            "calls",
            "the procedures of the engine called by hand, on one connection; nobody waits, nothing is renewed",
            &["w1", "w2"],
            tasks::<Calls>,
        )
        .anchors(&["w1", "w2"]),
        Entrant::here(
            "get_lock",
            "GET_LOCK and RELEASE_LOCK by hand, a connection for each worker; no token, no lease",
            &["w1", "w2", "w3", "w4"],
            tasks::<GetLock>,
        )
        .anchors(&["w3", "w4"]),
        Entrant::tenure(EVERYWHERE),
        Entrant::strict(STRICTLY),
        Entrant::by_session(
            "tenure, get_lock",
            "get_lock",
            "`tenure` with `dialect=get_lock`: the same, and holds end with the session",
            &["w1", "w2", "w3"],
        ),
    ],
};

struct Mysql {
    server: MariaDbServer,
    before: (f64, f64),
}

impl Mysql {
    fn start() -> Result<Self> {
        let server = MariaDbServer::start(&["--max-connections=500"])?;
        let options = MySqlOptions::from_url(&server.url("tenure"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(tenure_mysql::migrate(&options))?;
        Ok(Self { server, before: (0.0, 0.0) })
    }

    /// Processor time, and statements of clients.
    fn counted(&self) -> Result<(f64, f64)> {
        let said = self.server.say("", "SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'")?;
        let statements = said.split('\t').nth(1).and_then(|count| count.trim().parse().ok()).unwrap_or(0.0);
        Ok((cpu_of(self.server.process().pid()).unwrap_or(0.0), statements))
    }
}

impl Site for Mysql {
    fn url(&self) -> String {
        self.server.url("tenure")
    }

    fn address(&self) -> String {
        self.url()
    }

    fn begin(&mut self, _closely: bool) -> Result<()> {
        self.before = self.counted()?;
        Ok(())
    }

    fn end(&mut self) -> Result<Vec<Counter>> {
        let (cpu, statements) = self.counted()?;
        let count = |per_cycle, per_second, count| Counter { per_cycle, per_second, count };
        Ok(vec![
            count("statements/cycle", "statements/s", statements - self.before.1),
            count("server us/cycle", "server us/s", cpu - self.before.0),
        ])
    }
}

/// What the engine asks of the server, and nothing above it.
struct Calls(Arc<Mutex<MySqlConnection>>);

struct CallsLock {
    connection: Arc<Mutex<MySqlConnection>>,
    key: String,
    term: i64,
}

struct Called {
    connection: Arc<Mutex<MySqlConnection>>,
    key: String,
    claim: String,
}

impl Client for Calls {
    type Lock = CallsLock;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(Arc::new(Mutex::new(MySqlConnection::connect(at).await?))))
    }

    fn lock(&self, key: &str, ttl: Duration) -> CallsLock {
        let term = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
        CallsLock { connection: Arc::clone(&self.0), key: key.to_owned(), term }
    }
}

impl Lock for CallsLock {
    type Guard = Called;

    async fn lock(&self) -> Result<Called> {
        let claim = format!("{:032x}", rand::random::<u128>());
        let attempt = sqlx::query("CALL tenure_attempt(?, ?, 'x', 0, ?, 0, 0, 1, 0, 0, '')");
        let attempt = attempt.bind(self.key.as_bytes()).bind(&claim).bind(self.term);
        let answer: String = attempt.fetch_one(&mut *self.connection.lock().await).await?.try_get(0)?;
        ensure!(answer.contains(" granted "), "a free key was not granted: {answer}");
        Ok(Called { connection: Arc::clone(&self.connection), key: self.key.clone(), claim })
    }

    async fn unlock(called: Called) -> Result<()> {
        let withdraw = sqlx::query("CALL tenure_withdraw(?, ?, 1000000, 0)");
        let withdraw = withdraw.bind(called.key.as_bytes()).bind(&called.claim);
        let answer: String = withdraw.fetch_one(&mut *called.connection.lock().await).await?.try_get(0)?;
        ensure!(answer.ends_with(" held"), "somebody else had the key: {answer}");
        Ok(())
    }
}

/// The lock of the server itself.
struct GetLock(String);

struct GetLockLock {
    at: String,
    /// At most 64 bytes.
    name: String,
    connection: Arc<Mutex<Option<MySqlConnection>>>,
}

struct Got {
    name: String,
    connection: MySqlConnection,
    home: Arc<Mutex<Option<MySqlConnection>>>,
}

impl Client for GetLock {
    type Lock = GetLockLock;

    async fn open(at: &str) -> Result<Self> {
        Ok(Self(at.to_owned()))
    }

    fn lock(&self, key: &str, _ttl: Duration) -> GetLockLock {
        let name: String = key.chars().rev().take(60).collect();
        GetLockLock { at: self.0.clone(), name, connection: Arc::default() }
    }
}

impl Lock for GetLockLock {
    type Guard = Got;

    async fn lock(&self) -> Result<Got> {
        let known = self.connection.lock().await.take();
        let mut connection = match known {
            Some(connection) => connection,
            None => MySqlConnection::connect(&self.at).await?,
        };
        let get = sqlx::query_scalar::<_, Option<i64>>("SELECT GET_LOCK(?, 60)").bind(&self.name);
        let got = get.fetch_one(&mut connection).await?.context("GET_LOCK gave nothing")?;
        ensure!(got == 1, "GET_LOCK did not get the lock within 60 s");
        Ok(Got { name: self.name.clone(), connection, home: Arc::clone(&self.connection) })
    }

    async fn unlock(mut got: Got) -> Result<()> {
        let release = sqlx::query_scalar::<_, Option<i64>>("SELECT RELEASE_LOCK(?)").bind(&got.name);
        let released = release.fetch_one(&mut got.connection).await?;
        ensure!(released == Some(1), "somebody else had the lock");
        *got.home.lock().await = Some(got.connection);
        Ok(())
    }
}
