//! What operators see: one line, made of the lines of all nodes.
//!
//! A place on less than a majority is no place: it is on its way in or out. Nodes that do not answer might have any.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::engine::{Engine, EngineError, Line, PlaceView, Standing};
use tenure_core::{ClaimId, FencingToken, Key};

use super::nodes::{Node, Nodes};
use super::tally::{self, Vote};

/// The line of a key.
pub(super) async fn inspect(nodes: Arc<Nodes>, key: Key) -> Result<Line, EngineError> {
    let ask = |_, node: Arc<Node>| {
        let key = key.clone();
        async move { node.redis.inspect(&key).await }
    };
    let votes = nodes.ask(|_| true, nodes.leisure(), ask, |_| false).await;
    let lines: Vec<_> = votes.iter().filter_map(Vote::said).collect();
    if lines.len() < nodes.quorum() {
        return Err(tally::too_few(&votes, &nodes.addresses));
    }
    Ok(merge(key, &lines, nodes.len()))
}

/// What is known of one claim.
#[derive(Default)]
struct Seen<'a> {
    views: Vec<&'a PlaceView>,
    /// Its indices in the lines, added up.
    ranks: usize,
}

fn merge(key: Key, lines: &[&Line], nodes: usize) -> Line {
    let (quorum, silent) = (tally::quorum(nodes), nodes - lines.len());
    let mut claims: BTreeMap<ClaimId, Seen<'_>> = BTreeMap::new();
    for (rank, view) in lines.iter().flat_map(|line| line.places.iter().enumerate()) {
        let seen = claims.entry(view.claim).or_default();
        seen.views.push(view);
        seen.ranks += rank;
    }
    let is_place = |seen: &Seen<'_>| seen.views.len() + silent >= quorum;
    let mut places: Vec<_> = claims.into_values().filter(is_place).collect();
    let holds = |seen: &Seen<'_>| seen.views.iter().filter(|view| view.standing != Standing::Waits).count();
    let holds = |seen: &Seen<'_>| holds(seen) > 0 && holds(seen) + silent >= quorum;
    places.sort_by_key(|seen| (!holds(seen), seen.ranks * 1_000 / seen.views.len()));
    let places = places.iter().map(|seen| view_of(seen, holds(seen), quorum)).collect();
    // What a majority remembers: a single node may know of a token that nobody was given.
    let mut last: Vec<_> = lines.iter().map(|line| line.last_token).collect();
    last.sort_unstable_by(|a, b| b.cmp(a));
    Line { key, last_token: last.get(quorum - 1).copied().flatten(), places }
}

fn view_of(seen: &Seen<'_>, holds: bool, quorum: usize) -> PlaceView {
    // There is a view for each claim that was seen.
    let first = seen.views[0];
    let held = seen.views.iter().filter_map(|view| match view.standing {
        Standing::Holds { token, expires_in, .. } => Some((token, expires_in)),
        Standing::Waits => None,
    });
    let held: Vec<_> = held.collect();
    let standing = match agreed(held.iter().map(|(token, _)| *token)) {
        Some(token) if holds => Standing::Holds {
            token,
            slot: 0,
            expires_in: nth_longest(held.iter().map(|(_, left)| *left), quorum),
        },
        _ => Standing::Waits,
    };
    PlaceView {
        claim: first.claim,
        mode: first.mode,
        standing,
        since: seen.views.iter().map(|view| view.since).min().unwrap_or_default(),
        identity: seen.views.iter().find_map(|view| view.identity.clone()),
    }
}

/// The token that most nodes have; the higher of two.
fn agreed(tokens: impl Iterator<Item = FencingToken>) -> Option<FencingToken> {
    let mut counts: BTreeMap<FencingToken, usize> = BTreeMap::new();
    tokens.for_each(|token| *counts.entry(token).or_default() += 1);
    counts.into_iter().max_by_key(|(token, count)| (*count, *token)).map(|(token, _)| token)
}

/// How long a majority lasts: until only less than `quorum` nodes are left.
fn nth_longest(left: impl Iterator<Item = Option<Duration>>, quorum: usize) -> Option<Duration> {
    let mut left: Vec<_> = left.collect();
    left.sort_unstable_by(|a, b| b.cmp(a));
    left.get(quorum - 1).or(left.last()).copied().flatten()
}

