//! The same without async.
//!
//! ```
//! let tenure = tenure::blocking::connect("memory:")?;
//! let guard = tenure.lock("nightly").acquire()?;
//! assert!(guard.is_held());
//! guard.release()?;
//! # Ok::<(), tenure::Error>(())
//! ```

pub use tenure_core::blocking::{Guard, Lock, Outcome, Tenure};

use crate::{Error, Options};

/// Connects to the engine that the URL names; see [`crate::connect`].
///
/// # Errors
/// As there.
pub fn connect(url: &str) -> Result<Tenure, Error> {
    connect_with(url, Options::default())
}

/// Connects with options; see [`crate::connect_with`].
///
/// # Errors
/// As there.
pub fn connect_with(url: &str, options: Options) -> Result<Tenure, Error> {
    futures_executor::block_on(crate::connect_with(url, options)).map(Tenure::from)
}
