//! The ZooKeeper engine of `tenure`: locks by ephemeral nodes.
//!
//! A claim's place is an ephemeral sequential node, and its fencing token is the zxid of a write to that node: agreed
//! upon by a quorum, and rising for ever. One session per engine carries all claims, on a thread of the engine's own;
//! when it ends, all of its nodes go with it.
//!
//! # Invariants
//! 1. Validity is counted from before a request that was answered, never from what the client library says about the
//!    session.
//! 2. What is not written to the ensemble is not needed: a waiter derives its turn from the names of the nodes.
//!
//! Where to look: `layout` for what is stored, `place` for what a verb does, `arrival` for how it joins, `solo` for
//! when that needs no look at the line, `late` for what comes after it was given up, `turn` for how it is granted,
//! `watching` for wakes, `session` for connections and what proves a hold, `trouble` for what each error means.
#![forbid(unsafe_code)]

mod arrival;
mod chain;
mod contender;
mod fence;
mod late;
mod layout;
mod operator;
mod options;
mod place;
mod places;
mod record;
mod session;
mod solo;
mod trouble;
mod turn;
mod version;
mod watching;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::engine::links::Links;
use tenure_core::engine::signals::Signals;
use tenure_core::engine::{
    Engine, EngineError, Facts, Line, Liveness, TokenDurability, TokenOrigin, Trouble, Withdrawn,
};
use tenure_core::{Claim, ClaimId, Key};
use zookeeper_client::{CreateMode, Error};

pub use contender::ZookeeperContender;
pub use fence::{Write, ZookeeperFence, ZookeeperFenceError};
pub use layout::Layout;
pub use options::{Terms, ZookeeperOptions, ZookeeperUrlError};

use places::Places;
use session::{Dialer, Session};

/// For how long a place keeps its turn without anybody asking for it.
const CLAIM_WINDOW: Duration = Duration::from_secs(3);

/// How often a waiting place is looked at without a wake. Its session keeps it, and its watch is reliable.
const REFRESH_EVERY: Duration = Duration::from_secs(10);

/// Locks on a ZooKeeper ensemble.
///
/// Clones are the same engine, with the same session.
///
/// # Guarantees
/// Stated by [`Engine::facts`]: no two holders as long as clocks run at nearly the same rate; tokens survive the loss
/// of a minority of the servers.
#[derive(Clone, Debug)]
pub struct Zookeeper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) links: Links<Dialer>,
    pub(crate) places: Places,
    pub(crate) signals: Arc<Signals>,
    pub(crate) layout: Layout,
    pub(crate) terms: Terms,
    /// That of the first session; the ensemble grants the same to the next, unless its configuration changes.
    pub(crate) session_timeout: Duration,
    cautions: Vec<String>,
}

impl Zookeeper {
    /// Connects to an ensemble and begins a session.
    ///
    /// The session lives on a thread of the engine's own, for callers with and without a runtime. It is closed when the
    /// last clone, contender and guard of the engine is gone, and all of its places with it.
    ///
    /// # Errors
    /// When no server can be reached, we are refused, or the chroot does not exist.
    ///
    /// # Cancel safety
    /// Safe: nothing is left behind.
    pub async fn open(options: &ZookeeperOptions) -> Result<Self, EngineError> {
        let links = Links::on_own_thread(Dialer::new(options.clone()));
        let session_timeout = links.link().await?.timeout;
        let servers = options.servers.clone();
        let asking = links.own_thread()?.spawn(async move { version::cautions(&servers).await });
        // What cannot be known is not said.
        let cautions = asking.await.unwrap_or_default();
        let shared = Shared {
            links,
            places: Places::default(),
            signals: Arc::default(),
            layout: options.layout,
            terms: options.terms,
            session_timeout,
            cautions,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The id of the session, as the server's `dump` and `cons` show it, and the timeout that was negotiated.
    ///
    /// # Errors
    /// When there is no session now and none can be had.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn session(&self) -> Result<(i64, Duration), EngineError> {
        let session = self.shared.links.link().await?;
        Ok((session.client.session_id().0, session.timeout))
    }
}

impl Shared {
    /// Carries a verb out on the engine's thread. Whoever stops waiting for it does not stop it.
    pub(crate) async fn on_its_thread<T: Send + 'static>(
        &self,
        verb: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        let thread = self.links.own_thread()?;
        let done = thread.spawn(verb).await;
        done.map_err(|_| Trouble::lost("the thread of the engine has ended, or has panicked"))?
    }

    /// Makes the folder of a line, and those that it lies in. The ensemble removes it when it has been empty for a
    /// while.
    pub(crate) async fn make_folder(&self, session: &Session, folder: &str) -> Result<(), Trouble> {
        // From the folder up to the first that is there, and down again.
        let mut missing = vec![folder];
        while let Some(path) = missing.last() {
            let mode = if *path == layout::ROOT { CreateMode::Persistent } else { CreateMode::Container };
            match session.answer(session.client.create(path, b"", &session.making(mode))).await {
                Ok(_) | Err(Error::NodeExists) => {
                    missing.pop();
                }
                Err(Error::NoNode) => match path.rsplit_once('/') {
                    Some((above, _)) if !above.is_empty() => missing.push(above),
                    _ => {
                        return Err(Trouble::unsupported(
                            "the chroot is gone: create it, or correct the URL",
                        ));
                    }
                },
                Err(error) => return Err(trouble::of(&error).without_effect()),
            }
        }
        Ok(())
    }
}

impl Engine for Zookeeper {
    type Contender = ZookeeperContender;

    fn facts(&self) -> Facts {
        let mut facts = Facts::of_leases("zookeeper");
        facts.liveness = Liveness::Session;
        facts.token_durability = TokenDurability::Quorum;
        facts.token_origin = TokenOrigin::Revision;
        facts.claim_window = CLAIM_WINDOW;
        facts.refresh_every = REFRESH_EVERY;
        facts.cautions.clone_from(&self.shared.cautions);
        facts
    }

    fn contend(&self, claim: Claim) -> ZookeeperContender {
        ZookeeperContender::new(Arc::clone(&self.shared), claim)
    }

    async fn inspect(&self, key: &Key) -> Result<Line, EngineError> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        self.shared.on_its_thread(async move { operator::inspect(&shared, &key).await }).await
    }

    /// The keys in use. Reads the names of all folders.
    async fn keys(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, EngineError> {
        let (shared, prefix, after) = (Arc::clone(&self.shared), prefix.to_owned(), after.cloned());
        let verb = async move { operator::keys(&shared, &prefix, after.as_ref(), limit).await };
        self.shared.on_its_thread(verb).await
    }

    async fn evict(&self, key: &Key, claim: ClaimId) -> Result<Withdrawn, EngineError> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        self.shared.on_its_thread(async move { operator::evict(&shared, &key, claim).await }).await
    }
}
