//! The etcd engine of tenure: locks with quorum tokens, and transactions that only a holder can commit.
#![forbid(unsafe_code)]
