//! The scripts against the pure ledger: the same verbs at the same times give the same answers, the same offers and
//! the same line.
//!
//! The scripts run on a real server, with one change: the time is given to them.

use redis::{Connection, Value};
use tenure_conformance::mirror::{Books, Verb, compare};
use tenure_core::engine::ledger::Ledger;
use tenure_core::{ClaimId, Key};
use tenure_servers::LIMIT;
use tenure_servers::redis::RedisServer;

use crate::names;
use crate::record::{self, Tag};
use crate::reply::Reply;
use crate::scripts::{Script, Voice};
use crate::wording;

struct Client(Connection);

impl Client {
    fn new(server: &RedisServer) -> Self {
        let connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        connection.set_read_timeout(Some(LIMIT)).unwrap();
        Self(connection)
    }

    fn read(&mut self) -> Value {
        self.0.recv_response().unwrap()
    }

    fn ask(&mut self, parts: &[&[u8]]) -> Value {
        let mut command = redis::Cmd::new();
        command.arg(parts);
        self.0.send_packed_command(&command.get_packed_command()).unwrap();
        self.read()
    }
}

struct Mirror {
    client: Client,
    ear: Client,
    scripts: Vec<String>,
    hash: String,
}

impl Mirror {
    fn new(server: &RedisServer) -> Self {
        let mut client = Client::new(server);
        let timed = |script: Script| {
            script.source(Voice::Plain).replace(
                "local clock = redis.call('TIME')",
                // As the command gives it: without zeros before the microseconds.
                "local clock = { string.sub(ARGV[#ARGV], 1, -7), string.format('%d', string.sub(ARGV[#ARGV], -6)) }",
            )
        };
        let load =
            |script| client.ask(&[b"SCRIPT", b"LOAD", timed(script).as_bytes()]).text().unwrap().to_owned();
        let scripts = Script::ALL.map(load).to_vec();
        let mut ear = Client::new(server);
        ear.ask(&[b"PSUBSCRIBE", b"tenure:to:*"]);
        Self { client, ear, scripts, hash: String::new() }
    }
}

impl Books for Mirror {
    type Tag = Tag;

    fn open(&mut self, key: &Key) {
        self.hash = names::hash_of(key);
    }

    fn tag(&self, claim: ClaimId) -> Tag {
        Tag { connection: claim.bits() as u64, card: 77 }
    }

    fn act(&mut self, now: u64, verb: &Verb) -> String {
        let (script, id, words) = match verb {
            Verb::Attempt(claim) => {
                let Tag { connection, card } = self.tag(claim.id);
                (Script::Attempt, claim.id, wording::attempt(claim, connection, &format!("{card:016x}")))
            }
            Verb::Renew(claim) => (Script::Renew, claim.id, wording::renewal(claim)),
            Verb::Restamp(claim) => (Script::Restamp, claim.id, wording::restamp(claim)),
            Verb::Withdraw(claim, stray) => (Script::Withdraw, claim.id, wording::withdrawal(claim, *stray)),
            Verb::Evict(claim) => (Script::Evict, *claim, "-".to_owned()),
        };
        // Every other claim as one of many: of one, which is enough.
        let many = script.for_many().filter(|_| id.bits() % 2 == 0);
        let sha = self.scripts[many.unwrap_or(script) as usize].clone();
        let (mine, now) = (names::mine(id), now.to_string());
        let mut parts = vec!["EVALSHA", &sha, "1", &self.hash, &words, &mine, &now];
        let mut begins = format!("{id} ");
        if many.is_some() {
            parts.insert(4, "7");
            begins = "7\n".to_owned();
        }
        let parts: Vec<_> = parts.into_iter().map(str::as_bytes).collect();
        let answer = self.client.ask(&parts);
        let line = answer.text().unwrap_or_else(|| panic!("{answer:?}"));
        line.strip_prefix(&begins).unwrap().to_owned()
    }

    fn told(&mut self) -> Vec<String> {
        self.client.ask(&[b"PUBLISH", b"tenure:to:end", b"end"]);
        let mut told = Vec::new();
        loop {
            let message = self.ear.read().list().unwrap();
            match message[3].text().unwrap() {
                "end" => return told,
                text => told.push(text.to_owned()),
            }
        }
    }

    fn ledger(&mut self) -> Ledger<Tag> {
        let hash = self.hash.clone();
        let fields = self.client.ask(&[b"HGETALL", hash.as_bytes()]).list().unwrap();
        let fields: Vec<_> = fields.iter().map(|field| field.text().unwrap()).collect();
        let pairs: Vec<_> = fields.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        record::read(&pairs).unwrap_or_else(|| panic!("{pairs:?}"))
    }
}

#[test]
fn c073_the_scripts_keep_the_same_books_as_the_pure_ledger() {
    let server = RedisServer::start(&[]).unwrap();
    compare(Mirror::new(&server), 400);
}
