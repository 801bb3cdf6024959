//! The site of the reference engine.

use tenure_core::engine::memory::Memory;

use crate::{Hook, Site};

/// An empty [`Memory`] for each trial.
#[derive(Debug, Default)]
pub struct MemorySite(Memory);

impl Site for MemorySite {
    type Engine = Memory;

    async fn client(&self) -> Memory {
        self.0.clone()
    }

    fn can(&self, _hook: Hook) -> Result<(), &'static str> {
        Ok(())
    }

    /// A client that sends nothing any more has vanished: only leases tell.
    async fn vanish(&self, client: Memory) {
        drop(client);
    }

    async fn forget(&self) {
        self.0.restore(Memory::new().snapshot());
    }
}
