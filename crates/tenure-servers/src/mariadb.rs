//! MariaDB servers.

use std::fs;
use std::io::{self, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::ports::on_free_ports;
use crate::{Child, Program, ServerError};

/// Where Debian has the server, and the client.
const PACKAGE: &str = "mariadb-server-core";
const CLIENT_PACKAGE: &str = "mariadb-client-core";

/// A MariaDB server on a port of its own, where `root` needs no password.
#[derive(Debug)]
pub struct MariaDbServer {
    child: Child,
    port: u16,
    directory: TempDir,
    options: Vec<String>,
}

impl MariaDbServer {
    /// Starts a server with an empty database `tenure`, and these options of its command line besides. What it has
    /// answered survives a crash of the server; that of the machine is not worth the time of tests.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(options: &[&str]) -> Result<Self, ServerError> {
        let directory = tempfile::tempdir().map_err(ServerError::step("make a directory"))?;
        copy(&template()?, &directory.path().join("data"))
            .map_err(ServerError::step("copy a data directory"))?;
        fs::create_dir(directory.path().join("tmp")).map_err(ServerError::step("make a directory"))?;
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let (child, port) = on_free_ports(|[port]| Ok((spawn(port, directory.path(), &options)?, port)))?;
        Ok(Self { child, port, directory, options })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Child {
        &self.child
    }

    /// The address of a database as a URL.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("mysql://root@127.0.0.1:{}/{database}", self.port)
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
        self.child = spawn(self.port, self.directory.path(), &self.options)?;
        Ok(())
    }

    /// Runs statements in a database on a connection of their own, as a person would; the rows, without names.
    ///
    /// # Errors
    /// When the client is missing or the server refuses one of them.
    pub fn say(&self, database: &str, statements: &str) -> Result<String, ServerError> {
        let port = self.port.to_string();
        let mut client = Command::new("mariadb");
        client.args([
            "--no-defaults",
            "--host=127.0.0.1",
            "--port",
            &port,
            "--user=root",
            "--skip-column-names",
        ]);
        client.args(["--batch", "--execute", statements, database]).stdin(Stdio::null());
        let output = client.output().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                ServerError::Missing { program: "mariadb".to_owned(), package: CLIENT_PACKAGE }
            }
            _ => ServerError::step("run mariadb")(error),
        })?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        let said = said + &String::from_utf8_lossy(&output.stderr);
        Err(ServerError::Silent { program: "mariadb".to_owned(), said })
    }
}

/// A data directory that is made once for this process and copied for each server. It lives as long as the process
/// has servers to start, and is left to the system's clean-up of temporary files after that.
fn template() -> Result<PathBuf, ServerError> {
    static TEMPLATE: LazyLock<Mutex<Option<PathBuf>>> = LazyLock::new(Mutex::default);
    let mut template = TEMPLATE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &*template {
        return Ok(path.clone());
    }
    let shared = std::env::temp_dir().join(format!("tenure-mariadb-{}", rustix::process::geteuid().as_raw()));
    let ready = shared.join("data");
    if !ready.join("tenure").is_dir() {
        fs::create_dir_all(&shared).map_err(ServerError::step("make a directory"))?;
        let making = tempfile::tempdir_in(&shared).map_err(ServerError::step("make a directory"))?;
        let data = making.path().join("data");
        let user = if rustix::process::geteuid().is_root() { "root" } else { "" };
        let mut install = Program::new("mariadb-install-db", PACKAGE).arg("--no-defaults");
        install = install.arg(format!("--datadir={}", data.display()));
        install = install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        if !user.is_empty() {
            install = install.arg(format!("--user={user}"));
        }
        install.run()?;
        fs::create_dir(data.join("tenure")).map_err(ServerError::step("make a database"))?;
        // Another process may have been faster; its directory is as good.
        if let Err(error) = fs::rename(&data, &ready)
            && !ready.join("tenure").is_dir()
        {
            return Err(ServerError::step("keep a data directory")(error));
        }
    }
    *template = Some(ready.clone());
    Ok(ready)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn spawn(port: u16, directory: &Path, options: &[String]) -> Result<Child, ServerError> {
    let path = |option: &str, name: &str| format!("--{option}={}", directory.join(name).display());
    let mut program = Program::new("/usr/sbin/mariadbd", PACKAGE).arg("--no-defaults").args([
        path("datadir", "data"),
        path("socket", "m.sock"),
        path("pid-file", "m.pid"),
        // A server that starts clears the temporary tables of whoever was here before: of all who share the directory.
        path("tmpdir", "tmp"),
        format!("--port={port}"),
    ]);
    program = program.args([
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        "--performance-schema=OFF",
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=8M",
        "--innodb-flush-log-at-trx-commit=2",
        "--innodb-flush-method=nosync",
        "--sync-frm=0",
    ]);
    if rustix::process::geteuid().is_root() {
        program = program.arg("--user=root");
    }
    let mut child = program.args(options).start(&directory.join("server.log"))?;
    child.wait_ready(|| greets(port).unwrap_or(false))?;
    Ok(child)
}

/// Whether a server greets those who connect, and does not turn them away.
fn greets(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut start = [0; 5];
    stream.read_exact(&mut start)?;
    // Protocol 10; an error would begin with 255.
    Ok(start[4] == 10)
}