/// The keys in use, in order.
pub(super) async fn keys(
    nodes: Arc<Nodes>,
    prefix: String,
    mut after: Option<Key>,
    limit: usize,
) -> Result<Vec<Key>, EngineError> {
    let mut found = Vec::new();
    // Each turn but the last goes forward by a page.
    while found.len() < limit {
        let ask = |_, node: Arc<Node>| {
            let (prefix, after) = (prefix.clone(), after.clone());
            async move { node.redis.keys(&prefix, after.as_ref(), limit).await }
        };
        let votes = nodes.ask(|_| true, nodes.leisure() * 5, ask, |_| false).await;
        let pages: Vec<_> = votes.iter().filter_map(Vote::said).collect();
        if pages.len() < nodes.quorum() {
            return Err(tally::too_few(&votes, &nodes.addresses));
        }
        let (keys, upto) = common(&pages, nodes.len(), limit);
        found.extend(keys);
        match upto {
            Some(upto) => after = Some(upto),
            None => break,
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// The keys that a majority has, and up to where the pages tell all if they do not tell all there is.
fn common(pages: &[&Vec<Key>], nodes: usize, limit: usize) -> (Vec<Key>, Option<Key>) {
    let silent = nodes - pages.len();
    let upto = pages.iter().filter(|page| page.len() >= limit).filter_map(|page| page.last()).min().cloned();
    let mut counts: BTreeMap<&Key, usize> = BTreeMap::new();
    for key in pages.iter().flat_map(|page| page.iter()) {
        *counts.entry(key).or_default() += 1;
    }
    let in_use = counts.into_iter().filter(|(key, count)| {
        count + silent >= tally::quorum(nodes) && upto.as_ref().is_none_or(|upto| *key <= upto)
    });
    (in_use.map(|(key, _)| key.clone()).collect(), upto)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_core::Mode;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn place(claim: u128, token: Option<u64>) -> PlaceView {
        let standing = token.map_or(Standing::Waits, |token| Standing::Holds {
            token: FencingToken::new(token).unwrap(),
            slot: 1,
            expires_in: Some(Duration::from_secs(token)),
        });
        let claim = ClaimId::from_bits(claim);
        PlaceView { claim, mode: Mode::Exclusive, standing, since: Duration::ZERO, identity: None }
    }

    fn line(last: u64, places: Vec<PlaceView>) -> Line {
        Line { key: key("k"), last_token: FencingToken::new(last), places }
    }

    #[test]
    fn a_place_on_a_minority_is_no_place_and_a_hold_on_a_minority_no_hold() {
        let lines = [
            line(7, vec![place(1, Some(7)), place(2, None)]),
            line(7, vec![place(1, Some(7)), place(2, None)]),
            line(9, vec![place(2, Some(9)), place(3, None)]),
        ];
        let merged = merge(key("k"), &lines.each_ref(), 3);
        let shown: Vec<_> = merged.places.iter().map(|place| (place.claim.bits(), place.standing)).collect();
        let [(1, Standing::Holds { token, slot: 0, expires_in }), (2, Standing::Waits)] = shown[..] else {
            panic!("{shown:?}")
        };
        assert_eq!((token.get(), expires_in), (7, Some(Duration::from_secs(7))));
        assert_eq!(merged.last_token, FencingToken::new(7));
        // What a silent node may have, it may have.
        let merged = merge(key("k"), &[&lines[0], &lines[2]], 3);
        assert_eq!(merged.places.len(), 3);
    }

    #[test]
    fn keys_are_those_of_a_majority_and_no_further_than_all_pages_go() {
        let page = |names: &[&str]| names.iter().map(|name| key(name)).collect::<Vec<_>>();
        let pages = [page(&["a", "b"]), page(&["b", "c"]), page(&["a", "b"])];
        let (keys, upto) = common(&pages.each_ref(), 3, 2);
        assert_eq!((keys, upto), (page(&["a", "b"]), Some(key("b"))));
        let (keys, upto) = common(&pages.each_ref(), 3, 3);
        assert_eq!((keys, upto), (page(&["a", "b"]), None));
    }
}
