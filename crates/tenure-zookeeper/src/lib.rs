//! The ZooKeeper engine of tenure: locks by ephemeral nodes, with the creation zxid as fencing token.
#![forbid(unsafe_code)]
