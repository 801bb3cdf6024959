//! NATS servers with JetStream, for the example of a message queue.

use std::io::{self, Read};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::ports::on_free_ports;
use crate::{Child, Program, ServerError};

/// Where Debian has the server.
const PACKAGE: &str = "nats-server";

/// A NATS server that keeps streams.
#[derive(Debug)]
pub struct NatsServer {
    _child: Child,
    port: u16,
    _directory: TempDir,
}

impl NatsServer {
    /// Starts a server.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start() -> Result<Self, ServerError> {
        let directory = tempfile::tempdir().map_err(ServerError::step("make a directory"))?;
        let (child, port) = on_free_ports(|[port]| Ok((spawn(port, directory.path())?, port)))?;
        Ok(Self { _child: child, port, _directory: directory })
    }

    /// Its address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

fn spawn(port: u16, directory: &Path) -> Result<Child, ServerError> {
    let program = Program::new("nats-server", PACKAGE).args(["--addr", "127.0.0.1", "--jetstream", "--port"]);
    let program = program.arg(port.to_string()).arg("--store_dir").arg(directory.join("data"));
    let mut child = program.start(&directory.join("server.log"))?;
    child.wait_ready(|| greets(port).unwrap_or(false))?;
    Ok(child)
}

/// Whether a server says who it is.
fn greets(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut start = [0; 4];
    stream.read_exact(&mut start)?;
    Ok(&start == b"INFO")
}
