//! A real server of one's own: on a free port of this machine, with its files in a directory of its own, gone with it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tenure_core::lease::{Clock, SystemClock};

/// How long anything may take before a test has failed.
pub const LIMIT: Duration = Duration::from_secs(20);

pub struct Server {
    child: Child,
    port: u16,
    directory: TempDir,
    options: Vec<String>,
}

impl Server {
    /// Starts a server with some options more than it needs. A missing program is a failure.
    pub fn start(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        // Somebody else may take the port between our look and the server's start.
        for _ in 0..10 {
            let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
            if let Some(child) = spawn(port, directory.path(), &options) {
                return Self { child, port, directory, options };
            }
        }
        panic!("redis-server does not start with {options:?}");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the server as if its machine had gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again at the same place, with whatever is in its files.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.port, self.directory.path(), &self.options).expect("the port is still ours");
    }

    /// One command on a connection of its own; the raw reply.
    pub fn say(&self, command: &str) -> String {
        self.say_words(&command.split(' ').collect::<Vec<_>>())
    }

    /// The same with words that may have spaces.
    pub fn say_words(&self, words: &[&str]) -> String {
        Self::say_at(self.port, words)
    }

    pub fn say_at(port: u16, words: &[&str]) -> String {
        say(port, &[words.to_vec()]).unwrap()
    }

    /// Several commands on one connection; all replies.
    pub fn say_all_at(port: u16, commands: &[Vec<&str>]) -> String {
        say(port, commands).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16, directory: &Path, options: &[String]) -> Option<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
    command.arg("--dir").arg(directory).args(["--logfile", "server.log"]).args(options);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is needed: install the package redis-server");
    let start = SystemClock.now();
    loop {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        // A server that wants a password is up as well.
        if say(port, &[vec!["PING"]])
            .is_ok_and(|reply| reply.starts_with("+PONG") || reply.starts_with("-NOAUTH"))
        {
            return Some(child);
        }
        if SystemClock.now().since(start) > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn say(port: u16, commands: &[Vec<&str>]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut out = String::new();
    for words in commands {
        out.push_str(&format!("*{}\r\n", words.len()));
        words.iter().for_each(|word| out.push_str(&format!("${}\r\n{word}\r\n", word.len())));
    }
    out.push_str("*1\r\n$4\r\nQUIT\r\n");
    stream.write_all(out.as_bytes())?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    let reply = String::from_utf8_lossy(&reply).into_owned();
    Ok(reply.strip_suffix("+OK\r\n").map(str::to_owned).unwrap_or(reply))
}
