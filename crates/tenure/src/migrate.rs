//! The tables of the engines that keep locks in databases.

use tenure_core::Error;

/// Makes the tables and functions that the engine of this URL needs, or brings them to this version; changes nothing
/// where they are.
///
/// # Errors
/// When the URL cannot be read or is of an engine that has no tables; when the database cannot be reached, refuses us,
/// or has something else where the tables should be.
///
/// # Cancel safety
/// Safe: it may be asked for again.
pub async fn migrate(url: &str) -> Result<(), Error> {
    match scheme_of(url) {
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => {
            let options =
                tenure_postgres::PostgresOptions::from_url(url).map_err(crate::connect::unreadable)?;
            let migrated = tenure_postgres::migrate(&options).await;
            migrated.map(|_| ()).map_err(|error| Error::of_engine("postgres", "migrate", None, error))
        }
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => {
            let options = tenure_mysql::MySqlOptions::from_url(url).map_err(crate::connect::unreadable)?;
            let migrated = tenure_mysql::migrate(&options).await;
            migrated.map_err(|error| Error::of_engine("mysql", "migrate", None, error))
        }
        scheme => Err(without_tables(scheme)),
    }
}

/// The SQL by which [`migrate`] makes the tables from nothing, for a migration tool of one's own.
///
/// # Errors
/// When the URL cannot be read or is of an engine that has no tables.
pub fn migration_sql(url: &str) -> Result<String, Error> {
    match scheme_of(url) {
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => {
            let options =
                tenure_postgres::PostgresOptions::from_url(url).map_err(crate::connect::unreadable)?;
            Ok(tenure_postgres::migration_sql(options.schema()))
        }
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => Ok(tenure_mysql::migration_sql()),
        scheme => Err(without_tables(scheme)),
    }
}

fn scheme_of(url: &str) -> &str {
    url.split(':').next().unwrap_or_default()
}

fn without_tables(scheme: &str) -> Error {
    Error::invalid_url(format!(
        "no engine of this build keeps tables at {scheme:?}: only PostgreSQL, MariaDB and MySQL need a migration"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_without_tables_is_told_so() {
        for url in ["memory:", "local:", "redis://h", ""] {
            assert!(migration_sql(url).unwrap_err().to_string().contains("need a migration"), "{url}");
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn the_sql_of_a_migration_is_one_transaction() {
        let sql = migration_sql("postgres://u@h/d?schema=locks").unwrap();
        assert!(sql.starts_with("BEGIN;") && sql.ends_with("COMMIT;\n") && sql.contains("\"locks\""));
    }
}
