//! The scripts against the pure ledger: the same verbs at the same times give the same answers, the same offers and
//! the same line.
//!
//! The scripts run on a real server, with one change: the time is given to them, so that terms and claim windows pass
//! at once.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use redis::{Connection, Value};
use tenure_core::engine::ledger::{Expiry, Ledger, Terms, Told};
use tenure_core::engine::{Attempt, Gone, Renewal, Restamp, Stray, Waiting, Withdrawn};
use tenure_core::{Claim, ClaimId, FencingToken, IfBusy, Key, Mode, Ttl};
use tenure_servers::LIMIT;
use tenure_servers::redis::RedisServer;

use crate::record::{self, Tag};
use crate::reply::Reply;
use crate::scripts::Script;

const WINDOW: u64 = 3_000_000;

#[derive(Clone, Debug)]
enum Verb {
    Attempt { who: u128, mode: Mode, ttl: u64, spare: u32, floor: u64, leave: bool },
    Renew { who: u128, ttl: u64 },
    Restamp { who: u128, spare: u32, floor: u64 },
    Withdraw { who: u128, ttl: u64, stray: bool },
    Evict { who: u128 },
}

fn verbs() -> impl Strategy<Value = Vec<(u64, Verb)>> {
    let who = 1u128..7;
    let ttl = prop_oneof![Just(50u64), Just(1_000), Just(10_000)];
    let mode = prop_oneof![
        3 => Just(Mode::Exclusive),
        2 => Just(Mode::Shared),
        3 => Just(Mode::Permit { limit: NonZeroU32::new(2).unwrap() }),
        1 => Just(Mode::Permit { limit: NonZeroU32::new(3).unwrap() }),
    ];
    let spare = prop_oneof![Just(0u32), Just(64), Just(200_000)];
    // Nothing seen, seen ahead of the server's clock, and the forged end of the range.
    let floor = prop_oneof![12 => Just(0u64), 3 => Just(BASE + 50_000_000), 1 => Just((1 << 53) - 1)];
    let verb = prop_oneof![
        8 => (who.clone(), mode, ttl.clone(), spare.clone(), floor.clone(), any::<bool>())
            .prop_map(|(who, mode, ttl, spare, floor, leave)| Verb::Attempt { who, mode, ttl, spare, floor, leave }),
        3 => (who.clone(), ttl.clone()).prop_map(|(who, ttl)| Verb::Renew { who, ttl }),
        1 => (who.clone(), spare, floor).prop_map(|(who, spare, floor)| Verb::Restamp { who, spare, floor }),
        5 => (who.clone(), ttl, any::<bool>()).prop_map(|(who, ttl, stray)| Verb::Withdraw { who, ttl, stray }),
        1 => who.prop_map(|who| Verb::Evict { who }),
    ];
    let pause = prop_oneof![
        4 => 0u64..1_000,
        2 => Just(50_000u64),
        2 => Just(999_999),
        1 => Just(WINDOW),
        1 => Just(11_000_000),
    ];
    prop::collection::vec((pause, verb), 1..60)
}

