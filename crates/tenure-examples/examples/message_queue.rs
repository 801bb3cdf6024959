//! A message queue whose consumers crash and are paused, and each message takes effect exactly once.
//!
//! `cargo run -p tenure-examples --example message_queue` starts a NATS server with JetStream and a MariaDB server,
//! publishes payments to a few accounts, and lets consumers handle them: processes of their own, which are killed, and
//! stopped for longer than their leases, at random. In the end every account must have exactly what was paid in.
//!
//! A queue delivers *at least* once: who crashes before the acknowledgement is sent the message again, and so is
//! somebody else when a consumer is paused for too long. What makes it once is in [`handle`], in this order:
//!
//! 1. the lock of the account, so that two messages for one account do not meet;
//! 2. a transaction that is guarded by the hold: if it is lost, nothing can be committed any more;
//! 3. the number of the message, in the same transaction: who finds it there has seen a message again;
//! 4. the work, and the commit;
//! 5. only then the acknowledgement.
#![allow(clippy::disallowed_methods, reason = "an example of users, who have clocks of their own")]

use std::error::Error;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::{self, AckKind, stream};
use futures_util::StreamExt;
use sqlx::mysql::MySqlConnection;
use sqlx::{Connection, raw_sql};
use tenure_core::Tenure;
use tenure_mysql::{GuardedTx, MySql, MySqlOptions};
use tenure_servers::mariadb::MariaDbServer;
use tenure_servers::nats::NatsServer;
use tenure_servers::{Child, Program};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ACCOUNTS: u32 = 4;
const MESSAGES: u32 = 100;
const CONSUMERS: usize = 3;

/// How long a hold lasts when its holder is silent, and how long the queue waits for an acknowledgement.
const TTL: Duration = Duration::from_millis(700);
const ACK_WAIT: Duration = Duration::from_secs(2);

/// How long the whole may take, on however busy a machine.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "consume", queue, database] => consume(queue, database).await,
        _ => direct().await,
    }
}

/// One consumer: takes a message, handles it, and acknowledges it when it is done.
async fn consume(queue: &str, database: &str) -> Result<()> {
    let queue = jetstream::new(async_nats::connect(queue).await?);
    let consumer: PullConsumer = queue.get_consumer_from_stream("payments", "payments").await?;
    let tenure = Tenure::new(MySql::open(&MySqlOptions::from_url(database)?).await?);
    let mut connection = MySqlConnection::connect(database).await?;
    // Ends when it is killed.
    loop {
        let mut batch = consumer.fetch().max_messages(1).expires(Duration::from_secs(1)).messages().await?;
        while let Some(message) = batch.next().await {
            let message = message?;
            match handle(&tenure, &mut connection, &message.payload).await {
                Ok(()) => message.ack().await?,
                // Lost the lock, or the server did not answer: whoever gets it next does it.
                Err(_) => message.ack_with(AckKind::Nak(None)).await?,
            }
        }
    }
}

/// Lets a message take effect, once.
async fn handle(tenure: &Tenure, connection: &mut MySqlConnection, payload: &[u8]) -> Result<()> {
    let words: Vec<u32> =
        std::str::from_utf8(payload)?.split(' ').map(str::parse).collect::<std::result::Result<_, _>>()?;
    let [id, account, amount] = words[..] else { return Err("a message that is no payment".into()) };

    let guard = tenure.lock(format!("account/{account}")).ttl(TTL).acquire().await?;
    let mut tx = GuardedTx::begin(connection, &guard).await?;
    let first = sqlx::query("INSERT IGNORE INTO handled (id) VALUES (?)").bind(id).execute(&mut **tx).await?;
    if first.rows_affected() == 1 {
        // Read, think, write: without the lock, two of these would lose an update.
        let balance: u32 = sqlx::query_scalar("SELECT balance FROM account WHERE id = ?")
            .bind(account)
            .fetch_one(&mut **tx)
            .await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
        sqlx::query("UPDATE account SET balance = ? WHERE id = ?")
            .bind(balance + amount)
            .bind(account)
            .execute(&mut **tx)
            .await?;
    }
    tx.commit().await?;
    // The hold has done its work; if it was lost meanwhile, that did no harm.
    let _ = guard.release().await;
    Ok(())
}

