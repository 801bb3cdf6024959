//! Nodes that come late, of requests whose answers were given up.
//!
//! A server reads a connection to its end, also when its client has gone on over another one and has found nothing
//! there: a server that was stopped makes the node when it goes on. So whoever was not answered looks for nodes of its
//! claim, and goes on looking for a while. That alone would leave a claim in the line that was withdrawn, until it is
//! found. Therefore a *grave* is dug before such a claim is withdrawn: a child of the folder that says that no node of
//! the claim counts. Whoever reads the line passes over them.
//!
//! # Invariants
//! 1. When the withdrawal of a claim is answered that may have nodes that come late, its grave is there; it stays for
//!    as long as they are looked for. A node that is made before the grave is found after it.
//! 2. A claim that has a grave is gone for good: somebody may have been granted past its nodes.
//!
//! The layouts of others have no graves: their other clients would not know what those are.

use std::sync::{Arc, Weak};

use tenure_core::engine::{Gone, Trouble};
use zookeeper_client::{CreateMode, Error};

use crate::Shared;
use crate::place::{Node, Place, State, leave};
use crate::session::Session;
use crate::trouble::in_doubt;

/// How often nodes that come late are looked for, at even times within two timeouts of a session.
const SWEEPS: u32 = 16;

impl Place {
    /// Finds the nodes of the claim: keeps the one of this session, and deletes those of earlier ones.
    pub(crate) async fn recover(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        state: &mut State,
        session: &Arc<Session>,
    ) -> Result<(), Trouble> {
        self.find(shared, state, session).await?;
        state.uncertain = false;
        if std::mem::replace(&mut state.sweeps, SWEEPS) == 0 {
            tokio::spawn(Arc::clone(self).sweep(Arc::downgrade(shared)));
        }
        Ok(())
    }

    /// Says in the folder that no node of the claim counts, unless it says so already.
    pub(crate) async fn dig(
        &self,
        shared: &Shared,
        state: &mut State,
        session: &Session,
    ) -> Result<(), Trouble> {
        let Some(name) = shared.layout.grave(self.claim.id, session.client.session_id().0) else {
            return Ok(());
        };
        let folder = shared.layout.folder(&self.claim.key)?;
        let path = format!("{folder}/{name}");
        // One of an earlier session goes with it.
        if state.grave.as_ref() == Some(&path) {
            return Ok(());
        }
        self.bury(shared, state, Gone::Withdrawn);
        let options = session.making(CreateMode::Ephemeral);
        let mut made = session.answer(session.client.create(&path, b"", &options)).await;
        if matches!(made, Err(Error::NoNode)) {
            // Somebody else may make the folder before the late node comes.
            shared.make_folder(session, &folder).await?;
            made = session.answer(session.client.create(&path, b"", &options)).await;
        }
        match made {
            Ok(_) | Err(Error::NodeExists) => {
                state.grave = Some(path);
                Ok(())
            }
            Err(error) => Err(in_doubt(error)),
        }
    }

    /// Looks for nodes that come late, for twice as long as the ensemble lets a session be silent after each time that
    /// there was one to be looked for.
    async fn sweep(self: Arc<Self>, shared: Weak<Shared>) {
        loop {
            let Some(timeout) = shared.upgrade().map(|shared| shared.session_timeout) else { return };
            tokio::time::sleep(timeout * 2 / SWEEPS).await;
            let Some(shared) = shared.upgrade() else { return };
            let mut state = self.locked().await;
            state.sweeps = state.sweeps.saturating_sub(1);
            // What cannot be done now is done the next time, or with the session's end.
            let _ = self.sweep_once(&shared, &mut state).await;
            if state.sweeps == 0 {
                return self.tidy(&shared, &mut state);
            }
        }
    }

    async fn sweep_once(&self, shared: &Shared, state: &mut State) -> Result<(), Trouble> {
        let session = shared.links.link().await?;
        session.ready().await?;
        if let Some(grave) = state.grave.take_if(|_| state.sweeps == 0) {
            remove(&session, &grave).await?;
        }
        self.find(shared, state, &session).await?;
        if state.is_out() {
            leave(state).await?;
        }
        Ok(())
    }

    /// Keeps the node of this session, if none is known, and deletes all others of the claim.
    async fn find(&self, shared: &Shared, state: &mut State, session: &Arc<Session>) -> Result<(), Trouble> {
        let folder = shared.layout.folder(&self.claim.key)?;
        let (synced, listed) = (session.client.sync(&folder), session.client.list_children(&folder));
        session.answer(synced).await.map_err(in_doubt)?;
        let children = match session.answer(listed).await {
            Ok(children) => children,
            Err(Error::NoNode) => Vec::new(),
            Err(error) => return Err(in_doubt(error)),
        };
        let mut nodes: Vec<_> = children.iter().filter_map(|child| shared.layout.entry(child)).collect();
        let known = state.node.as_ref().map(|node| node.name.clone());
        nodes.retain(|entry| entry.claim == self.claim.id && known.as_ref() != Some(&entry.name));
        for entry in nodes {
            let path = format!("{folder}/{}", entry.name);
            let Some(stat) = session.answer(session.client.check_stat(&path)).await.map_err(in_doubt)? else {
                continue;
            };
            if stat.ephemeral_owner == session.client.session_id().0 && state.node.is_none() {
                state.node = Some(Node::new(session, &folder, entry.name, stat.czxid));
                continue;
            }
            remove(session, &path).await?;
        }
        Ok(())
    }
}

/// Deletes a node, if it is still there.
async fn remove(session: &Session, path: &str) -> Result<(), Trouble> {
    match session.answer(session.client.delete(path, None)).await {
        Ok(()) | Err(Error::NoNode) => Ok(()),
        Err(error) => Err(in_doubt(error)),
    }
}
