//! Which server is the primary, as its sentinels say, and learning that it is another one.
//!
//! All sentinels that are named are asked at once, and the answer with the highest epoch counts: one that was cut off
//! from the others may still name a primary of the past. Whoever is named is asked for its role when we connect.
//!
//! # Invariants
//! 1. A sentinel's word is no more than a hint where to connect: the server itself must say that it is a primary.
//! 2. A watch subscribes, then asks, then waits: no switch is missed between two of its connections.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, Value};
use tenure_core::engine::{EngineErrorKind, Trouble};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::dial;
use crate::options::{Address, Node, RedisOptions};
use crate::reply::{self, Reply};
use crate::trouble;

/// How long slower sentinels are waited for when one has answered.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// How long a watch waits before it turns to the next sentinel.
const PAUSE: Duration = Duration::from_millis(250);

/// What is told when another server has become the primary.
const SWITCH: &str = "+switch-master";

/// What sentinels say of a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Primary {
    pub(crate) node: Node,
    epoch: u64,
}

/// The sentinels of one primary.
#[derive(Clone, Debug)]
pub(crate) struct Sentinels {
    options: Arc<RedisOptions>,
    nodes: Vec<Node>,
    name: String,
}

impl Sentinels {
    /// Those that the options name, if they do.
    pub(crate) fn of(options: &RedisOptions) -> Option<Self> {
        let Address::Sentinel { sentinels, primary, user, password } = &options.address else { return None };
        // A sentinel has a login and no databases of its own; over TLS, it is vouched for by the same authority.
        let own = RedisOptions {
            user: user.clone(),
            password: password.clone(),
            database: 0,
            acks: 0,
            ..options.clone()
        };
        Some(Self { options: Arc::new(own), nodes: sentinels.clone(), name: primary.clone() })
    }

    /// The primary of the highest epoch that any of them names.
    pub(crate) async fn find(&self) -> Result<Primary, Trouble> {
        let mut asked = JoinSet::new();
        for node in &self.nodes {
            let (this, node) = (self.clone(), node.clone());
            asked.spawn(async move { this.ask(&node).await });
        }
        let (mut found, mut trouble) = (None::<Primary>, None::<Trouble>);
        let mut patience = self.options.connect_timeout * 2;
        while let Ok(Some(answer)) = tokio::time::timeout(patience, asked.join_next()).await {
            match answer {
                Ok(Ok(primary)) => {
                    patience = STRAGGLERS;
                    if found.as_ref().is_none_or(|found| found.epoch < primary.epoch) {
                        found = Some(primary);
                    }
                }
                // What a sentinel refuses tells more than that another one is away.
                Ok(Err(refused)) if trouble.as_ref().is_none_or(is_absence) => trouble = Some(refused),
                _ => {}
            }
        }
        found.ok_or_else(|| match trouble {
            Some(refusal) if !is_absence(&refusal) => refusal,
            other => {
                let last = other.map_or_else(|| "none answers".to_owned(), |trouble| trouble.message);
                let address = dial_address(&self.nodes);
                Trouble::away(format!("no sentinel of {address} can be asked for {:?}: {last}", self.name))
            }
        })
    }

    async fn ask(&self, node: &Node) -> Result<Primary, Trouble> {
        let deaf = None::<mpsc::UnboundedSender<PushInfo>>;
        let [address, master] = self.questions();
        let asked = dial::ask(&self.options.of_node(node), &[&address, &master], deaf).await;
        let (_connection, mut answers) = asked?;
        self.read(node, &mut answers)
    }

