//! Why a server could not be had.

use std::io;

/// Why a server could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Its program is not installed.
    #[error("{program} is missing: install it, on Debian by apt-get install {package}")]
    Missing {
        /// The program.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// It ended, or does not answer.
    #[error("{program} does not start: {said}")]
    Silent {
        /// The program.
        program: String,
        /// The end of what it said.
        said: String,
    },
    /// A step on the way failed.
    #[error("{step}: {source}")]
    Step {
        /// What was done.
        step: String,
        /// What went wrong.
        source: io::Error,
    },
}

impl ServerError {
    /// A step on the way that failed.
    pub(crate) fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Step { step, source }
    }
}
