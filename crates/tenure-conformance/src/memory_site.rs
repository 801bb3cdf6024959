//! The site of the reference engine.

use tenure_core::engine::memory::Memory;

use crate::Site;

/// An empty [`Memory`] for each trial.
#[derive(Debug, Default)]
pub struct MemorySite(Memory);

impl Site for MemorySite {
    type Engine = Memory;

    async fn client(&self) -> Memory {
        self.0.clone()
    }

    /// A client that sends nothing any more has vanished: only leases tell.
    async fn vanish(&self, client: Memory) {
        drop(client);
    }

    async fn forget(&self) {
        self.0.restore(Memory::new().snapshot());
    }
}
