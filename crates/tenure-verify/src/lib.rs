//! Tortures a lock on a real engine, writes down what happened, and judges it.
//!
//! Worker processes lock, work and unlock through the public interface, while a nemesis kills, stops and cuts them off.
//! A referee with the only clock keeps a journal and, for each key, a register that checks fencing tokens and one that
//! does not. What came of it is a [`history`], which the [judge](check::judge) reads afterwards: it needs nothing else,
//! so a history that was kept can be judged again.
//!
//! Workers of the engine in memory are threads of this process, each with its keeper, so that the same flaws can be
//! planted in them as in the simulation.
#![forbid(unsafe_code)]

pub mod check;
mod court;
mod crew;
mod expectations;
pub mod history;
mod nemesis;
mod own;
mod referee;
mod reliability;
mod run;
mod site;
mod summary;
mod timeline;
mod weather;
mod worker;

pub use nemesis::Kind;
pub use referee::Live;
pub use reliability::publish;
pub use run::{Options, run};
pub use summary::{Outcome, Summary, Verdict};
pub use worker::work_for;

/// Why a run did not come to a verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The engine cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The run itself failed.
    #[error("{0}")]
    Trouble(String),
}

impl VerifyError {
    pub(crate) fn trouble(message: impl Into<String>) -> Self {
        Self::Trouble(message.into())
    }
}