    /// Where the primary is, and of which epoch that is: amid a failover, only the first is of the new one.
    fn questions(&self) -> [[&str; 3]; 2] {
        [["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.name], ["SENTINEL", "MASTER", &self.name]]
    }

    fn read(&self, node: &Node, answers: &mut Vec<Value>) -> Result<Primary, Trouble> {
        let name = &self.name;
        // There are as many answers as questions, and the last two are these.
        let (master, address) = (answers.pop().unwrap_or(Value::Nil), answers.pop().unwrap_or(Value::Nil));
        if let Value::ServerError(error) = master {
            let text = reply::error_text(&error);
            if text.contains("No such master") {
                let message =
                    format!("the sentinel {node} watches no primary called {name:?}: change the name");
                return Err(Trouble::unsupported(message));
            }
            if text.contains("unknown command") {
                let message =
                    format!("{node} is no sentinel: name sentinels, or write redis://{node} ({text})");
                return Err(Trouble::unsupported(message));
            }
            return Err(trouble::of_reply(&text));
        }
        let fields = master.list().unwrap_or_default();
        let texts: Vec<_> = fields.iter().map(|field| field.text().unwrap_or_default()).collect();
        let field = |name: &str| texts.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
        let address = address.list().unwrap_or_default();
        let primary = || {
            let [host, port] = &address[..] else { return None };
            let node = Node::new(host.text()?, port.text()?.parse().ok()?);
            Some(Primary { node, epoch: field("config-epoch")?.parse().ok()? })
        };
        primary().ok_or_else(|| Trouble::unsupported(format!("{node} answers like no sentinel")))
    }

    /// Returns when a sentinel has said that another server than `known` is the primary now.
    ///
    /// Lasts as long as the connection for which it watches, and so has no other limit.
    pub(crate) async fn watch(self, known: Primary) {
        let mut turn: usize = rand::random::<u16>().into();
        loop {
            let node = &self.nodes[turn % self.nodes.len()];
            if self.watch_by(node, &known).await {
                return;
            }
            turn += 1;
            tokio::time::sleep(PAUSE.mul_f64(0.5 + rand::random::<f64>())).await;
        }
    }

    /// Whether the sentinel has told of another primary; otherwise it cannot be listened to, or not any more.
    async fn watch_by(&self, node: &Node, known: &Primary) -> bool {
        let (pushes, mut told) = mpsc::unbounded_channel();
        let [address, master] = self.questions();
        let questions: [&[&str]; 3] = [&["SUBSCRIBE", SWITCH], &address, &master];
        let asked = dial::ask(&self.options.of_node(node), &questions, Some(pushes)).await;
        let Ok((connection, mut answers)) = asked else { return false };
        match self.read(node, &mut answers) {
            Ok(now) if now.epoch >= known.epoch && now.node != known.node => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
        self.listen(&connection, &mut told, known).await
    }

    /// As [`Self::watch_by`], on a connection that is kept meanwhile.
    async fn listen(
        &self,
        _connection: &MultiplexedConnection,
        told: &mut mpsc::UnboundedReceiver<PushInfo>,
        known: &Primary,
    ) -> bool {
        while let Some(push) = told.recv().await {
            match push.kind {
                PushKind::Disconnection => return false,
                PushKind::Message => {
                    let switch = push.data.get(1).and_then(Reply::text).unwrap_or_default();
                    if self.is_switch_from(known, switch) {
                        return true;
                    }
                }
                _ => {}
            }
        }
        false
    }

    /// `<name> <old ip> <old port> <new ip> <new port>`. A name may have blanks.
    fn is_switch_from(&self, known: &Primary, switch: &str) -> bool {
        let words = switch.strip_prefix(self.name.as_str()).map(|rest| rest.split(' ').collect::<Vec<_>>());
        match words.as_deref() {
            Some(["", _, _, host, port]) => known.node.host != *host || known.node.port.to_string() != *port,
            _ => false,
        }
    }
}

fn is_absence(trouble: &Trouble) -> bool {
    trouble.kind == EngineErrorKind::Unreachable
}

fn dial_address(nodes: &[Node]) -> String {
    nodes.iter().map(Node::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_of_our_primary_and_to_another_server() {
        let options = RedisOptions::sentinel("a b", [("h", 1)]);
        let sentinels = Sentinels::of(&options).unwrap();
        let known = Primary { node: Node::new("10.0.0.1", 7), epoch: 1 };
        for (switch, is) in [
            ("a b 10.0.0.1 7 10.0.0.2 7", true),
            ("a b 10.0.0.1 7 10.0.0.1 8", true),
            ("a b 10.0.0.2 7 10.0.0.1 7", false),
            ("a bc 10.0.0.1 7 10.0.0.2 7", false),
            ("a 10.0.0.1 7 10.0.0.2 7", false),
            ("", false),
        ] {
            assert_eq!(sentinels.is_switch_from(&known, switch), is, "{switch}");
        }
    }
}
