//! What happens when the turn of a place has come: it writes to its node, and has a token.

use std::num::NonZeroU32;

use tenure_core::engine::{Attempt, EngineError, Gone, Trouble, Wake};
use tenure_core::lease::{Clock, SystemClock};
use tenure_core::{FencingToken, IfBusy, Mode};
use zookeeper_client::{Error, MultiReadResult, Stat};

use crate::layout::Entry;
use crate::place::{Held, Node, Place, Standing, State, leave, until_heard};
use crate::record::Card;
use crate::session::Session;
use crate::{CLAIM_WINDOW, Shared, trouble};

/// Whether a place may be granted.
pub(crate) enum Turn {
    Granted(Held),
    /// The permit with this name before us has not written its slot yet.
    NotYet(String),
    Evicted,
}

impl Place {
    /// A token, when all who are before us fit with us.
    pub(crate) async fn take_turn(
        &self,
        state: &mut State,
        ahead: &[Entry],
        is_newest: bool,
    ) -> Result<Turn, EngineError> {
        let Some(node) = &mut state.node else { return Ok(Turn::Evicted) };
        let (slot, zxid) = match self.claim.mode {
            Mode::Exclusive | Mode::Shared if is_newest => (0, Some(node.born)),
            Mode::Exclusive | Mode::Shared => (0, self.stamp(node, 0).await?),
            Mode::Permit { limit } => {
                let slot = match node.slot {
                    Some(slot) => slot,
                    None => match free_slot(&node.session, &node.folder, ahead, limit).await? {
                        Err(name) => return Ok(Turn::NotYet(name)),
                        Ok(slot) => slot,
                    },
                };
                node.slot = Some(slot);
                (slot, self.stamp(node, slot).await?)
            }
        };
        let Some(zxid) = zxid else { return Ok(Turn::Evicted) };
        let token = match token(zxid) {
            Ok(token) if self.claim.floor.is_none_or(|floor| token > floor) => token,
            Ok(token) => {
                leave(state).await?;
                let floor = self.claim.floor.map_or(0, FencingToken::get);
                return Err(Trouble::unsupported(format!(
                    "the ensemble is at {}, and the token {floor} was given out before: it was restored from an old \
                     copy; use another key or chroot, or reset what checks the tokens",
                    token.get()
                ))
                .into());
            }
            Err(trouble) => {
                leave(state).await?;
                return Err(trouble.into());
            }
        };
        Ok(Turn::Granted(Held { token, slot }))
    }

    /// Writes to the own node that it holds; the zxid of that, or none when the node is not there.
    pub(crate) async fn stamp(&self, node: &Node, slot: u32) -> Result<Option<i64>, Trouble> {
        let data = self.card(&node.session).holding(slot).write();
        match node.session.answer(node.session.client.set_data(&node.path, &data, None)).await {
            Ok(Stat { mzxid, .. }) => Ok(Some(mzxid)),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(trouble::in_doubt(error)),
        }
    }

    pub(crate) fn card(&self, session: &Session) -> Card {
        let timeout = u64::try_from(session.timeout.as_millis()).unwrap_or(u64::MAX);
        Card::new(&self.claim.identity, timeout)
    }

    /// The grant of a place that has it already, proven anew.
    pub(crate) async fn hold_again(
        &self,
        shared: &Shared,
        state: &mut State,
        held: Held,
    ) -> Result<Attempt, EngineError> {
        let Some(node) = &mut state.node else { return Ok(Attempt::Gone(Gone::Absent)) };
        let validity = self.validity(&node.session);
        match node.session.prove(&node.path).await {
            Ok(()) if !node.session.stands() => match self.claim.if_busy {
                IfBusy::Leave => Err(Session::silence().into()),
                IfBusy::Join => Ok(Attempt::Waiting(until_heard(&node.session, 0, held))),
            },
            Ok(()) => {
                node.hold(held);
                Ok(Attempt::Granted(self.grant(held, validity)))
            }
            Err(Error::NoNode) => Ok(Attempt::Gone(self.evicted(shared, state))),
            Err(error) => Err(trouble::of(&error).into()),
        }
    }

    /// The turn has come, as those who watch for it say. True when the place was offered it; else the name of a permit
    /// for whose slot it must wait, if there is one.
    pub(crate) async fn offer(
        &self,
        shared: &Shared,
        path: &str,
        ahead: &[Entry],
    ) -> Result<Result<(), Option<String>>, EngineError> {
        let Some(mut state) = self.state().await else { return Ok(Err(None)) };
        let sent = SystemClock.now();
        match &state.node {
            Some(node) if node.path == path && matches!(node.standing, Standing::Waits(_)) => {}
            _ => return Ok(Err(None)),
        }
        let held = match self.take_turn(&mut state, ahead, false).await? {
            Turn::NotYet(name) => return Ok(Err(Some(name))),
            Turn::Evicted => {
                self.evicted(shared, &mut state);
                return Ok(Err(None));
            }
            Turn::Granted(held) => held,
        };
        let mut wake = Wake::LookAgain;
        if let Some(node) = &mut state.node {
            node.standing = Standing::Offered(held, sent);
            if node.session.stands() {
                // Unless it is confirmed it stands for the window, and is valid from an earlier look on.
                let validity = CLAIM_WINDOW.min(self.validity(&node.session));
                wake = Wake::Granted(self.grant(held, validity));
            }
        }
        shared.signals.tell(self.claim.id, wake);
        Ok(Ok(()))
    }

    /// Gives up the turn when nobody has asked for it.
    pub(crate) async fn lapse(&self, shared: &Shared, path: &str) -> Result<(), Trouble> {
        let Some(mut state) = self.state().await else { return Ok(()) };
        let offered = |node: &Node| node.path == path && matches!(node.standing, Standing::Offered(..));
        if state.node.as_ref().is_some_and(offered) {
            leave(&mut state).await?;
            shared.signals.tell(self.claim.id, Wake::LookAgain);
            self.tidy(shared, &mut state);
        }
        Ok(())
    }
}

/// The lowest slot that no permit before us has, or the name of one that has not written its own yet.
async fn free_slot(
    session: &Session,
    folder: &str,
    ahead: &[Entry],
    limit: NonZeroU32,
) -> Result<Result<u32, String>, Trouble> {
    let mut taken = Vec::with_capacity(ahead.len());
    if !ahead.is_empty() {
        let mut reader = session.client.new_multi_reader();
        for entry in ahead {
            reader.add_get_data(&format!("{folder}/{}", entry.name)).map_err(trouble::in_doubt)?;
        }
        let answers = session.answer(reader.commit()).await.map_err(trouble::in_doubt)?;
        for (entry, answer) in ahead.iter().zip(answers) {
            // One that cannot be read has just left.
            let MultiReadResult::Data { data, .. } = answer else { continue };
            match Card::read(&data).and_then(|card| card.holds) {
                Some(slot) => taken.push(slot),
                None => return Ok(Err(entry.name.clone())),
            }
        }
    }
    // There are fewer before us than the limit, or it would not be our turn.
    Ok(Ok((0..limit.get()).find(|slot| !taken.contains(slot)).unwrap_or(0)))
}

/// A zxid as a token. Its upper half counts elections: of 2^21 it has never been heard.
pub(crate) fn token(zxid: i64) -> Result<FencingToken, Trouble> {
    let token = u64::try_from(zxid).ok().and_then(FencingToken::new);
    token.ok_or_else(|| {
        Trouble::unsupported(format!("the ensemble is at zxid {zxid}, which is no token any more"))
    })
}
