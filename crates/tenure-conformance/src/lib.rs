//! The proofs that every engine and the keeper must pass.

#![forbid(unsafe_code)]

pub mod simulation;
