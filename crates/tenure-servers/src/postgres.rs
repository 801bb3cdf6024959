//! PostgreSQL servers, standbys of theirs, and PgBouncer before them.
//!
//! PostgreSQL refuses to run as root: its processes and files are then those of the user `postgres`.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use crate::ports::on_free_ports;
use crate::{Child, Program, ServerError, until};

/// Where Debian has the server.
const PACKAGE: &str = "postgresql";

/// The user as whom everything runs when we are root.
const USER: &str = "postgres";

/// A PostgreSQL server on a port of its own, with a database and a superuser called `postgres`, who needs no password.
#[derive(Debug)]
pub struct PostgresServer {
    child: Child,
    port: u16,
    directory: TempDir,
    options: Vec<String>,
}

impl PostgresServer {
    /// Starts a server with these settings (`name=value`) besides ours, which make it fast and not durable.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(settings: &[&str]) -> Result<Self, ServerError> {
        let directory = directory()?;
        copy_template(&data(directory.path()))?;
        let fast = ["fsync=off", "full_page_writes=off", "shared_buffers=16MB", "max_wal_senders=4"];
        let options = fast.iter().chain(settings).map(|setting| (*setting).to_owned()).collect();
        Self::on(directory, options)
    }

    /// Starts a server whose commits are on the disk before they are answered, with these settings besides.
    ///
    /// # Errors
    /// As [`PostgresServer::start`].
    pub fn durable(settings: &[&str]) -> Result<Self, ServerError> {
        let settings: Vec<_> = ["fsync=on", "full_page_writes=on"].iter().chain(settings).copied().collect();
        Self::start(&settings)
    }

    /// A standby that follows this server by streaming, from its state as it is now.
    ///
    /// # Errors
    /// When the copy cannot be made, or the standby does not start.
    pub fn standby(&self) -> Result<Self, ServerError> {
        let directory = directory()?;
        program("pg_basebackup")?
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER, "-X", "stream", "-R", "-c"])
            .args(["fast", "-D"])
            .arg(data(directory.path()))
            .run()?;
        Self::on(directory, self.options.clone())
    }

    fn on(directory: TempDir, options: Vec<String>) -> Result<Self, ServerError> {
        let (child, port) = on_free_ports(|[port]| Ok((spawn(port, directory.path(), &options)?, port)))?;
        Ok(Self { child, port, directory, options })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its files are, and its Unix socket.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its process; killing it leaves its children to notice.
    #[must_use]
    pub fn process(&self) -> &Child {
        &self.child
    }

    /// Its address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Kills the server as if its machine had gone.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    /// Kills it and starts it again at the same place, with whatever is in its files.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.kill();
        let mut started = spawn(self.port, self.directory.path(), &self.options);
        // Children of the killed server end when they notice, and no other is started beside them.
        let meets_children = |error: &ServerError| error.to_string().contains("pre-existing shared memory");
        until(|| match &started {
            Err(error) if meets_children(error) => {
                started = spawn(self.port, self.directory.path(), &self.options);
                false
            }
            _ => true,
        });
        self.child = started?;
        Ok(())
    }

    /// Makes a standby a primary; waits until it is.
    ///
    /// # Errors
    /// When it does not become one.
    pub fn promote(&self) -> Result<(), ServerError> {
        self.sql("SELECT pg_promote(true, 30)").map(|_| ())
    }

    /// What `psql` answers to this SQL in the database `postgres`: a line for each row, `|` between columns.
    ///
    /// # Errors
    /// When the server refuses it.
    pub fn sql(&self, sql: &str) -> Result<String, ServerError> {
        psql(self.port, sql)
    }
}

/// What `psql` answers to this SQL at whatever speaks for a server at this port.
///
/// # Errors
/// When it refuses.
pub fn psql(port: u16, sql: &str) -> Result<String, ServerError> {
    let port = port.to_string();
    let args = ["-h", "127.0.0.1", "-p", &port, "-U", USER, "-d", "postgres", "-X", "-q", "-At", "-v"];
    let said = program("psql")?.args(args).args(["ON_ERROR_STOP=1", "-c", sql]).output()?;
    Ok(said.trim_end().to_owned())
}

