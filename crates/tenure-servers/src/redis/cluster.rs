//! A cluster of three primaries with a replica each.

use std::time::Duration;

use super::{RedisServer, together};
use crate::{ServerError, free_ports, until};

/// How many slots every cluster has.
const SLOTS: usize = 16_384;

/// How many of the nodes begin as primaries; as many begin as their replicas.
const PRIMARIES: usize = 3;

/// A cluster of three primaries with a replica each.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
    ids: Vec<String>,
}

impl RedisCluster {
    /// Starts it. A node that does not answer the others for `node_timeout` is replaced. The servers have these options
    /// of the command line besides.
    ///
    /// # Errors
    /// When a server is not installed or does not start, or they do not find together.
    pub fn start(node_timeout: Duration, options: &[&str]) -> Result<Self, ServerError> {
        let ports = free_ports::<{ 2 * PRIMARIES }>()?;
        let nodes = together(2 * PRIMARIES, |at| {
            let port = ports[at].to_string();
            let of_cluster = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &port,
                "--cluster-node-timeout",
                // They find together the sooner the less patient they are.
                "1500",
                "--cluster-announce-ip",
                "127.0.0.1",
                "--cluster-allow-replica-migration",
                "no",
                // A replica that has heard nothing yet is not counted as one.
                "--repl-ping-replica-period",
                "1",
                "--repl-diskless-sync-delay",
                "0",
            ];
            RedisServer::start(&[options, &of_cluster].concat())
        })?;
        let cluster = Self { ids: nodes.iter().map(id_of).collect(), nodes };
        let patience = format!("CONFIG SET cluster-node-timeout {}", node_timeout.as_millis());
        if cluster.join(&ports) && cluster.nodes.iter().all(|node| node.say(&patience).is_ok()) {
            return Ok(cluster);
        }
        let said = cluster.nodes.iter().map(|node| node.process().said()).collect();
        Err(ServerError::Silent { program: "redis cluster".to_owned(), said })
    }

    /// Makes one cluster of the nodes; false when they do not find together.
    fn join(&self, buses: &[u16]) -> bool {
        let each = SLOTS.div_ceil(PRIMARIES);
        for (at, node) in self.nodes.iter().enumerate() {
            let mut orders = vec![format!("CLUSTER SET-CONFIG-EPOCH {}", at + 1)];
            if at < PRIMARIES {
                let last = (each * (at + 1)).min(SLOTS) - 1;
                orders.push(format!("CLUSTER ADDSLOTSRANGE {} {last}", each * at));
            }
            for (other, bus) in self.nodes[..at].iter().zip(buses) {
                orders.push(format!("CLUSTER MEET 127.0.0.1 {} {bus}", other.port()));
            }
            let orders: Vec<Vec<&str>> = orders.iter().map(|order| order.split(' ').collect()).collect();
            if node.say_all(&orders).is_ok_and(|replies| replies.contains('-')) {
                return false;
            }
        }
        let says = |node: &RedisServer, command: &str, what: &str| {
            node.say(command).is_ok_and(|reply| reply.contains(what))
        };
        let met = until(|| {
            let all = |node: &RedisServer| node.say("CLUSTER NODES").unwrap_or_default();
            self.nodes.iter().map(all).all(|nodes| self.ids.iter().all(|id| nodes.contains(id)))
        });
        let followed = (PRIMARIES..2 * PRIMARIES).all(|at| {
            let order = format!("CLUSTER REPLICATE {}", self.ids[at - PRIMARIES]);
            until(|| says(&self.nodes[at], &order, "+OK"))
        });
        met && followed
            && until(|| {
                self.nodes.iter().all(|node| says(node, "CLUSTER INFO", "cluster_state:ok"))
                    && self.nodes[PRIMARIES..].iter().all(|node| says(node, "INFO", "master_link_status:up"))
                    && self.nodes.iter().all(|node| {
                        let slots = node.say("CLUSTER SLOTS").unwrap_or_default();
                        self.ids.iter().all(|id| slots.contains(id))
                    })
            })
    }

    /// Its address as a URL, by all its nodes.
    #[must_use]
    pub fn url(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// The nodes, in the order in which they were started: first three primaries, then a replica of each.
    pub fn nodes(&mut self) -> &mut [RedisServer] {
        &mut self.nodes
    }

    /// The slot of a key.
    #[must_use]
    pub fn slot_of(&self, key: &str) -> u16 {
        let living =
            self.nodes.iter().filter_map(|node| node.say_all(&[vec!["CLUSTER", "KEYSLOT", key]]).ok());
        let mut slots = living.filter_map(|reply| reply.trim_start_matches(':').trim_end().parse().ok());
        slots.next().unwrap_or_default()
    }

    /// Which node all nodes that answer say is the primary of a slot, if they agree and it says so as well.
    #[must_use]
    pub fn primary_of(&self, slot: u16) -> Option<usize> {
        let mut named: Vec<_> = self.nodes.iter().filter_map(|node| self.named_by(node, slot)).collect();
        named.dedup();
        let [primary] = named[..] else { return None };
        self.nodes[primary].is_primary().then_some(primary)
    }

    /// Which node a node says is the primary of a slot.
    fn named_by(&self, node: &RedisServer, slot: u16) -> Option<usize> {
        let nodes = node.say("CLUSTER NODES").ok()?;
        let line = nodes.lines().find(|line| {
            let mut words = line.split(' ').skip(8);
            words.any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                first.parse().is_ok_and(|first: u16| first <= slot)
                    && last.parse().is_ok_and(|last: u16| slot <= last)
            })
        });
        let id = line?.split(' ').next()?;
        self.ids.iter().position(|known| known == id)
    }

    /// A replica of the node, which follows it closely.
    #[must_use]
    pub fn replica_of(&self, primary: usize) -> Option<usize> {
        let port = format!("master_port:{}\r\n", self.nodes[primary].port());
        let follows = |node: &RedisServer| {
            node.say("INFO replication")
                .is_ok_and(|info| info.contains(&port) && info.contains("master_link_status:up"))
        };
        self.nodes.iter().position(follows)
    }

    /// Makes a replica take over from its primary without asking anybody, and waits until all agree.
    pub fn take_over(&self, replica: usize, slot: u16) -> bool {
        let taken = self.nodes[replica].say("CLUSTER FAILOVER TAKEOVER");
        taken.is_ok_and(|reply| reply.starts_with("+OK")) && until(|| self.primary_of(slot) == Some(replica))
    }

    /// Begins to move a slot: its keys may now be on either node, as they are moved one by one.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) -> bool {
        let import = format!("CLUSTER SETSLOT {slot} IMPORTING {}", self.ids[from]);
        let migrate = format!("CLUSTER SETSLOT {slot} MIGRATING {}", self.ids[to]);
        let ok = |reply: std::io::Result<String>| reply.is_ok_and(|reply| reply == "+OK\r\n");
        ok(self.nodes[to].say(&import)) && ok(self.nodes[from].say(&migrate))
    }

    /// Moves the keys of a slot, as many as there are.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize) -> bool {
        let (slot, port) = (slot.to_string(), self.nodes[to].port().to_string());
        until(|| {
            let found =
                self.nodes[from].say(&format!("CLUSTER GETKEYSINSLOT {slot} 100")).unwrap_or_default();
            let keys: Vec<_> = found.lines().skip(1).filter(|line| !line.starts_with('$')).collect();
            for key in &keys {
                let migrate = ["MIGRATE", "127.0.0.1", &port, key, "0", "5000"].to_vec();
                // One that is gone by now needs no moving.
                let _ = self.nodes[from].say_all(&[migrate]);
            }
            keys.is_empty() && found.starts_with("*0")
        })
    }

    /// Ends a move: the slot is the other node's.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) -> bool {
        let order = format!("CLUSTER SETSLOT {slot} NODE {}", self.ids[to]);
        let told = [to, from].map(|node| self.nodes[node].say(&order));
        told.into_iter().all(|reply| reply.is_ok_and(|reply| reply == "+OK\r\n"))
            && until(|| self.primary_of(slot) == Some(to))
    }
}

fn id_of(node: &RedisServer) -> String {
    let reply = node.say("CLUSTER MYID").unwrap_or_default();
    reply.lines().nth(1).unwrap_or_default().to_owned()
}
