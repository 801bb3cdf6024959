//! From a URL to a client: the only place that knows all engines.

use tenure_core::engine::memory::Memory;
use tenure_core::{Error, Options, Tenure};

/// The schemes of this build.
const SCHEMES: &[&str] = &[
    #[cfg(feature = "etcd")]
    "etcd://, etcds://",
    #[cfg(feature = "local")]
    "local:",
    #[cfg(feature = "redis")]
    "redis://, rediss://, redis+unix://, redis+sentinel://, redis+cluster://",
    #[cfg(feature = "redis")]
    "redlock:",
    #[cfg(feature = "postgres")]
    "postgres://, postgresql://",
    #[cfg(feature = "mysql")]
    "mysql://, mariadb://",
    #[cfg(feature = "zookeeper")]
    "zookeeper://",
    "memory:",
];

/// Connects to the engine that the URL names.
///
/// # Errors
/// When the URL cannot be read or names an engine that this build does not have; when the engine cannot be used.
///
/// # Cancel safety
/// Safe: nothing is left behind.
pub async fn connect(url: &str) -> Result<Tenure, Error> {
    connect_with(url, Options::default()).await
}

/// Connects to the engine that the URL names, with options.
///
/// # Errors
/// As [`connect`].
///
/// # Cancel safety
/// As [`connect`].
pub async fn connect_with(url: &str, options: Options) -> Result<Tenure, Error> {
    let scheme = url.split(':').next().filter(|scheme| scheme.len() < url.len());
    match scheme {
        #[cfg(feature = "etcd")]
        Some("etcd" | "etcds") => {
            let etcd = tenure_etcd::EtcdOptions::from_url(url).map_err(unreadable)?;
            let etcd = tenure_etcd::Etcd::open(&etcd).await.map_err(|error| unopened("etcd", error))?;
            Ok(Tenure::with_options(etcd, options))
        }
        #[cfg(feature = "local")]
        Some("local") => {
            let local = tenure_local::LocalOptions::from_url(url).map_err(unreadable)?;
            let local = tenure_local::Local::open(&local).map_err(|error| unopened("local", error))?;
            Ok(Tenure::with_options(local, options))
        }
        #[cfg(feature = "redis")]
        Some(
            "redis" | "rediss" | "redis+unix" | "redis+sentinel" | "rediss+sentinel" | "redis+cluster"
            | "rediss+cluster",
        ) => {
            let redis = tenure_redis::RedisOptions::from_url(url).map_err(unreadable)?;
            let redis = tenure_redis::Redis::open(&redis).await.map_err(|error| unopened("redis", error))?;
            Ok(Tenure::with_options(redis, options))
        }
        #[cfg(feature = "postgres")]
        Some("postgres" | "postgresql") => {
            let postgres = tenure_postgres::PostgresOptions::from_url(url).map_err(unreadable)?;
            let postgres = tenure_postgres::Postgres::open(&postgres).await;
            Ok(Tenure::with_options(postgres.map_err(|error| unopened("postgres", error))?, options))
        }
        #[cfg(feature = "redis")]
        Some("redlock") => {
            let nodes = tenure_redis::RedlockOptions::from_url(url).map_err(unreadable)?;
            let quorum =
                tenure_redis::Redlock::open(&nodes).await.map_err(|error| unopened("redlock", error))?;
            Ok(Tenure::with_options(quorum, options))
        }
        #[cfg(feature = "mysql")]
        Some("mysql" | "mariadb") => {
            let mysql = tenure_mysql::MySqlOptions::from_url(url).map_err(unreadable)?;
            let mysql = tenure_mysql::MySql::open(&mysql).await.map_err(|error| unopened("mysql", error))?;
            Ok(Tenure::with_options(mysql, options))
        }
        #[cfg(feature = "zookeeper")]
        Some("zookeeper" | "zookeepers") => {
            let ensemble = tenure_zookeeper::ZookeeperOptions::from_url(url).map_err(unreadable)?;
            let zookeeper = tenure_zookeeper::Zookeeper::open(&ensemble).await;
            Ok(Tenure::with_options(zookeeper.map_err(|error| unopened("zookeeper", error))?, options))
        }
        Some("memory") if url == "memory:" => Ok(Tenure::with_options(Memory::new(), options)),
        Some("memory") => Err(Error::invalid_url(format!("{url:?} has more than a scheme: write memory:"))),
        Some(scheme) => Err(Error::invalid_url(format!(
            "no engine is called {scheme:?} in this build: use one of {}",
            SCHEMES.join(", ")
        ))),
        None => Err(Error::invalid_url(format!("{url:?} has no scheme: write for instance local:{url}"))),
    }
}

/// The URL's scheme is ours, the rest makes no sense.
#[cfg(any(
    feature = "etcd",
    feature = "local",
    feature = "mysql",
    feature = "postgres",
    feature = "redis",
    feature = "zookeeper"
))]
pub(crate) fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::invalid_url(error.to_string())
}

/// The engine cannot be used.
#[cfg(any(
    feature = "etcd",
    feature = "local",
    feature = "mysql",
    feature = "postgres",
    feature = "redis",
    feature = "zookeeper"
))]
fn unopened(engine: &'static str, error: tenure_core::engine::EngineError) -> Error {
    Error::of_engine(engine, "open", None, error)
}
