//! Tortures a lock on a real engine, writes down what happened, and judges it.
//!
//! Worker processes lock, work and unlock through the public interface, while a [nemesis](nemesis) kills, stops and cuts
//! them off. A [referee](referee) with the only clock keeps a journal and, for each key, a register that checks fencing
//! tokens and one that does not. What came of it is a [`history`], which the [judge](check::judge) reads afterwards: it
//! needs nothing else, so a history that was kept can be judged again.
#![forbid(unsafe_code)]

pub mod check;
pub mod history;
