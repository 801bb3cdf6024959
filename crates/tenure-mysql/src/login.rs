//! To a server and into it: a connection that has logged in, and is not yet known to be fit for verbs.

use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::mysql::MySqlConnection;
use tenure_core::engine::Trouble;

use crate::options::MySqlOptions;
use crate::trouble;

/// Connects and logs in. Bounds its own time; no verb is sent, so a failure has no effect.
pub(crate) async fn connect(options: &MySqlOptions) -> Result<MySqlConnection, Trouble> {
    let client = options.of_client().disable_statement_logging();
    match in_time(options, client.connect()).await? {
        Ok(connection) => Ok(connection),
        Err(error) => {
            let mut trouble = trouble::of_setup(&error);
            trouble.message = format!("{}: {}", options.address(), trouble.message);
            Err(trouble)
        }
    }
}

/// What a step of the way in comes to, if it does within the time for all of them.
pub(crate) async fn in_time<F: Future>(options: &MySqlOptions, step: F) -> Result<F::Output, Trouble> {
    let (address, limit): (_, Duration) = (options.address(), options.connect_timeout);
    let late = |_| Trouble::away(format!("{address} did not let us in within {limit:?}"));
    tokio::time::timeout(limit, step).await.map_err(late)
}
