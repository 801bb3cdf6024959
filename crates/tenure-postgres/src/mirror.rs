//! The functions against the pure ledger: the same verbs at the same times give the same answers, the same offers and
//! the same line.
//!
//! The functions run on a real server, with one change: the clock is given to them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use futures_util::FutureExt;
use tenure_conformance::mirror::{Books, Verb as Wish, compare};
use tenure_core::engine::ledger::{Ledger, Tombstone};
use tenure_core::engine::{Stray, answers};
use tenure_core::{Claim, ClaimId, FencingToken, IfBusy, Key};
use tenure_servers::postgres::PostgresServer;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::Client;

use crate::dial::connect;
use crate::link::Value;
use crate::options::PostgresOptions;
use crate::record::{self, Tag};
use crate::verbs::{Verb, Verbs};

/// What a verb finds: no key yet, its own hold alone in the key's row, another's, a line, or nothing of these.
const FINDS: [&str; 5] = ["no key", "own", "alone", "line", "free"];

const FOUND: &str = "SELECT CASE WHEN claim = $2 THEN 'own' WHEN claim IS NOT NULL THEN 'alone' \
    WHEN line THEN 'line' ELSE 'free' END FROM tenure_keys WHERE key = $1";

/// Keys that say of themselves what is not so: a hold lies beside a line, or a line where none may be.
const BROKEN: &str = "SELECT count(*) FROM tenure_keys k WHERE CASE WHEN line THEN claim IS NOT NULL \
    ELSE EXISTS (SELECT FROM tenure_places p WHERE p.key = k.key) END";

/// Holds end by lease.
const BY_LEASE: Value = Value::Number(0);

struct Mirror {
    runtime: Runtime,
    client: Client,
    told: UnboundedReceiver<String>,
    verbs: Verbs,
    key: String,
    /// Which verbs have found what.
    met: Rc<RefCell<BTreeSet<String>>>,
}

impl Mirror {
    fn new(server: &PostgresServer) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = PostgresOptions::from_url(&server.url()).unwrap();
        let (tell, told) = unbounded_channel();
        let client = runtime.block_on(async {
            crate::migrate(&options).await.unwrap();
            let client = connect(&options, move |message| tell.send(message.to_owned()).unwrap())
                .await
                .unwrap()
                .client;
            let clock = "CREATE OR REPLACE FUNCTION tenure_now() RETURNS bigint LANGUAGE sql VOLATILE AS \
                $$ SELECT current_setting('tenure.now')::bigint $$;";
            client.batch_execute(clock).await.unwrap();
            for who in 1..7 {
                client.batch_execute(&format!("LISTEN {}", channel(ClaimId::from_bits(who)))).await.unwrap();
            }
            client
        });
        let (verbs, met) = (Verbs::of("public", None), Rc::default());
        Self { runtime, client, told, verbs, key: String::new(), met }
    }

    fn meet(&self, verb: Verb, claim: ClaimId) {
        let names = [Value::Text(self.key.clone()), Value::Text(claim.to_string())];
        let names = [names[0].typed(), names[1].typed()];
        let rows = self.runtime.block_on(self.client.query_typed(FOUND, &names)).unwrap();
        let found = rows.first().map_or("no key".to_owned(), |row| row.get(0));
        self.met.borrow_mut().insert(format!("{verb:?}, {found}"));
    }
}

fn channel(claim: ClaimId) -> String {
    format!("tenure_{claim}")
}

impl Books for Mirror {
    type Tag = Tag;

    fn open(&mut self, key: &Key) {
        self.key = key.as_str().to_owned();
    }

    fn tag(&self, claim: ClaimId) -> Tag {
        Tag { channel: channel(claim), identity: "who".to_owned() }
    }