/// Far enough in the future that no key expires by the server's own clock.
const BASE: u64 = 2_000_000_000_000_000;

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
            script.source().replace(
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

    /// The answer of a script, without the claim.
    fn run(&mut self, script: Script, now: u64, args: &[String]) -> String {
        let sha = self.scripts[script as usize].clone();
        let (hash, now) = (self.hash.clone(), now.to_string());
        let mut parts: Vec<&[u8]> = vec![b"EVALSHA", sha.as_bytes(), b"1", hash.as_bytes()];
        parts.extend(args.iter().map(String::as_bytes));
        parts.push(now.as_bytes());
        let answer = self.client.ask(&parts);
        let line = answer.text().unwrap_or_else(|| panic!("{answer:?}"));
        line.strip_prefix(&args[0]).unwrap().strip_prefix(' ').unwrap().to_owned()
    }

    /// What was published since the last time.
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

fn tag(who: u128) -> Tag {
    Tag { connection: who as u64, card: 77 }
}

fn claim(who: u128, ttl: u64) -> Claim {
    let mut claim = Claim::new(Key::new("k").unwrap(), ClaimId::from_bits(who));
    claim.ttl = Ttl::new(Duration::from_millis(ttl)).unwrap();
    claim
}

fn told(told: Vec<Told<Tag>>) -> Vec<String> {
    let line = |told: Told<Tag>| match told.grant {
        Some(grant) => format!("{} {} {} {}", told.claim, grant.tokens.first, grant.tokens.spare, grant.slot),
        None => told.claim.to_string(),
    };
    told.into_iter().map(line).collect()
}

fn gone(gone: Gone) -> String {
    format!(
        "gone {}",
        match gone {
            Gone::Evicted => "evicted",
            Gone::Withdrawn => "withdrawn",
            Gone::Absent => "absent",
        }
    )
}

fn waiting(word: &str, waiting: Waiting) -> String {
    let look_in = waiting.look_in.map_or("none".to_owned(), |look_in| look_in.as_micros().to_string());
    format!("{word} {} {look_in} {}", waiting.ahead, waiting.last_token)
}

fn withdrawn(withdrawn: Withdrawn) -> String {
    match withdrawn {
        Withdrawn::Held => "held",
        Withdrawn::Waited => "waited",
        Withdrawn::Absent => "absent",
    }
    .to_owned()
}

/// One verb on both sides: what the pure one answered, and what the server did.
fn step(mirror: &mut Mirror, pure: &mut Ledger<Tag>, now: u64, verb: &Verb) -> [(String, Vec<String>); 2] {
    let terms = Terms { now, wall_micros: now, window: WINDOW, expiry: Expiry::Lease };
    let alive = &mut |_: &Tag| true;
    let (id, term) = (|who: u128| ClaimId::from_bits(who).to_string(), |ttl: u64| (ttl * 1_000).to_string());
    let (expected, answer) = match *verb {
        Verb::Attempt { who, mode, ttl, spare, floor, leave } => {
            let mut claim = claim(who, ttl);
            (claim.mode, claim.spare_tokens, claim.floor) = (mode, spare, FencingToken::new(floor));
            claim.if_busy = if leave { IfBusy::Leave } else { IfBusy::Join };
            let (attempt, told) = pure.attempt(&claim, &tag(who), &terms, alive);
            let expected = match attempt {
                Err(differs) => format!("limit {}", differs.stored),
                Ok(Attempt::Granted(grant)) => {
                    format!("granted {} {} {}", grant.tokens.first, grant.tokens.spare, grant.slot)
                }
                Ok(Attempt::Waiting(w)) => waiting("waiting", w),
                Ok(Attempt::Busy(w)) => waiting("busy", w),
                Ok(Attempt::Gone(why)) => gone(why),
            };
            let (mode, limit) = match mode {
                Mode::Exclusive => ("x", 0),
                Mode::Shared => ("s", 0),
                Mode::Permit { limit } => ("p", limit.get()),
            };
            let (leave, tag) = (if leave { "leave" } else { "join" }, tag(who));
            let wish = format!(
                "{mode} {limit} {} {spare} {floor} {:016x} {:016x}",
                term(ttl),
                tag.connection,
                tag.card
            );
            let args = [id(who), wish, term(ttl), spare.to_string(), floor.to_string(), leave.to_owned()];
            ((expected, told), mirror.run(Script::Attempt, now, &args))
        }
        Verb::Renew { who, ttl } => {
            let (renewal, told) = pure.renew(&claim(who, ttl), &tag(who), &terms, alive);
            let expected = match renewal {
                Renewal::Renewed(_) => "renewed".to_owned(),
                Renewal::Gone(why) => gone(why),
            };
            ((expected, told), mirror.run(Script::Renew, now, &[id(who), term(ttl)]))
        }
        Verb::Restamp { who, spare, floor } => {
            let mut claim = claim(who, 50);
            (claim.spare_tokens, claim.floor) = (spare, FencingToken::new(floor));
            let (restamp, told) = pure.restamp(&claim, &terms, alive);
            let expected = match restamp {
                Restamp::Fresh(tokens) => format!("fresh {} {}", tokens.first, tokens.spare),
                Restamp::Gone(why) => gone(why),
            };
            let args = [id(who), spare.to_string(), floor.to_string()];
            ((expected, told), mirror.run(Script::Restamp, now, &args))
        }
        Verb::Withdraw { who, ttl, stray } => {
            let strays = if stray { Stray::Possible } else { Stray::Impossible };
            let (answer, told) = pure.withdraw(&claim(who, ttl), strays, &terms, alive);
            let stray = if stray { "possible" } else { "impossible" };
            let args = [id(who), term(ttl), stray.to_owned()];
            ((withdrawn(answer), told), mirror.run(Script::Withdraw, now, &args))
        }
        Verb::Evict { who } => {
            let (answer, told) = pure.evict(ClaimId::from_bits(who), &terms, alive);
            ((withdrawn(answer), told), mirror.run(Script::Evict, now, &[id(who)]))
        }
    };
    [(expected.0, told(expected.1)), (answer, mirror.told())]
}

fn sorted(mut ledger: Ledger<Tag>) -> Ledger<Tag> {
    ledger.tombstones.sort_by_key(|tombstone| tombstone.claim);
    ledger
}

#[test]
fn c073_the_scripts_keep_the_same_books_as_the_pure_ledger() {
    let server = RedisServer::start(&[]).unwrap();
    let mirror = std::cell::RefCell::new((0, Mirror::new(&server)));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&verbs(), |verbs| {
        let (case, mirror) = &mut *mirror.borrow_mut();
        *case += 1;
        mirror.hash = format!("tenure:{{case/{case}}}");
        let (mut pure, mut now) = (Ledger::default(), BASE);
        for (pause, verb) in &verbs {
            now += pause;
            let [expected, answer] = step(mirror, &mut pure, now, verb);
            prop_assert_eq!(&expected, &answer, "{:?} at {}", verb, now);
            prop_assert_eq!(sorted(pure.clone()), sorted(mirror.ledger()), "after {:?} at {}", verb, now);
        }
        Ok(())
    });
    result.unwrap();
}