/// PgBouncer in transaction mode before a server, with a database `postgres`.
#[derive(Debug)]
pub struct PgBouncer {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl PgBouncer {
    /// Starts it, with these lines of its configuration besides.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn before(server: &PostgresServer, lines: &[&str]) -> Result<Self, ServerError> {
        on_free_ports(|[port]| Self::on(port, server, lines))
    }

    fn on(port: u16, server: &PostgresServer, lines: &[&str]) -> Result<Self, ServerError> {
        let directory = directory()?;
        let file = directory.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} dbname=postgres user={USER}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = transaction\n\
             unix_socket_dir =\n{}\n",
            server.port,
            lines.join("\n")
        );
        std::fs::write(&file, text).map_err(ServerError::step("configure PgBouncer"))?;
        own(directory.path())?;
        let bouncer = Program::new("/usr/sbin/pgbouncer", "pgbouncer").arg(file).as_user(USER);
        let mut child = bouncer.start(&directory.path().join("log"))?;
        child.wait_ready(|| psql(port, "SELECT 1").is_ok())?;
        Ok(Self { child, port, _directory: directory })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Child {
        &self.child
    }

    /// Its address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

/// A program of the newest version that is installed.
fn program(name: &str) -> Result<Program, ServerError> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| {
            Some((version.file_name().to_str()?.parse().ok()?, version.path().join("bin").join(name)))
        })
        .filter(|(_, path)| path.exists())
        .collect();
    found.sort();
    let missing = || ServerError::Missing { program: name.to_owned(), package: PACKAGE };
    let (_, path) = found.pop().ok_or_else(missing)?;
    Ok(Program::new(path, PACKAGE).as_user(USER))
}

/// A directory that the server may use.
fn directory() -> Result<TempDir, ServerError> {
    let directory = tempfile::tempdir().map_err(ServerError::step("make a directory"))?;
    own(directory.path())?;
    Ok(directory)
}

/// Gives everything in a directory to the user of the server, when we are root.
fn own(path: &Path) -> Result<(), ServerError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Program::new("chown", "coreutils").args(["-R", &format!("{USER}:{USER}")]).arg(path).run()
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// A fresh cluster. Making one takes a second, so it is made once for each build, beside the tests, and copied.
fn copy_template(to: &Path) -> Result<(), ServerError> {
    static MAKING: Mutex<()> = Mutex::new(());
    let initdb = program("initdb")?;
    let step = |what: &str| ServerError::step(what.to_owned());
    let beside = std::env::current_exe().map_err(step("look for the tests"))?;
    let version = initdb.clone().arg("--version").output()?;
    let name: String = version.chars().filter(char::is_ascii_alphanumeric).collect();
    let template = beside.with_file_name(format!("template-{name}"));
    let making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !template.exists() {
        let made = directory()?;
        let init = ["-A", "trust", "-U", USER, "--no-sync", "-E", "UTF8", "--locale=C", "-D"];
        initdb.args(init).arg(data(made.path())).run()?;
        let copy = template.with_extension(std::process::id().to_string());
        copy_all(&data(made.path()), &copy)?;
        // Another process may have been faster; its template is as good.
        if std::fs::rename(&copy, &template).is_err() {
            std::fs::remove_dir_all(&copy).map_err(step("clear up"))?;
        }
    }
    drop(making);
    copy_all(&template, to)
}

fn copy_all(from: &Path, to: &Path) -> Result<(), ServerError> {
    Program::new("cp", "coreutils").arg("-a").arg(from).arg(to).run()
}

fn spawn(port: u16, directory: &Path, settings: &[String]) -> Result<Child, ServerError> {
    let socket = format!("unix_socket_directories={}", directory.display());
    let mut postgres = program("postgres")?.arg("-D").arg(data(directory));
    postgres = postgres.args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", &socket]);
    for setting in settings {
        postgres = postgres.args(["-c", setting]);
    }
    let log = directory.join("server.log");
    let mut child = postgres.start(&log)?;
    let port = port.to_string();
    let ready = program("pg_isready")?.args(["-q", "-h", "127.0.0.1", "-p", &port]);
    child.wait_ready(|| ready.run().is_ok())?;
    Ok(child)
}
