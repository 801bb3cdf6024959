//! What operators see and do: a line, the keys in use, and taking a claim out.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tenure_core::engine::line::{self, Verdict};
use tenure_core::engine::{EngineError, Line, PlaceView, Standing, Withdrawn};
use tenure_core::{ClaimId, FencingToken, Key};

use crate::Shared;
use crate::contender::token;
use crate::link::Link;
use crate::ops::{self, Answers};
use crate::options::EtcdLayout;
use crate::record::{EVICTED, Place, View};

/// How many keys are read in one go when lines are listed.
const LIST_CHUNK: i64 = 1000;

/// How many leases are asked for at the same time.
const ASKED_AT_ONCE: usize = 32;

async fn read(shared: &Shared, link: &Link, key: &Key) -> Result<View, EngineError> {
    let read = vec![ops::list(&shared.names.line(key)), ops::get(&shared.names.mark(key))];
    let mut answers = Answers::from(link.txn(ops::txn(Vec::new(), read, Vec::new())).await?);
    let (places, mark) = (answers.found()?, answers.found()?);
    Ok(View::read(&shared.names, answers.revision, places, &mark)?)
}

pub(crate) async fn inspect(shared: &Arc<Shared>, key: &Key) -> Result<Line, EngineError> {
    let link = shared.links.link().await?;
    let view = read(shared, &link, key).await?;
    let holders = view.granted();
    let leases: Vec<_> = view.places.iter().take(holders).map(|place| place.lease).collect();
    let mut left = Vec::with_capacity(holders);
    for some in leases.chunks(ASKED_AT_ONCE) {
        left.extend(join_all(some.iter().map(|lease| link.left(*lease))).await);
    }
    let mut places = Vec::with_capacity(view.places.len());
    let mut left = left.into_iter();
    for (at, place) in view.places.iter().enumerate() {
        let standing = match left.next().filter(|_| at < holders) {
            Some(left) => holds(&view, place, left?)?,
            None => Standing::Waits,
        };
        places.push(PlaceView {
            claim: place.words.claim,
            mode: place.words.mode,
            standing,
            since: Duration::ZERO,
            identity: place.words.identity.clone(),
        });
    }
    Ok(Line { key: key.clone(), last_token: FencingToken::new(view.last_token()), places })
}

fn holds(view: &View, place: &Place, left: Duration) -> Result<Standing, EngineError> {
    // One that has not asked for its token yet will get a higher one.
    let number = place.token(view.mark).or(view.mark.token(place.changed)).unwrap_or(0);
    Ok(Standing::Holds { token: token(number)?, slot: place.words.slot.unwrap_or(0), expires_in: Some(left) })
}

pub(crate) async fn keys(
    shared: &Arc<Shared>,
    prefix: &str,
    after: Option<&Key>,
    limit: usize,
) -> Result<Vec<Key>, EngineError> {
    let link = shared.links.link().await?;
    let names = &shared.names;
    let mut span = names.lines(prefix, after);
    let mut found: Vec<Key> = Vec::new();
    // Ends with the range, of which each round reads a part.
    while found.len() < limit {
        let keys_only = names.layout() == EtcdLayout::Tenure;
        let read = ops::txn(Vec::new(), vec![ops::page(&span, LIST_CHUNK, keys_only)], Vec::new());
        let page = Answers::from(link.txn(read).await?).found()?;
        let Some(last) = page.last() else { break };
        span.first = [&last.key[..], &[0]].concat();
        for kv in &page {
            // In a layout that we share anything may be beside the lines; a place of others is named by its lease.
            let theirs = kv.lease != 0 && kv.key.ends_with(format!("/{:x}", kv.lease).as_bytes());
            if !keys_only && !theirs && !kv.value.starts_with(b"tenure 1 ") {
                continue;
            }
            let Some(key) = names.key_of(&kv.key) else { continue };
            if found.last() != Some(&key) && found.len() < limit && key.as_str().starts_with(prefix) {
                found.push(key);
            }
        }
        if page.len() < usize::try_from(LIST_CHUNK).unwrap_or(usize::MAX) {
            break;
        }
        if let Some(known) = found.last() {
            // Whatever else is in this line needs no look.
            span.first = span.first.max(names.line(known).end);
        }
    }
    Ok(found)
}

pub(crate) async fn evict(shared: &Arc<Shared>, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
    let link = shared.links.link().await?;
    let view = read(shared, &link, key).await?;
    let Some(me) = view.position(claim) else { return Ok(Withdrawn::Absent) };
    let place = &view.places[me];
    let term = i64::try_from(place.words.ttl.max(1)).unwrap_or(i64::MAX);
    let (lease, _) = link.grant(&link.turn().await?, term).await?;
    let (line, grave) = (shared.names.line(key), shared.names.grave(key, claim));
    let then = vec![
        ops::list(&line),
        ops::get(&shared.names.mark(key)),
        ops::delete(&place.key),
        ops::put(&grave, EVICTED.to_vec(), lease),
    ];
    let txn = ops::txn(vec![ops::created_at(&place.key, place.created)], then, Vec::new());
    let mut answers = Answers::from(link.txn(txn).await?);
    if !answers.succeeded {
        // It left by itself meanwhile. What was to be its tombstone's lease ends by itself, too.
        let _ = link.revoke(lease).await;
        return Ok(Withdrawn::Absent);
    }
    let (places, mark) = (answers.found()?, answers.found()?);
    let before = View::read(&shared.names, answers.revision, places, &mark)?;
    let held = before.position(claim).map(|me| line::verdict(&before.modes(), me) == Verdict::Granted);
    Ok(if held == Some(false) { Withdrawn::Waited } else { Withdrawn::Held })
}
