//! Writes to ZooKeeper that only the holder of a lock can make.
//!
//! Where what the lock guards lies in the same ensemble, exclusion needs no assumption about time: the node of the hold
//! is checked in the transaction that writes, and a holder that has lost its hold has no node any more.

use std::sync::Arc;

use tenure_core::ClaimId;
use tenure_core::engine::{EngineError, Trouble};
use zookeeper_client::{CreateMode, Error, MultiWriteError};

use crate::place::Standing;
use crate::session::Session;
use crate::{Shared, Zookeeper, trouble};

/// A hold, as a condition of transactions.
#[derive(Clone, Debug)]
pub struct ZookeeperFence {
    shared: Arc<Shared>,
    session: Arc<Session>,
    node: String,
}

/// One write of a guarded transaction. Paths are below the chroot of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "these are the writes of the protocol")]
pub enum Write {
    /// Makes a persistent node, which must not be there.
    Create {
        /// Where.
        path: String,
        /// What it says.
        data: Vec<u8>,
    },
    /// Writes to a node, which must be there.
    SetData {
        /// Which.
        path: String,
        /// What it says from now on.
        data: Vec<u8>,
        /// Only if this is the version of its data.
        version: Option<i32>,
    },
    /// Deletes a node, which must be there and have no children.
    Delete {
        /// Which.
        path: String,
        /// Only if this is the version of its data.
        version: Option<i32>,
    },
}

/// Why a guarded transaction was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZookeeperFenceError {
    /// The hold is gone. Nothing was written.
    #[error("the hold is gone, and nothing was written: acquire again, and read again what is to be written")]
    Stale,
    /// A write could not be made, and so none was.
    #[error("write {index} cannot be made, and so none was: {why}")]
    Refused {
        /// Which, from zero.
        index: usize,
        /// What ZooKeeper says.
        why: String,
    },
    /// ZooKeeper could not be asked; whether it was written, the effect of the error tells.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Zookeeper {
    /// The hold of a guard as a condition of transactions; none when the claim does not hold here.
    ///
    /// # Errors
    /// When the thread of the engine has ended.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn fence(&self, claim: ClaimId) -> Result<Option<ZookeeperFence>, EngineError> {
        let Some(place) = self.shared.places.find(claim) else { return Ok(None) };
        let shared = Arc::clone(&self.shared);
        let look = async move {
            let state = place.state().await;
            let node = state.as_ref().and_then(|state| state.node.as_ref());
            let node = node.filter(|node| matches!(node.standing, Standing::Holds(_)));
            Ok(node.map(|node| ZookeeperFence {
                shared: Arc::clone(&shared),
                session: Arc::clone(&node.session),
                node: node.path.clone(),
            }))
        };
        self.shared.on_its_thread(look).await
    }
}

impl ZookeeperFence {
    /// The node of the hold, below the chroot of the engine. It is there as long as the hold stands, and never again:
    /// a transaction of any client of ZooKeeper is guarded by a check of it, of any version.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Makes all the writes, or none: if the hold still stands when the ensemble makes them.
    ///
    /// # Errors
    /// [`ZookeeperFenceError::Stale`] when it does not.
    ///
    /// # Cancel safety
    /// Not safe: a transaction that was sent may be made.
    pub async fn commit(&self, writes: &[Write]) -> Result<(), ZookeeperFenceError> {
        let (session, node, writes) = (Arc::clone(&self.session), self.node.clone(), writes.to_vec());
        let commit = async move { Ok(commit(&session, &node, &writes).await) };
        self.shared.on_its_thread(commit).await?
    }
}

async fn commit(session: &Session, node: &str, writes: &[Write]) -> Result<(), ZookeeperFenceError> {
    let refused = |index, why: Error| ZookeeperFenceError::Refused { index, why: why.to_string() };
    let mut writer = session.client.new_multi_writer();
    writer.add_check_version(node, -1).map_err(|error| refused(0, error))?;
    for (index, write) in writes.iter().enumerate() {
        let added = match write {
            Write::Create { path, data } => {
                writer.add_create(path, data, &session.making(CreateMode::Persistent))
            }
            Write::SetData { path, data, version } => writer.add_set_data(path, data, *version),
            Write::Delete { path, version } => writer.add_delete(path, *version),
        };
        added.map_err(|error| refused(index, error))?;
    }
    match tokio::time::timeout(session.patience(), writer.commit()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode })) => {
            Err(ZookeeperFenceError::Stale)
        }
        Ok(Err(MultiWriteError::OperationFailed { index, source })) => {
            Err(refused(index.saturating_sub(1), source))
        }
        // All nodes of an ended session are gone, or about to go.
        Ok(Err(MultiWriteError::RequestFailed { source })) if trouble::ends_the_session(&source) => {
            Err(ZookeeperFenceError::Stale)
        }
        Ok(Err(MultiWriteError::RequestFailed { source })) => {
            Err(EngineError::from(trouble::of(&source)).into())
        }
        Err(_) => Err(EngineError::from(Trouble::lost("ZooKeeper does not answer")).into()),
    }
}
