//! What all locks of one client have in common. It ends with the last of them.

use std::fmt;
use std::sync::Arc;

use crate::cohort::Cohorts;
use crate::handover::Turn;
use crate::shared::Shared;

/// One client of one engine.
pub(crate) struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) cohorts: Arc<Cohorts<Turn>>,
}

impl Client {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared), cohorts: Arc::default() }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.keeper.close();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("engine", &self.shared.engine).finish_non_exhaustive()
    }
}
