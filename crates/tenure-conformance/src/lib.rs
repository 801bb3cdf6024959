//! The one suite that every engine of `tenure` must pass, and the tools to break engines on purpose.
//!
//! An engine joins with one test target without a harness that calls [`run`] with its name and with how to open a
//! [`Site`]. The trials are built from what the engine's facts promise and from what the site can do; a trial that
//! cannot apply is printed as ignored with its reason, and the skips must be exactly those that `conformance.toml`
//! expects, so that nothing stops being tested unnoticed.
//!
//! Two levels are tried: the contract itself (trials named `rule_N_…` after the rules of
//! [`tenure_core::engine`]), and what users see of the engine through [`tenure_core::Tenure`]. Numbers such as
//! `c029` in the name of a trial refer to the catalogue of failures that it guards against.

#![forbid(unsafe_code)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a trial fails by panicking")]
mod cases;
pub mod faulty;
mod memory_site;
pub mod mirror;
#[allow(clippy::expect_used, reason = "a suite that cannot run fails by panicking")]
mod run;
pub mod simulation;
mod site;
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a trial fails by panicking")]
mod stage;
#[allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test fails by panicking")]
pub mod tools;

pub use cases::{Listed, catalogue};
pub use memory_site::MemorySite;
pub use run::{run, run_variant, trial_name, try_on_memory};
pub use site::{Hook, Site};
