//! Two withdrawals from one account, the first of which is paused between its read and its write, for longer than its
//! lease: once in a transaction that is guarded by its hold, and once without.
//!
//! `cargo run -p tenure-mysql --example transfer` starts a MariaDB server and the processes that it pauses. Without the
//! guard, the paused one wakes and writes what it had worked out before the other one came: that update is lost, though
//! it had a lock, and had checked it just before. With the guard, nobody else gets in before its transaction has ended.

use std::error::Error;
use std::time::Duration;

use sqlx::mysql::MySqlConnection;
use sqlx::{Connection, raw_sql};
use tenure_core::Tenure;
use tenure_mysql::{GuardedTx, MySql, MySqlOptions};
use tenure_servers::mariadb::MariaDbServer;
use tenure_servers::{Child, Program, until};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long a hold lasts when its holder is silent; the pause is three times as long.
const TTL: Duration = Duration::from_millis(500);

const BEFORE: i32 = 100;
const FIRST: i32 = 30;
const SECOND: i32 = 50;

const READ: &str = "SELECT balance FROM account WHERE id = 1";
const WRITE: &str = "UPDATE account SET balance = ? WHERE id = 1";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "withdraw", how, amount, thinks, url] => {
            withdraw(url, how == "guarded", amount.parse()?, Duration::from_millis(thinks.parse()?)).await
        }
        _ => direct().await,
    }
}

/// Takes money from the account, as a process of its own.
async fn withdraw(url: &str, guarded: bool, amount: i32, thinks: Duration) -> Result<()> {
    let tenure = Tenure::new(MySql::open(&MySqlOptions::from_url(url)?).await?);
    let mut connection = MySqlConnection::connect(url).await?;
    let guard = tenure.lock("account/1").ttl(TTL).acquire().await?;
    if guarded {
        let mut tx = GuardedTx::begin(&mut connection, &guard).await?;
        let balance: i32 = sqlx::query_scalar(READ).fetch_one(&mut **tx).await?;
        println!("has read {balance}");
        tokio::time::sleep(thinks).await;
        sqlx::query(WRITE).bind(balance - amount).execute(&mut **tx).await?;
        tx.commit().await?;
    } else {
        let balance: i32 = sqlx::query_scalar(READ).fetch_one(&mut connection).await?;
        guard.check()?;
        println!("has read {balance}");
        tokio::time::sleep(thinks).await;
        sqlx::query(WRITE).bind(balance - amount).execute(&mut connection).await?;
    }
    println!("has written");
    Ok(())
}

/// Pauses the first between its read and its write, and lets the second come.
async fn direct() -> Result<()> {
    let server = MariaDbServer::start(&[])?;
    let url = server.url("tenure");
    tenure_mysql::migrate(&MySqlOptions::from_url(&url)?).await?;
    let mut connection = MySqlConnection::connect(&url).await?;
    raw_sql("CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL)")
        .execute(&mut connection)
        .await?;
    for how in ["bare", "guarded"] {
        let reset = sqlx::query("REPLACE INTO account VALUES (1, ?)").bind(BEFORE);
        reset.execute(&mut connection).await?;
        let overtaken = race(&server, how).await?;
        let balance: i32 = sqlx::query_scalar(READ).fetch_one(&mut connection).await?;
        let right = BEFORE - FIRST - SECOND;
        let verdict = if balance == right { "as it should be" } else { "an update is lost" };
        println!("{how}: {BEFORE} - {FIRST} - {SECOND} = {balance}, {verdict}");
        if how == "guarded" && (overtaken || balance != right) {
            return Err("a guarded transaction was overtaken".into());
        }
    }
    Ok(())
}

/// Whether the second has written while the first was paused.
async fn race(server: &MariaDbServer, how: &str) -> Result<bool> {
    let start = |name: &str, amount: i32, thinks: &str| -> Result<Child> {
        let program = Program::new(std::env::current_exe()?, "tenure-mysql");
        let program = program.args(["withdraw", how, &amount.to_string(), thinks, &server.url("tenure")]);
        Ok(program.start(&server.directory().join(format!("{name}-{how}.log")))?)
    };
    // It thinks for long enough that it is paused before it writes.
    let first = start("first", FIRST, "2000")?;
    if !until(|| first.said().contains("has read")) {
        return Err(format!("the first does not begin: {}", first.said()).into());
    }
    first.freeze();
    let second = start("second", SECOND, "1")?;
    tokio::time::sleep(TTL * 3).await;
    let has_written = || second.said().contains("has written");
    // Without the guard it comes in for certain, sooner or later.
    let overtaken = if how == "bare" { until(has_written) } else { has_written() };
    first.thaw();
    if until(|| first.said().contains("has written")) && until(has_written) {
        return Ok(overtaken);
    }
    Err(format!("they do not end: {} {}", first.said(), second.said()).into())
}