    fn act(&mut self, now: u64, verb: &Wish) -> String {
        let term = |claim: &Claim| Value::Number(answers::term(claim).as_micros() as i64);
        let floor = |claim: &Claim| Value::Number(claim.floor.map_or(0, FencingToken::get) as i64);
        let spare = |claim: &Claim| Value::Number(claim.spare_tokens.into());
        let (verb, id, values) = match verb {
            Wish::Attempt(claim) => {
                let (mode, limit) = answers::mode_words(claim.mode);
                let tag = self.tag(claim.id);
                let mut values = vec![Value::Text(mode.to_owned()), Value::Number(limit.into())];
                values.extend([term(claim), spare(claim), floor(claim)]);
                values.push(Value::Truth(claim.if_busy == IfBusy::Leave));
                values.extend([Value::Text(tag.channel), Value::Text(tag.identity), BY_LEASE]);
                (Verb::Attempt, claim.id, values)
            }
            Wish::Renew(claim) => (Verb::Renew, claim.id, vec![term(claim), BY_LEASE]),
            Wish::Restamp(claim) => (Verb::Restamp, claim.id, vec![spare(claim), floor(claim), BY_LEASE]),
            Wish::Withdraw(claim, stray) => (
                Verb::Withdraw,
                claim.id,
                vec![term(claim), Value::Truth(*stray == Stray::Possible), BY_LEASE],
            ),
            Wish::Evict(claim) => (Verb::Evict, *claim, vec![]),
        };
        self.meet(verb, id);
        let names = [Value::Text(self.key.clone()), Value::Text(id.to_string())];
        let values: Vec<_> = names.into_iter().chain(values).chain([Value::Small(1_000)]).collect();
        let typed: Vec<_> = values.iter().map(Value::typed).collect();
        let line: String = self.runtime.block_on(async {
            let (set, text) = (format!("SET tenure.now = '{now}'"), self.verbs.text(verb));
            let (set, row) =
                tokio::join!(self.client.batch_execute(&set), self.client.query_typed_one(&text, &typed));
            set.unwrap();
            row.unwrap().get(0)
        });
        line.strip_prefix(&id.to_string()).unwrap().strip_prefix(' ').unwrap().to_owned()
    }

    fn told(&mut self) -> Vec<String> {
        // What a statement of ours has told comes before its answer.
        let mut told = Vec::new();
        while let Some(Some(message)) = self.told.recv().now_or_never() {
            told.push(message);
        }
        told
    }

    fn ledger(&mut self) -> Ledger<Tag> {
        let graves = "SELECT claim, evicted, ends_us FROM tenure_tombstones WHERE key = $1";
        let key = Value::Text(self.key.clone());
        let key = [key.typed()];
        let (rows, graves, broken) = self.runtime.block_on(async {
            let (rows, graves, broken) = tokio::join!(
                self.client.query_typed(&self.verbs.inspect, &key),
                self.client.query_typed(graves, &key),
                self.client.query_typed_one(BROKEN, &[])
            );
            (rows.unwrap(), graves.unwrap(), broken.unwrap().get::<_, i64>(0))
        });
        assert_eq!(broken, 0, "a hold lies beside a line, or a line where none may be");
        let mut ledger = record::read(&rows).unwrap().ledger;
        ledger.tombstones = graves
            .iter()
            .map(|row| Tombstone {
                claim: row.get::<_, String>(0).parse().unwrap(),
                evicted: row.get(1),
                expires: row.get::<_, i64>(2) as u64,
            })
            .collect();
        ledger
    }
}

#[test]
fn c073_c088_the_functions_keep_the_same_books_as_the_pure_ledger() {
    let server = PostgresServer::start(&[]).unwrap();
    let mirror = Mirror::new(&server);
    let met = Rc::clone(&mirror.met);
    compare(mirror, 200);
    for verb in [Verb::Attempt, Verb::Renew, Verb::Restamp, Verb::Withdraw, Verb::Evict] {
        for finds in FINDS {
            let both = format!("{verb:?}, {finds}");
            assert!(met.borrow().contains(&both), "nothing was shown of {both}");
        }
    }
}

#[test]
fn a_verb_that_was_prepared_on_another_connection_does_nothing() {
    let server = PostgresServer::start(&[]).unwrap();
    let mirror = Mirror::new(&server);
    let verbs = Verbs::of("public", Some(7));
    for (number, done) in [(8, false), (7, true)] {
        let claim = ClaimId::from_bits(1);
        let names = ["k".to_owned(), claim.to_string()].map(Value::Text);
        let more = [Value::Number(1_000_000), Value::Truth(true), BY_LEASE, Value::Small(1_000)];
        let values: Vec<_> = names.into_iter().chain(more).chain([Value::Number(number)]).collect();
        let typed: Vec<_> = values.iter().map(Value::typed).collect();
        let text = verbs.text(Verb::Withdraw);
        let asked = mirror.client.query_typed_one(&text, &typed);
        let set = mirror.client.batch_execute("SET tenure.now = '2000000000000000'");
        let (_, answer) = mirror.runtime.block_on(async { tokio::join!(set, asked) });
        assert_eq!(answer.unwrap().get::<_, Option<String>>(0).is_some(), done);
        assert_eq!(server.sql("SELECT count(*) FROM tenure_tombstones").unwrap() == "1", done);
    }
}
