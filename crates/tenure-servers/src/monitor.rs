//! Counts each command of a Redis server exactly: what clients send apart from what scripts call.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;

use crate::LIMIT;
use crate::redis::say;

/// What ends the counting; nobody else sends it.
const END: &str = "tenure-monitor-ends";

/// How often each command was run, by its name in capitals.
pub type Counts = BTreeMap<String, u64>;

/// What a server has run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What clients sent.
    pub commands: Counts,
    /// What scripts called.
    pub calls: Counts,
}

/// Watches a server until told to end. It makes the server slower: do not measure times meanwhile.
#[derive(Debug)]
pub struct Monitor {
    port: u16,
    stream: TcpStream,
    counting: JoinHandle<Seen>,
}

impl Monitor {
    /// Begins to watch the server at a port of this machine.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub fn start(port: u16) -> io::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        // A server that nobody uses says nothing for as long as it takes.
        stream.write_all(b"MONITOR\r\n")?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut lines = BufReader::with_capacity(1 << 16, stream.try_clone()?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        if !line.starts_with("+OK") {
            return Err(io::Error::other(format!("the server does not let itself be watched: {line}")));
        }
        stream.set_read_timeout(None)?;
        let counting = std::thread::spawn(move || count(lines));
        Ok(Self { port, stream, counting })
    }

    /// What it has run since then.
    ///
    /// # Errors
    /// When the server does not answer any more.
    pub fn end(self) -> io::Result<Seen> {
        say(self.port, &[vec!["PING", END]])?;
        let seen = self.counting.join().map_err(|_| io::Error::other("the thread that counts has failed"))?;
        self.stream.shutdown(Shutdown::Both)?;
        Ok(seen)
    }
}

/// Lines are `+<time> [<database> <address or lua>] "COMMAND" …`.
fn count(mut lines: impl BufRead) -> Seen {
    let (mut seen, mut line) = (Seen::default(), Vec::new());
    // Ends with the connection, or when told to.
    loop {
        line.clear();
        if !matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
            return seen;
        }
        let text = String::from_utf8_lossy(&line);
        if text.contains(END) {
            return seen;
        }
        let Some((head, rest)) = text.split_once("] \"") else { continue };
        let name = rest.split('"').next().unwrap_or_default().to_ascii_uppercase();
        let counts = if head.ends_with(" lua") { &mut seen.calls } else { &mut seen.commands };
        *counts.entry(name).or_default() += 1;
    }
}
