//! A blocking socket that speaks the protocol: nothing is between us and the kernel.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail};

/// One connection.
pub(super) struct Socket {
    out: TcpStream,
    replies: BufReader<TcpStream>,
    buffer: Vec<u8>,
}

impl Socket {
    pub(super) fn open(at: &str) -> Result<Self> {
        let out = TcpStream::connect(at.strip_prefix("redis://").context("not an address of Redis")?)?;
        out.set_nodelay(true)?;
        let replies = BufReader::with_capacity(1 << 16, out.try_clone()?);
        Ok(Self { out, replies, buffer: Vec::new() })
    }

    /// Adds a command to what is sent next.
    pub(super) fn add(&mut self, parts: &[&str]) {
        self.buffer.extend(format!("*{}\r\n", parts.len()).as_bytes());
        for part in parts {
            self.buffer.extend(format!("${}\r\n", part.len()).as_bytes());
            self.buffer.extend(part.as_bytes());
            self.buffer.extend(b"\r\n");
        }
    }

    pub(super) fn send(&mut self) -> Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// One reply that is no list: its line, or the text that follows it; none for nil.
    pub(super) fn reply(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        let line = line.trim_end();
        match line.as_bytes().first() {
            Some(b'+' | b':') => Ok(Some(line[1..].to_owned())),
            Some(b'$') if line == "$-1" => Ok(None),
            Some(b'$') => {
                let mut text = String::new();
                self.replies.read_line(&mut text)?;
                Ok(Some(text.trim_end().to_owned()))
            }
            _ => bail!("the server says {line:?}"),
        }
    }

    pub(super) fn ask(&mut self, parts: &[&str]) -> Result<Option<String>> {
        self.add(parts);
        self.send()?;
        self.reply()
    }
}
