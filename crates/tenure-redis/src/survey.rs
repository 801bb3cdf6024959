//! Which node serves which slot, as one node of a cluster sees it.

use std::ops::RangeInclusive;

use redis::Value;
use tenure_core::engine::Trouble;

use crate::options::Node;
use crate::reply::{self, Reply};
use crate::slots::Served;
use crate::trouble;

/// What `CLUSTER SLOTS` answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    /// In the order of their slots.
    ranges: Vec<Range>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    slots: RangeInclusive<u16>,
    primary: Node,
    id: String,
    replicas: Vec<Node>,
}

impl Survey {
    /// Reads an answer of the node at `host`, for a node may not know under which name it is reached. Gives the answer
    /// back when it makes no sense.
    pub(crate) fn read(answer: Value, host: &str) -> Result<Self, Value> {
        let ranges = match &answer {
            Value::Array(ranges) => {
                ranges.iter().map(|range| read_range(range, host)).collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        let Some(mut ranges) = ranges else { return Err(answer) };
        ranges.sort_by_key(|range| *range.slots.start());
        Ok(Self { ranges })
    }

    /// The primary that serves a slot, if any does.
    pub(crate) fn primary_of(&self, slot: u16) -> Option<&Node> {
        let next = self.ranges.partition_point(|range| *range.slots.start() <= slot);
        let range = self.ranges.get(next.checked_sub(1)?)?;
        range.slots.contains(&slot).then_some(&range.primary)
    }

    /// What the node with this id serves.
    pub(crate) fn served_by(&self, id: &str) -> Served {
        let own = self.ranges.iter().filter(|range| range.id == id);
        Served::Slots(own.map(|range| range.slots.clone()).collect())
    }

    /// All nodes that serve slots.
    pub(crate) fn primaries(&self) -> Vec<Node> {
        let mut nodes: Vec<Node> = Vec::new();
        for range in &self.ranges {
            if !nodes.contains(&range.primary) {
                nodes.push(range.primary.clone());
            }
        }
        nodes
    }

    /// All nodes that serve slots, or stand by to.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        let mut nodes = self.primaries();
        for replica in self.ranges.iter().flat_map(|range| &range.replicas) {
            if !nodes.contains(replica) {
                nodes.push(replica.clone());
            }
        }
        nodes
    }

    /// How many replicas the primary has that has fewest.
    pub(crate) fn replicas_min(&self) -> usize {
        self.ranges.iter().map(|range| range.replicas.len()).min().unwrap_or(0)
    }
}

/// `[first, last, primary, replica, …]`.
fn read_range(range: &Value, host: &str) -> Option<Range> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), primary, replicas @ ..] = parts.as_slice() else { return None };
    let slots = u16::try_from(*first).ok()?..=u16::try_from(*last).ok()?;
    let (primary, id) = read_node(primary, host)?;
    // A replica that nobody knows how to reach is none for us.
    let replicas = replicas.iter().filter_map(|replica| read_node(replica, host)).map(|(node, _)| node);
    Some(Range { slots, primary, id, replicas: replicas.collect() })
}

/// `[host, port, id, …]`. Without a host, it is the one that was asked.
fn read_node(node: &Value, asked: &str) -> Option<(Node, String)> {
    let Value::Array(parts) = node else { return None };
    let [host, Value::Int(port), id, ..] = parts.as_slice() else { return None };
    let host = host.text().filter(|host| !host.is_empty() && *host != "?").unwrap_or(asked);
    Some((Node::new(host, u16::try_from(*port).ok()?), id.text()?.to_owned()))
}

/// A server that was taken for a node of a cluster answered like none.
pub(crate) fn no_cluster(address: &str, answer: Value) -> Trouble {
    match answer {
        Value::ServerError(error) => {
            let text = reply::error_text(&error);
            if text.contains("cluster support disabled") {
                let message = format!("{address} is no node of a cluster: write redis://{address} ({text})");
                return Trouble::unsupported(message);
            }
            trouble::of_reply(&text)
        }
        other => Trouble::unsupported(format!("{address} describes its cluster as no Redis does: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn node(host: &str, port: i64, id: &str) -> Value {
        Value::Array(vec![text(host), Value::Int(port), text(id), Value::Array(Vec::new())])
    }

    fn answer() -> Value {
        let range = |first, last, nodes: Vec<Value>| {
            Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat())
        };
        Value::Array(vec![
            range(5_461, 16_383, vec![node("", 7_002, "b"), node("10.0.0.9", 7_004, "d")]),
            range(0, 5_459, vec![node("10.0.0.1", 7_001, "a"), node("?", 7_003, "c"), node("h", 7_005, "e")]),
        ])
    }

    #[test]
    fn c064_each_slot_has_the_primary_that_the_cluster_says_or_none() {
        let survey = Survey::read(answer(), "asked").unwrap();
        let (a, b) = (Node::new("10.0.0.1", 7_001), Node::new("asked", 7_002));
        for (slot, primary) in
            [(0, Some(&a)), (5_459, Some(&a)), (5_460, None), (5_461, Some(&b)), (16_383, Some(&b))]
        {
            assert_eq!(survey.primary_of(slot), primary, "{slot}");
        }
        assert_eq!(survey.primaries(), [a, b]);
        assert_eq!(survey.nodes().len(), 5);
        assert_eq!(survey.replicas_min(), 1);
        assert_eq!(survey.served_by("b"), Served::Slots(vec![5_461..=16_383]));
        assert_eq!(survey.served_by("d"), Served::Slots(Vec::new()), "a replica serves nothing");
    }

    #[test]
    fn an_answer_that_is_no_survey_is_refused() {
        for odd in [Value::Nil, Value::Array(vec![Value::Int(1)]), Value::Array(vec![node("h", 1, "a")])] {
            assert_eq!(Survey::read(odd.clone(), "h").unwrap_err(), odd);
        }
        assert_eq!(Survey::read(Value::Array(Vec::new()), "h").unwrap().primary_of(1), None);
    }
}
