//! etcd servers, alone and as a cluster.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::ports::on_free_ports;
use crate::{Child, LIMIT, Program, ServerError, free_ports};

/// Where Debian has the server.
const PACKAGE: &str = "etcd-server";

/// One or more etcd servers that are one cluster.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Member>,
    directory: TempDir,
}

#[derive(Debug)]
struct Member {
    child: Child,
    program: Program,
    port: u16,
    data: PathBuf,
    log: PathBuf,
    scheme: &'static str,
}

/// How a cluster is started.
#[derive(Clone, Debug)]
pub struct EtcdStart {
    /// The servers prove who they are with this certificate and key, and serve over TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Clients must show a certificate that this authority gave.
    pub client_ca: Option<PathBuf>,
    /// More of the command line of each server.
    pub options: Vec<String>,
}

impl Default for EtcdStart {
    /// Over plain TCP, without waiting for the disk: a crash of the server loses nothing, only one of the machine does.
    fn default() -> Self {
        Self { tls: None, client_ca: None, options: vec!["--unsafe-no-fsync".to_owned()] }
    }
}

impl EtcdCluster {
    /// Starts a server that is a cluster of its own.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn single() -> Result<Self, ServerError> {
        Self::start::<1>(&EtcdStart::default())
    }

    /// Starts three servers.
    ///
    /// # Errors
    /// As [`EtcdCluster::single`].
    pub fn three() -> Result<Self, ServerError> {
        Self::start::<3>(&EtcdStart::default())
    }

    /// Starts so many servers, and waits until they have a leader.
    ///
    /// # Errors
    /// As [`EtcdCluster::single`].
    pub fn start<const N: usize>(start: &EtcdStart) -> Result<Self, ServerError> {
        on_free_ports(|clients: [u16; N]| Self::on(clients, start))
    }

    fn on<const N: usize>(clients: [u16; N], start: &EtcdStart) -> Result<Self, ServerError> {
        let directory = tempfile::tempdir().map_err(ServerError::step("make a directory"))?;
        let peers = free_ports::<N>()?;
        let peer = |n: usize| format!("http://127.0.0.1:{}", peers[n]);
        let all: Vec<_> = (0..N).map(|n| format!("m{n}={}", peer(n))).collect();
        let mut members = Vec::with_capacity(N);
        for (n, port) in clients.into_iter().enumerate() {
            let program = program(n, port, &peer(n), &all.join(","), start);
            let (data, log) =
                (directory.path().join(format!("m{n}")), directory.path().join(format!("m{n}.log")));
            let program = program.arg("--data-dir").arg(&data);
            let scheme = if start.tls.is_some() { "etcds" } else { "etcd" };
            members.push(Member { child: program.start(&log)?, program, port, data, log, scheme });
        }
        for member in &mut members {
            member.wait()?;
        }
        Ok(Self { members, directory })
    }

    /// How many servers it has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The port on which a server serves clients.
    #[must_use]
    pub fn port(&self, member: usize) -> u16 {
        self.members[member].port
    }

    /// The process of a server.
    #[must_use]
    pub fn process(&self, member: usize) -> &Child {
        &self.members[member].child
    }

    /// Where the files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The addresses of all servers as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        let ports: Vec<_> = self.members.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect();
        format!("{}://{}", self.members[0].scheme, ports.join(","))
    }

    /// The address of one server as a URL.
    #[must_use]
    pub fn url_of(&self, member: usize) -> String {
        format!("{}://127.0.0.1:{}", self.members[member].scheme, self.members[member].port)
    }

    /// The server that leads, as the program `etcdctl` sees it; none while there is none.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        (0..self.members.len()).find(|member| {
            // `endpoint status` prints: endpoint, id, version, size, leads, learner, term, index, applied, errors.
            let status = self.etcdctl(*member, &["endpoint", "status"]);
            status.is_ok_and(|status| status.split(", ").nth(4) == Some("true"))
        })
    }

    /// Kills a server as if its machine had gone.
    pub fn kill(&mut self, member: usize) {
        self.members[member].child.kill();
    }

    /// Starts a server again that was killed, with whatever is in its files.
    ///
    /// # Errors
    /// When it does not start.
    pub fn revive(&mut self, member: usize) -> Result<(), ServerError> {
        let member = &mut self.members[member];
        member.child.kill();
        member.child = member.program.start(&member.log)?;
        member.wait()
    }

    /// Starts a single server again without its files, as a cluster that knows nothing.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_empty(&mut self) -> Result<(), ServerError> {
        let member = &mut self.members[0];
        member.child.kill();
        std::fs::remove_dir_all(&member.data).map_err(ServerError::step("remove the files of a server"))?;
        self.revive(0)
    }

    /// What a server counts of itself under this name, as a monitor reads it; none when it does not answer or count it.
    #[must_use]
    pub fn metric(&self, member: usize, name: &str) -> Option<f64> {
        let said = http(self.members[member].port, "/metrics")?;
        let value = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse().ok()
    }

    /// What the program `etcdctl` says to these words, at one of the servers.
    ///
    /// # Errors
    /// When it is missing, or fails, with what it said.
    pub fn etcdctl(&self, member: usize, words: &[&str]) -> Result<String, ServerError> {
        let endpoint = format!("127.0.0.1:{}", self.members[member].port);
        etcdctl(&endpoint, words)
    }
}

/// What the program `etcdctl` says to these words.
///
/// # Errors
/// When it is missing, or fails, with what it said.
pub fn etcdctl(endpoint: &str, words: &[&str]) -> Result<String, ServerError> {
    Program::new("etcdctl", "etcd-client")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", endpoint, "--command-timeout", "30s", "--dial-timeout", "10s"])
        .args(words)
        .output()
}

impl Member {
    /// Waits until the server knows a leader.
    fn wait(&mut self) -> Result<(), ServerError> {
        let port = self.port;
        if self.scheme == "etcds" {
            // What it serves is behind TLS, which the log does not need.
            let log = self.log.clone();
            return self.child.wait_ready(|| {
                std::fs::read_to_string(&log).is_ok_and(|said| said.contains("serving client"))
            });
        }
        self.child.wait_ready(|| healthy(port))
    }
}

/// Whether the server says that it can serve. A cluster that wants a login says so to everybody.
fn healthy(port: u16) -> bool {
    http(port, "/health").is_some_and(|said| said.contains(r#""health":"true""#))
}

/// What a server of this machine answers to a plain request.
fn http(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    Some(said)
}

fn program(n: usize, port: u16, peer: &str, all: &str, start: &EtcdStart) -> Program {
    let scheme = if start.tls.is_some() { "https" } else { "http" };
    let client = format!("{scheme}://127.0.0.1:{port}");
    let mut program = Program::new("etcd", PACKAGE).args([
        "--name",
        &format!("m{n}"),
        "--listen-client-urls",
        &client,
        "--advertise-client-urls",
        &client,
        "--listen-peer-urls",
        peer,
        "--initial-advertise-peer-urls",
        peer,
        "--initial-cluster",
        all,
        "--logger",
        "zap",
        "--log-level",
        "info",
    ]);
    if let Some((cert, key)) = &start.tls {
        program = program.arg("--cert-file").arg(cert).arg("--key-file").arg(key);
    }
    if let Some(ca) = &start.client_ca {
        program = program.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
    }
    program.args(&start.options)
}
