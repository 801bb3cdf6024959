//! One claim's verbs, as the contract has them: each is carried out on the engine's thread.

use std::sync::Arc;

use tenure_core::Claim;
use tenure_core::engine::signals::Listener;
use tenure_core::engine::{
    Attempt, Contender, EngineError, Gone, Renewal, Restamp, Stray, Trouble, Wake, Withdrawn,
};

use crate::Shared;
use crate::place::Place;

/// Speaks for one claim at a [`Zookeeper`](crate::Zookeeper).
#[derive(Debug)]
pub struct ZookeeperContender {
    shared: Arc<Shared>,
    claim: Claim,
    ears: Option<Listener>,
}

impl ZookeeperContender {
    pub(crate) fn new(shared: Arc<Shared>, claim: Claim) -> Self {
        Self { shared, claim, ears: None }
    }

    /// Listens, and forgets what was told before.
    fn look(&mut self) -> &mut Listener {
        let Self { shared, claim, ears } = self;
        let ears = ears.get_or_insert_with(|| shared.signals.listen(claim.id));
        ears.look();
        ears
    }

    fn place(&self) -> Option<Arc<Place>> {
        self.shared.places.find(self.claim.id)
    }
}

/// How often a place is forgotten while somebody is about to enter it, at most.
const TRIES: usize = 8;

impl Contender for ZookeeperContender {
    async fn attempt(&mut self) -> Result<Attempt, EngineError> {
        self.look();
        let (shared, claim) = (Arc::clone(&self.shared), self.claim.clone());
        let verb = async move {
            for _ in 0..TRIES {
                if let Some(attempt) = shared.places.enter(&claim).attempt(&shared).await? {
                    return Ok(attempt);
                }
            }
            Err(Trouble::away("the claim is withdrawn again and again while it is attempted").into())
        };
        self.shared.on_its_thread(verb).await
    }

    async fn changed(&mut self) -> Result<Wake, EngineError> {
        if self.ears.is_none() {
            self.look();
        }
        if let Some(place) = self.place() {
            let shared = Arc::clone(&self.shared);
            let guard = async move {
                place.guard(&shared).await;
                Ok(())
            };
            self.shared.on_its_thread(guard).await?;
        }
        match &mut self.ears {
            Some(ears) => Ok(ears.told().await),
            None => Ok(Wake::LookAgain),
        }
    }

    async fn renew(&mut self) -> Result<Renewal, EngineError> {
        self.look();
        let Some(place) = self.place() else { return Ok(Renewal::Gone(Gone::Absent)) };
        let shared = Arc::clone(&self.shared);
        self.shared.on_its_thread(async move { place.renew(&shared).await }).await
    }

    async fn restamp(&mut self) -> Result<Restamp, EngineError> {
        let Some(place) = self.place() else { return Ok(Restamp::Gone(Gone::Absent)) };
        let shared = Arc::clone(&self.shared);
        self.shared.on_its_thread(async move { place.restamp(&shared).await }).await
    }

    async fn withdraw(&mut self, stray: Stray) -> Result<Withdrawn, EngineError> {
        let (shared, claim) = (Arc::clone(&self.shared), self.claim.clone());
        let verb = async move {
            for _ in 0..TRIES {
                let place = match shared.places.find(claim.id) {
                    Some(place) => place,
                    // Whoever attempts it later is to find that it was withdrawn.
                    None if stray == Stray::Possible => shared.places.enter(&claim),
                    None => return Ok(Withdrawn::Absent),
                };
                if let Some(withdrawn) = place.withdraw(&shared, stray).await? {
                    return Ok(withdrawn);
                }
            }
            Err(Trouble::away("the claim is attempted again and again while it is withdrawn").into())
        };
        self.shared.on_its_thread(verb).await
    }
}
