//! Listens for one claim at all nodes.

use tenure_core::ClaimId;

use super::nodes::Nodes;
use crate::inbox::Ear;

/// What hears that something may have changed for a claim at any node. Nobody's word is a grant here: it takes a
/// majority.
#[derive(Debug, Default)]
pub(crate) struct Ears(Vec<Ear>);

impl Ears {
    pub(crate) fn new(nodes: &Nodes, claim: ClaimId) -> Self {
        Self(nodes.iter().map(|node| node.listen(claim)).collect())
    }

    /// Whether it listens to nobody.
    pub(crate) fn is_deaf(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets what was told so far: call it before asking the nodes.
    pub(crate) fn look(&mut self) {
        self.0.iter_mut().for_each(Ear::look);
    }

    /// Waits until any node tells something; for ever, when it listens to none.
    ///
    /// # Cancel safety
    /// Safe: what one call would have reported, the next one reports.
    pub(crate) async fn told(&mut self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let ears = self.0.iter_mut().map(|ear| Box::pin(ear.told()));
        futures_util::future::select_all(ears).await;
    }
}
