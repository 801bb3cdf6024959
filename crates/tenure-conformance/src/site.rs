//! What a test target tells the suite about its engine.

use std::fmt::Debug;
use std::future::Future;

use tenure_core::engine::Engine;

/// Shared storage for one trial, and clients of it.
///
/// A site is opened for each trial, on the trial's own runtime. Trials run at the same time and each uses keys of its
/// own, so the sites of a server engine may all point to the same server; nothing is ever wiped.
pub trait Site: Debug + Send + Sync + Sized + 'static {
    /// The engine under test.
    type Engine: Engine + Clone;

    /// Another client of the same storage, as if from another process. Clones of one client are one process.
    fn client(&self) -> impl Future<Output = Self::Engine> + Send;

    /// Whether the site can do this; everything, unless it says otherwise.
    ///
    /// # Errors
    /// Why it cannot; printed with each trial that is skipped for it.
    fn can(&self, _hook: Hook) -> Result<(), &'static str> {
        Ok(())
    }

    /// Makes a client vanish as if its process had been killed: nothing is withdrawn, and whatever the kernel or the
    /// server notices of a dead process happens. All contenders of the client have been dropped before.
    fn vanish(&self, client: Self::Engine) -> impl Future<Output = ()> + Send;

    /// Makes the storage forget everything, as a failover to an empty replica or a lost file does.
    fn forget(&self) -> impl Future<Output = ()> + Send;
}

/// What not every site can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hook {
    /// [`Site::vanish`].
    Vanish,
    /// [`Site::forget`].
    Forget,
}
