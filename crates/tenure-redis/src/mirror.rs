//! The scripts against the pure ledger: the same verbs at the same times give the same answers, the same offers and
//! the same line.
//!
//! The scripts run on a real server, with one change: the time is given to them.

use redis::{Connection, Value};
use tenure_conformance::mirror::{Books, Verb, compare};
use tenure_core::engine::ledger::Ledger;
use tenure_core::engine::{Stray, answers};
use tenure_core::{Claim, ClaimId, FencingToken, IfBusy, Key};
use tenure_servers::LIMIT;
use tenure_servers::redis::RedisServer;

use crate::names;
use crate::record::{self, Tag};
use crate::reply::Reply;
use crate::scripts::{Script, Voice};

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
                "local clock = { string.sub(ARGV[#ARGV], 1, -7), string.sub(ARGV[#ARGV], -6) }",
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
        let term = |claim: &Claim| answers::term(claim).as_micros().to_string();
        let floor = |claim: &Claim| claim.floor.map_or(0, FencingToken::get).to_string();
        let spare = |claim: &Claim| claim.spare_tokens.to_string();
        let (script, id, args) = match verb {
            Verb::Attempt(claim) => {
                let (mode, limit) = answers::mode_words(claim.mode);
                let (leave, tag) =
                    (if claim.if_busy == IfBusy::Leave { "leave" } else { "join" }, self.tag(claim.id));
                let (term, spare, floor) = (term(claim), spare(claim), floor(claim));
                let wish = format!(
                    "{mode} {limit} {term} {spare} {floor} {:016x} {:016x}",
                    tag.connection, tag.card
                );
                (Script::Attempt, claim.id, vec![wish, term, spare, floor, leave.to_owned()])
            }
            Verb::Renew(claim) => (Script::Renew, claim.id, vec![term(claim)]),
            Verb::Restamp(claim) => (Script::Restamp, claim.id, vec![spare(claim), floor(claim)]),
            Verb::Withdraw(claim, stray) => {
                let stray = if *stray == Stray::Possible { "possible" } else { "impossible" };
                (Script::Withdraw, claim.id, vec![term(claim), stray.to_owned()])
            }
            Verb::Evict(claim) => (Script::Evict, *claim, vec![]),
        };
        // Every other claim as one of many: of one, which is enough.
        let script = script.for_many().filter(|_| id.bits() % 2 == 0).unwrap_or(script);
        let (sha, id, now) = (self.scripts[script as usize].clone(), id.to_string(), now.to_string());
        let mut parts: Vec<&[u8]> =
            vec![b"EVALSHA", sha.as_bytes(), b"1", self.hash.as_bytes(), id.as_bytes()];
        parts.extend(args.iter().map(String::as_bytes));
        parts.push(now.as_bytes());
        let answer = self.client.ask(&parts);
        let answer = match answer {
            Value::Array(mut answers) => answers.remove(0),
            answer => answer,
        };
        let line = answer.text().unwrap_or_else(|| panic!("{answer:?}"));
        line.strip_prefix(&id).unwrap().strip_prefix(' ').unwrap().to_owned()
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