/// Starts everything, makes trouble, and looks at the accounts in the end.
async fn direct() -> Result<()> {
    let (queue, server) = (NatsServer::start()?, MariaDbServer::start(&[])?);
    let database = server.url("tenure");
    tenure_mysql::migrate(&MySqlOptions::from_url(&database)?).await?;
    let mut connection = MySqlConnection::connect(&database).await?;
    raw_sql(
        "CREATE TABLE account (id INT UNSIGNED PRIMARY KEY, balance INT UNSIGNED NOT NULL DEFAULT 0); \
         CREATE TABLE handled (id INT UNSIGNED PRIMARY KEY)",
    )
    .execute(&mut connection)
    .await?;
    let paid_in = publish(&queue.url(), &mut connection).await?;

    let scratch = std::env::temp_dir();
    let start = || -> Result<Child> {
        let consumer = Program::new(std::env::current_exe()?, "tenure-examples");
        let consumer = consumer.args(["consume", &queue.url(), &database]);
        Ok(consumer.start(&scratch.join(format!("tenure-message-queue-{}.log", std::process::id())))?)
    };
    let mut consumers = Vec::new();
    for _ in 0..CONSUMERS {
        consumers.push(start()?);
    }
    let (mut killed, mut paused, since) = (0, 0, Instant::now());
    // Ends when all messages are handled, or when that takes too long.
    loop {
        let handled: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM handled").fetch_one(&mut connection).await?;
        if handled == i64::from(MESSAGES) {
            break;
        }
        if since.elapsed() > LIMIT {
            return Err(format!("{handled} of {MESSAGES} messages were handled within {LIMIT:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(rand::random_range(300..900))).await;
        let victim = rand::random_range(0..CONSUMERS);
        if killed <= paused || consumers[victim].ended().is_some() {
            consumers[victim].kill();
            consumers[victim] = start()?;
            killed += 1;
        } else {
            consumers[victim].freeze();
            tokio::time::sleep(TTL * 2).await;
            consumers[victim].thaw();
            paused += 1;
        }
    }
    let delivered = deliveries(&queue.url()).await?;
    drop(consumers);
    let balances: Vec<u32> =
        sqlx::query_scalar("SELECT balance FROM account ORDER BY id").fetch_all(&mut connection).await?;
    println!("{MESSAGES} messages, delivered {delivered} times; {killed} consumers killed, {paused} paused");
    println!("paid in: {paid_in:?}, on the accounts: {balances:?}");
    if balances != paid_in {
        return Err("a message took effect twice, or an update was lost".into());
    }
    println!("each message took effect exactly once");
    Ok(())
}

/// Publishes the payments, and says what each account must have in the end.
async fn publish(queue: &str, connection: &mut MySqlConnection) -> Result<Vec<u32>> {
    let queue = jetstream::new(async_nats::connect(queue).await?);
    let payments = stream::Config {
        name: "payments".to_owned(),
        subjects: vec!["payments".to_owned()],
        ..stream::Config::default()
    };
    let stream = queue.create_stream(payments).await?;
    let consumer = pull::Config {
        durable_name: Some("payments".to_owned()),
        ack_wait: ACK_WAIT,
        ..pull::Config::default()
    };
    stream.create_consumer(consumer).await?;
    for account in 0..ACCOUNTS {
        sqlx::query("INSERT INTO account (id) VALUES (?)").bind(account).execute(&mut *connection).await?;
    }
    let mut paid_in = vec![0; ACCOUNTS as usize];
    for id in 0..MESSAGES {
        let (account, amount) = (rand::random_range(0..ACCOUNTS), rand::random_range(1..100));
        paid_in[account as usize] += amount;
        queue.publish("payments", format!("{id} {account} {amount}").into()).await?.await?;
    }
    Ok(paid_in)
}

/// How often the queue has sent a message.
async fn deliveries(queue: &str) -> Result<u64> {
    let queue = jetstream::new(async_nats::connect(queue).await?);
    let mut consumer: PullConsumer = queue.get_consumer_from_stream("payments", "payments").await?;
    Ok(consumer.info().await?.delivered.consumer_sequence)
}
