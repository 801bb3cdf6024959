//! The procedures against the pure ledger: the same verbs at the same times give the same answers, the same offers and
//! the same line.
//!
//! The procedures run on a real server, with one change: the time is given to them.

use sqlx::mysql::MySqlConnection;
use sqlx::{Row, query};
use tenure_conformance::mirror::{Books, Verb, compare};
use tenure_core::engine::ledger::Ledger;
use tenure_core::{ClaimId, Key};
use tenure_servers::mariadb::MariaDbServer;
use tokio::runtime::Runtime;

use crate::contender::{self, RENEW, RESTAMP, WITHDRAW};
use crate::link::{Value, bind_all};
use crate::options::MySqlOptions;
use crate::record::{self, Tag};
use crate::{EVICT, login, schema};

struct Mirror {
    runtime: Runtime,
    connection: MySqlConnection,
    key: Vec<u8>,
    told: Vec<String>,
}

impl Mirror {
    fn new(server: &MariaDbServer) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = MySqlOptions::from_url(&server.url("tenure")).unwrap();
        let connection = runtime.block_on(async {
            let mut connection = login::connect(&options).await.unwrap();
            schema::run(&mut connection, "@tenure_now").await.unwrap();
            connection
        });
        Self { runtime, connection, key: Vec::new(), told: Vec::new() }
    }
}

impl Books for Mirror {
    type Tag = Tag;

    fn open(&mut self, key: &Key) {
        self.key = key.as_str().as_bytes().to_vec();
    }

    fn tag(&self, claim: ClaimId) -> Tag {
        Tag { channel: claim.bits() as i64, identity: b"me".to_vec() }
    }

    fn act(&mut self, now: u64, verb: &Verb) -> String {
        let tag = |claim: ClaimId| self.tag(claim);
        let (statement, id, more) = match verb {
            Verb::Attempt(claim) => {
                let tag = tag(claim.id);
                let mut values = contender::attempt_values(claim, tag.channel, 0);
                values.pop();
                values.push(Value::Bytes(tag.identity));
                (contender::ATTEMPT, claim.id, values)
            }
            Verb::Renew(claim) => (RENEW, claim.id, contender::renew_values(claim, 0)),
            Verb::Restamp(claim) => (RESTAMP, claim.id, contender::restamp_values(claim, 0)),
            Verb::Withdraw(claim, stray) => (WITHDRAW, claim.id, contender::withdraw_values(claim, *stray)),
            Verb::Evict(claim) => (EVICT, *claim, vec![]),
        };
        let values = [vec![Value::Bytes(self.key.clone()), Value::Text(id.to_string())], more].concat();
        let row = self.runtime.block_on(async {
            let set = query("SET @tenure_now = ?").bind(now as i64).execute(&mut self.connection).await;
            set.unwrap();
            bind_all(statement, &values).fetch_one(&mut self.connection).await.unwrap()
        });
        let told: Option<String> = row.get(1);
        self.told.extend(told.iter().flat_map(|told| told.split(',')).map(str::to_owned));
        let line: String = row.get(0);
        line.strip_prefix(&id.to_string()).unwrap().strip_prefix(' ').unwrap().to_owned()
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }

    fn ledger(&mut self) -> Ledger<Tag> {
        let read = query(record::READ).bind(&self.key);
        let rows = self.runtime.block_on(read.fetch_all(&mut self.connection)).unwrap();
        record::read(&rows).unwrap().0
    }
}

#[test]
fn c073_the_procedures_keep_the_same_books_as_the_pure_ledger() {
    let server = MariaDbServer::start(&["--innodb-flush-log-at-trx-commit=0"]).unwrap();
    compare(Mirror::new(&server), 150);
}
