//! A proxy between a client and its server that misbehaves when it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

pub struct Proxy {
    port: u16,
    rules: Arc<Rules>,
}

#[derive(Default)]
struct Rules {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Default)]
struct Now {
    /// What clients send is kept until they may go on.
    hold_requests: bool,
    /// When the server next answers, the connection is cut instead.
    cut_at_reply: bool,
    /// What to write instead of something in replies.
    replace: Option<(Vec<u8>, Vec<u8>)>,
    /// How many requests are held, or replies were cut.
    events: usize,
}

impl Proxy {
    pub fn before(server_port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let rules = Arc::new(Rules::default());
        let ours = Arc::clone(&rules);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)) else { continue };
                let (up, down) = (Arc::clone(&ours), Arc::clone(&ours));
                let (c, s) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pass(c, s, |_| up.request()));
                std::thread::spawn(move || pass(server, client, |bytes| down.reply(bytes)));
            }
        });
        Self { port, rules }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn hold_requests(&self, hold: bool) {
        self.rules.now.lock().unwrap().hold_requests = hold;
        self.rules.changed.notify_all();
    }

    pub fn cut_at_next_reply(&self) {
        self.rules.now.lock().unwrap().cut_at_reply = true;
    }

    pub fn replace_in_replies(&self, what: Option<(&str, &str)>) {
        self.rules.now.lock().unwrap().replace = what.map(|(a, b)| (a.into(), b.into()));
    }

    /// Waits until so many requests were held or replies cut.
    pub fn wait_for_events(&self, count: usize) {
        let now = self.rules.now.lock().unwrap();
        let limit = super::server::LIMIT;
        let (_now, timeout) =
            self.rules.changed.wait_timeout_while(now, limit, |now| now.events < count).unwrap();
        assert!(!timeout.timed_out());
    }
}

impl Rules {
    fn request(&self) -> bool {
        let mut now = self.now.lock().unwrap();
        if now.hold_requests {
            now.events += 1;
            self.changed.notify_all();
        }
        drop(self.changed.wait_while(now, |now| now.hold_requests).unwrap());
        true
    }

    fn reply(&self, bytes: &mut Vec<u8>) -> bool {
        let mut now = self.now.lock().unwrap();
        if std::mem::take(&mut now.cut_at_reply) {
            now.events += 1;
            self.changed.notify_all();
            return false;
        }
        if let Some((from, to)) = &now.replace
            && let Some(at) = bytes.windows(from.len()).position(|window| window == from)
        {
            bytes.splice(at..at + from.len(), to.iter().copied());
        }
        true
    }
}

/// Passes on what comes, as long as the rule agrees.
fn pass(mut from: TcpStream, mut to: TcpStream, rule: impl Fn(&mut Vec<u8>) -> bool) {
    let mut chunk = vec![0; 1 << 16];
    while let Ok(read) = from.read(&mut chunk) {
        let mut bytes = chunk[..read].to_vec();
        if read == 0 || !rule(&mut bytes) || to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
