//! Counts each command exactly, by `MONITOR`: what clients send apart from what scripts call.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tenure_servers::redis::say;

/// What ends the counting; nobody else sends it.
const END: &str = "tenure-bench-ends";

/// Counts until told to end.
pub(super) struct Monitor {
    port: u16,
    stream: TcpStream,
    counting: JoinHandle<(f64, f64)>,
}

impl Monitor {
    pub(super) fn start(port: u16) -> Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(b"MONITOR\r\n")?;
        let mut lines = BufReader::with_capacity(1 << 16, stream.try_clone()?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        if !line.starts_with("+OK") {
            bail!("the server does not let us monitor it: {line}");
        }
        let counting = std::thread::spawn(move || count(lines));
        Ok(Self { port, stream, counting })
    }

    /// How many commands clients have sent, and how many scripts have called.
    pub(super) fn end(self) -> Result<(f64, f64)> {
        say(self.port, &[vec!["PING", END]])?;
        let counted = self.counting.join().ok().context("the thread that counts has failed")?;
        self.stream.shutdown(Shutdown::Both)?;
        Ok(counted)
    }
}

fn count(mut lines: impl BufRead) -> (f64, f64) {
    let (mut commands, mut calls) = (0.0, 0.0);
    let mut line = Vec::new();
    loop {
        line.clear();
        if !matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
            return (commands, calls);
        }
        // `+<time> [<database> <address or lua>] "COMMAND" …`
        let text = String::from_utf8_lossy(&line);
        if text.contains(END) {
            return (commands, calls);
        }
        match text.split_once(']') {
            Some((head, _)) if head.ends_with(" lua") => calls += 1.0,
            // Our own look at the server.
            Some((_, rest)) if rest.starts_with(" \"INFO\"") || rest.starts_with(" \"QUIT\"") => {}
            _ => commands += 1.0,
        }
    }
}
