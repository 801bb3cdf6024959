//! What operators ask for: to see a line, to list the keys, to take a place out.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tenure_core::engine::{EngineError, Line, PlaceView, Standing, Trouble, Withdrawn, line};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{ClaimId, FencingToken, Key};
use zookeeper_client::{Error, MultiReadResult, Stat};

use crate::layout::{self, Entry, Layout};
use crate::record::Card;
use crate::session::Session;
use crate::{Shared, trouble};

/// How many nodes are read in one go.
const CHUNK: usize = 128;

/// How deep the paths of keys are followed.
const DEPTH_MAX: usize = 32;

/// A line as it is at the leader, with the folder's stat; empty when there is no folder.
async fn read(
    shared: &Shared,
    session: &Session,
    folder: &str,
) -> Result<(Vec<Entry>, Option<Stat>), Trouble> {
    let (synced, listed) = (session.client.sync(folder), session.client.get_children(folder));
    session.answer(synced).await.map_err(|error| trouble::of(&error).without_effect())?;
    match session.answer(listed).await {
        Ok((children, stat)) => Ok((shared.layout.line(folder, &children)?, Some(stat))),
        Err(Error::NoNode) => Ok((Vec::new(), None)),
        Err(error) => Err(trouble::of(&error).without_effect()),
    }
}

async fn session(shared: &Shared) -> Result<Arc<Session>, Trouble> {
    let session = shared.links.link().await?;
    session.ready().await?;
    Ok(session)
}

pub(crate) async fn inspect(shared: &Shared, key: &Key) -> Result<Line, EngineError> {
    let session = session(shared).await?;
    let folder = shared.layout.folder(key)?;
    let (line, parent) = read(shared, &session, &folder).await?;
    let holders = line::granted(line.iter().map(|entry| entry.mode));
    let mut places = Vec::with_capacity(line.len());
    for (chunk, entries) in line.chunks(CHUNK).enumerate() {
        let mut reader = session.client.new_multi_reader();
        for entry in entries {
            let added = reader.add_get_data(&format!("{folder}/{}", entry.name));
            added.map_err(|error| trouble::of(&error).without_effect())?;
        }
        let answers = session.answer(reader.commit()).await;
        let answers = answers.map_err(|error| trouble::of(&error).without_effect())?;
        for (at, (entry, answer)) in entries.iter().zip(answers).enumerate() {
            // One that has left meanwhile is not shown.
            let MultiReadResult::Data { data, stat } = answer else { continue };
            places.push(view(entry, &data, &stat, chunk * CHUNK + at < holders));
        }
    }
    let held = places.iter().filter_map(|place| match place.standing {
        Standing::Holds { token, .. } => Some(token),
        Standing::Waits => None,
    });
    // Of what has left, the folder remembers when it did, which was after its last token.
    let left = || parent.and_then(|parent| token(parent.pzxid));
    Ok(Line { key: key.clone(), last_token: held.max().or_else(left), places })
}

fn token(zxid: i64) -> Option<FencingToken> {
    FencingToken::new(u64::try_from(zxid).ok()?)
}

fn view(entry: &Entry, data: &[u8], stat: &Stat, holds: bool) -> PlaceView {
    let card = Card::read(data);
    let since = if holds { stat.mtime } else { stat.ctime };
    // The ensemble's time against ours, for people alone; nothing is decided by it.
    let since = SystemClock.wall_micros() / 1_000
        - u64::try_from(since).unwrap_or(0).min(SystemClock.wall_micros() / 1_000);
    let timeout = card.as_ref().map(|card| Duration::from_millis(card.session_ms));
    let standing = match token(stat.mzxid).filter(|_| holds) {
        Some(token) => Standing::Holds {
            token,
            slot: card.as_ref().and_then(|card| card.holds).unwrap_or(0),
            expires_in: timeout,
        },
        None => Standing::Waits,
    };
    PlaceView {
        claim: entry.claim,
        mode: entry.mode,
        standing,
        since: Duration::from_millis(since),
        identity: card.map(|card| card.identity()),
    }
}

pub(crate) async fn evict(shared: &Shared, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
    let session = session(shared).await?;
    let folder = shared.layout.folder(key)?;
    let (line, _) = read(shared, &session, &folder).await?;
    let holders = line::granted(line.iter().map(|entry| entry.mode));
    let Some(at) = line.iter().position(|entry| entry.claim == claim) else { return Ok(Withdrawn::Absent) };
    let path = format!("{folder}/{}", line[at].name);
    match session.answer(session.client.delete(&path, None)).await {
        Ok(()) if at < holders => Ok(Withdrawn::Held),
        Ok(()) => Ok(Withdrawn::Waited),
        Err(Error::NoNode) => Ok(Withdrawn::Absent),
        Err(error) => Err(trouble::of(&error).into()),
    }
}

pub(crate) async fn keys(
    shared: &Shared,
    prefix: &str,
    after: Option<&Key>,
    limit: usize,
) -> Result<Vec<Key>, EngineError> {
    let session = session(shared).await?;
    let failed = |error: Error| trouble::of(&error).without_effect();
    let root = if shared.layout == Layout::Tenure { layout::ROOT } else { "/" };
    session.answer(session.client.sync(root)).await.map_err(failed)?;
    let mut found = match shared.layout {
        Layout::Tenure => match session.answer(session.client.list_children(root)).await {
            Ok(folders) => folders.iter().filter_map(|name| Layout::key_of(name)).collect(),
            Err(Error::NoNode) => Vec::new(),
            Err(error) => return Err(failed(error).into()),
        },
        Layout::Curator | Layout::CuratorReadWrite => paths(&session).await?,
    };
    found.retain(|key: &Key| key.as_str().starts_with(prefix) && after.is_none_or(|after| key > after));
    found.sort_unstable();
    let mut used = Vec::new();
    for chunk in found.chunks(CHUNK) {
        let folders: Vec<_> = chunk.iter().map(|key| shared.layout.folder(key)).collect::<Result<_, _>>()?;
        let stats =
            join_all(folders.iter().map(|folder| session.answer(session.client.check_stat(folder)))).await;
        for (key, stat) in chunk.iter().zip(stats) {
            if used.len() < limit && stat.map_err(failed)?.is_some_and(|stat| stat.num_children > 0) {
                used.push(key.clone());
            }
        }
        if used.len() >= limit {
            break;
        }
    }
    Ok(used)
}

/// All paths below the chroot in which there are places.
async fn paths(session: &Session) -> Result<Vec<Key>, Trouble> {
    let mut found = Vec::new();
    let mut ahead = vec![String::new()];
    // Ends when all nodes have been seen, none of which is within itself.
    while let Some(path) = ahead.pop() {
        let listed = session.client.list_children(if path.is_empty() { "/" } else { &path });
        let children = match session.answer(listed).await {
            Ok(children) => children,
            // It is gone, or none of ours.
            Err(Error::NoNode | Error::NoAuth) => continue,
            Err(error) => return Err(trouble::of(&error).without_effect()),
        };
        if !Layout::Curator.line_among(&children).is_empty()
            && let Some(key) = path.strip_prefix('/').and_then(|path| Key::new(path).ok())
        {
            found.push(key);
        }
        let folders = children.iter().filter(|child| Layout::Curator.entry(child).is_none());
        let folders = folders.map(|child| format!("{path}/{child}")).filter(|path| path != "/zookeeper");
        ahead.extend(folders.filter(|path| path.matches('/').count() <= DEPTH_MAX));
    }
    Ok(found)
}
