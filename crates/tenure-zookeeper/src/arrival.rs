//! How a claim gets into the line, and what the line means for it.

use std::sync::Arc;

use tenure_core::engine::ledger::LimitDiffers;
use tenure_core::engine::line::{self, Verdict};
use tenure_core::engine::{Attempt, Effect, EngineError, Gone, Trouble};
use tenure_core::{IfBusy, Mode};
use zookeeper_client::{CreateMode, Error};

use crate::layout::Entry;
use crate::place::{Node, Place, Standing, State, leave, until_heard, waiting};
use crate::session::Session;
use crate::solo::{Alone, Made};
use crate::turn::Turn;
use crate::watching::{Ahead, Watching};
use crate::{Shared, trouble};

/// How often a folder that vanishes under a new place is made again.
const TRIES: usize = 8;

impl Place {
    /// Makes the node, and looks at the line in the same round trip, or not at all where the answer says enough.
    pub(crate) async fn join(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        state: &mut State,
        session: &Arc<Session>,
    ) -> Result<Attempt, EngineError> {
        let folder = shared.layout.folder(&self.claim.key)?;
        let path = format!("{folder}/{}", shared.layout.prefix(self.claim.id, self.claim.mode)?);
        let data = self.card(session).write();
        let options = session.making(CreateMode::EphemeralSequential);
        let mut last = session.solo.take(&folder);
        for _ in 0..TRIES {
            state.uncertain = true;
            let created = session.client.create(&path, &data, &options);
            let listed = (!Alone::is_likely(last)).then(|| session.client.get_children(&folder));
            match session.answer(created).await {
                Ok((stat, sequence)) => {
                    let made = Made { number: sequence.into_i64(), zxid: stat.czxid };
                    let name = format!("{}{sequence}", &path[folder.len() + 1..]);
                    let node = state.node.insert(Node::new(session, &folder, name, stat.czxid));
                    state.uncertain = false;
                    let looked = match (listed, Alone::after(last, made)) {
                        (None, Some(alone)) => {
                            node.alone = Some(alone);
                            let line = [node.name.clone()];
                            return self.judge(shared, state, &line, true).await;
                        }
                        (None, None) => session.answer(session.client.get_children(&folder)).await,
                        (Some(listed), _) => session.answer(listed).await,
                    };
                    let (children, parent) = looked.map_err(trouble::in_doubt)?;
                    if children.len() == 1 {
                        node.alone = Some(Alone::seen(last, made));
                    }
                    // Nothing has come or gone since: whoever was before us left before our token was made.
                    let is_newest = parent.pzxid == stat.czxid;
                    return self.judge(shared, state, &children, is_newest).await;
                }
                Err(Error::NoNode) => {
                    state.uncertain = false;
                    last = None;
                    shared.make_folder(session, &folder).await?;
                }
                Err(error) => {
                    let trouble = trouble::of(&error);
                    state.uncertain = trouble.effect == Effect::Unknown;
                    return Err(trouble.into());
                }
            }
        }
        state.uncertain = false;
        Err(Trouble::away(format!("the folder {folder} is removed again and again")).into())
    }

    /// What a list of the folder's children means for the place.
    pub(crate) async fn judge(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        state: &mut State,
        children: &[String],
        is_newest: bool,
    ) -> Result<Attempt, EngineError> {
        let Some(node) = &state.node else { return Ok(Attempt::Gone(Gone::Absent)) };
        let born = node.born;
        let line = match shared.layout.line(&node.folder, children) {
            Ok(line) => line,
            Err(foreign) => {
                leave(state).await?;
                return Err(foreign.into());
            }
        };
        let Some(me) = line.iter().position(|entry| entry.name == node.name) else {
            return Ok(Attempt::Gone(self.evicted(shared, state)));
        };
        let ahead = &line[..me];
        let agreed = ahead.iter().find_map(|entry| entry.mode.limit());
        if let (Some(limit), Some(stored)) = (self.claim.mode.limit(), agreed)
            && stored != limit
        {
            leave(state).await?;
            return Err(LimitDiffers { stored }.on(&self.claim.key));
        }
        let modes: Vec<_> = line[..=me].iter().map(|entry| entry.mode).collect();
        if line::verdict(&modes, me) == Verdict::Granted {
            let session = Arc::clone(&node.session);
            match self.take_turn(state, ahead, is_newest).await? {
                Turn::Evicted => return Ok(Attempt::Gone(self.evicted(shared, state))),
                Turn::NotYet(_) => {}
                Turn::Granted(held) if session.stands() => {
                    state.node.iter_mut().for_each(|node| node.hold(held));
                    return Ok(Attempt::Granted(self.grant(held, self.validity(&session))));
                }
                Turn::Granted(_) if self.claim.if_busy == IfBusy::Leave => {
                    leave(state).await?;
                    return Err(Session::silence().without_effect().into());
                }
                // It has the turn and its slot, and will be told so when the ensemble has heard of us for long enough.
                Turn::Granted(held) => {
                    state.node.iter_mut().for_each(|node| node.hold(held));
                    return Ok(Attempt::Waiting(until_heard(&session, me, held)));
                }
            }
        }
        if self.claim.if_busy == IfBusy::Leave {
            leave(state).await?;
            return Ok(Attempt::Busy(waiting(me, born)));
        }
        self.wait(shared, state, ahead, &modes);
        Ok(Attempt::Waiting(waiting(me, born)))
    }

    /// Waits behind others, from now on woken by what happens to them.
    fn wait(self: &Arc<Self>, shared: &Arc<Shared>, state: &mut State, ahead: &[Entry], modes: &[Mode]) {
        let Some(node) = &mut state.node else { return };
        node.standing = Standing::Waits(ahead.len());
        if node.watching.as_ref().is_none_or(Watching::has_ended) {
            let holders = line::granted(modes.iter().copied());
            let ahead = ahead.iter().enumerate();
            let ahead = ahead.map(|(at, entry)| Ahead::new(entry.clone(), at < holders)).collect();
            node.watching = Some(Watching::for_the_turn(shared, self, node, ahead));
        }
    }
}
