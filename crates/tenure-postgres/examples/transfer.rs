//! A transfer of money by two clients, one of which is paused in the middle: with the lock alone an update is lost,
//! with guarded transactions none is.
//!
//! ```sh
//! cargo run -p tenure-postgres --example transfer
//! ```
//!
//! It starts a PostgreSQL server of its own, from the programs that are installed, and removes it at the end. The
//! client that is paused does not run at all meanwhile, so nothing renews its lease: it takes the lock by the engine's
//! own interface, which has no keeper, for 300 ms.

use std::error::Error;
use std::time::Duration;

use tenure_core::engine::{Attempt, Contender, Engine, Stray};
use tenure_core::{Claim, ClaimId, FencingToken, Key, Tenure, Ttl};
use tenure_postgres::{GuardedTx, GuardedTxError, Hold, Postgres, PostgresOptions, migrate};
use tenure_servers::postgres::PostgresServer;
use tokio_postgres::{Client, NoTls};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// One bank with two accounts, and clients of it.
struct Bank {
    server: PostgresServer,
    engine: Postgres,
    tenure: Tenure,
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let bank = Bank::open().await?;
    println!("Each of two clients moves 10 from account 1, with 100, to account 2, with 0.");
    println!("The first is paused after it has read, for longer than its lease.\n");

    bank.reset().await?;
    let late = bank.paused_with_the_lock_alone().await?;
    println!("with the lock alone: {} ({late})", bank.balances().await?);
    if bank.balances().await? != "90 and 10" {
        return Err("the late write was expected to undo the other transfer".into());
    }

    bank.reset().await?;
    bank.paused_in_a_guarded_transaction().await?;
    println!("paused inside a guarded transaction: {}", bank.balances().await?);
    if bank.balances().await? != "80 and 20" {
        return Err("both transfers were expected to count".into());
    }

    bank.reset().await?;
    let refused = bank.paused_before_a_guarded_transaction().await?;
    println!("paused before it: {} ({refused})", bank.balances().await?);
    if bank.balances().await? != "90 and 10" {
        return Err("only the transfer of the second client was expected to count".into());
    }
    Ok(())
}

impl Bank {
    async fn open() -> Fallible<Self> {
        let server = PostgresServer::start(&[])?;
        let options = PostgresOptions::from_url(&server.url())?;
        migrate(&options).await?;
        server.sql("CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL)")?;
        let engine = Postgres::open(&options).await?;
        Ok(Self { server, tenure: Tenure::new(engine.clone()), engine })
    }

    async fn client(&self) -> Fallible<Client> {
        let (client, connection) = tokio_postgres::connect(&self.server.url(), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn reset(&self) -> Fallible<()> {
        let fill = "DELETE FROM accounts; INSERT INTO accounts VALUES (1, 100), (2, 0)";
        Ok(self.client().await?.batch_execute(fill).await?)
    }

    async fn balances(&self) -> Fallible<String> {
        let (one, two) = read(&self.client().await?).await?;
        Ok(format!("{one} and {two}"))
    }

    /// Takes the lock as a client that will be paused: for 300 ms, and nothing renews it.
    async fn lock_and_pause(&self) -> Fallible<(Claim, FencingToken)> {
        let mut claim = Claim::new(Key::new("accounts")?, ClaimId::from_bits(rand::random()));
        claim.ttl = Ttl::new(Duration::from_millis(300))?;
        match self.engine.contend(claim.clone()).attempt().await? {
            Attempt::Granted(grant) => Ok((claim, grant.tokens.first)),
            other => Err(format!("the key was expected to be free: {other:?}").into()),
        }
    }

    /// The second client: takes the lock as everybody does, and moves its 10.
    async fn second_client(&self) -> Fallible<()> {
        let guard = self.tenure.lock("accounts").acquire().await?;
        let mut client = self.client().await?;
        let transaction = GuardedTx::begin(&mut client, &guard).await?;
        let (one, two) = read(&*transaction).await?;
        write(&*transaction, one - 10, two + 10).await?;
        transaction.commit().await?;
        guard.release().await?;
        Ok(())
    }

    async fn paused_with_the_lock_alone(&self) -> Fallible<&'static str> {
        self.lock_and_pause().await?;
        let client = self.client().await?;
        let (one, two) = read(&client).await?;
        // The pause: the lease ends meanwhile, and somebody else has its turn.
        self.second_client().await?;
        write(&client, one - 10, two + 10).await?;
        Ok("one transfer is lost")
    }

    async fn paused_in_a_guarded_transaction(&self) -> Fallible<()> {
        let (claim, token) = self.lock_and_pause().await?;
        let mut client = self.client().await?;
        let transaction = GuardedTx::begin(&mut client, Hold::new(&claim.key, claim.id, token)).await?;
        let (one, two) = read(&*transaction).await?;
        let pause = async {
            // Three times as long as the lease.
            tokio::time::sleep(Duration::from_millis(900)).await;
            write(&*transaction, one - 10, two + 10).await?;
            transaction.commit().await?;
            self.engine.contend(claim.clone()).withdraw(Stray::Impossible).await?;
            Fallible::Ok(())
        };
        // The second waits in the line for as long as the first is paused.
        let (first, second) = tokio::join!(pause, self.second_client());
        first.and(second)
    }

    async fn paused_before_a_guarded_transaction(&self) -> Fallible<String> {
        let (claim, token) = self.lock_and_pause().await?;
        // The pause.
        self.second_client().await?;
        let mut client = self.client().await?;
        match GuardedTx::begin(&mut client, Hold::new(&claim.key, claim.id, token)).await {
            Err(refused @ GuardedTxError::NotHeld(_)) => Ok(format!("refused: {refused}")),
            Err(error) => Err(error.into()),
            Ok(_) => Err("a late client was let in".into()),
        }
    }
}

async fn read(client: &impl tokio_postgres::GenericClient) -> Fallible<(i32, i32)> {
    let rows = client.query("SELECT balance FROM accounts ORDER BY id", &[]).await?;
    match rows.as_slice() {
        [one, two] => Ok((one.try_get(0)?, two.try_get(0)?)),
        _ => Err("there are not two accounts".into()),
    }
}

async fn write(client: &impl tokio_postgres::GenericClient, one: i32, two: i32) -> Fallible<()> {
    client.execute("UPDATE accounts SET balance = $1 WHERE id = 1", &[&one]).await?;
    client.execute("UPDATE accounts SET balance = $1 WHERE id = 2", &[&two]).await?;
    Ok(())
}
