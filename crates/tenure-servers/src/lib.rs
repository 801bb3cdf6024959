//! Real servers as child processes, and a proxy that misbehaves: for the tests, the benches and `tenure verify`.
//!
//! Every server listens on a free port of the loopback address, keeps its files in a directory of its own, and is gone
//! with its value, also when the process that started it is killed. No server that was there before is ever touched.
//!
//! # Invariants
//! 1. A server is killed when its value is dropped, and by the kernel when its starter dies.
//! 2. A server is handed out only when it answers.
//! 3. What a server said is kept until its value is dropped, and is part of the error when it does not start.
#![forbid(unsafe_code)]

mod certificates;
mod child;
mod clock_shim;
mod error;
pub mod etcd;
mod frames;
mod instructions;
pub mod mariadb;
mod monitor;
pub mod nats;
mod ports;
pub mod postgres;
mod proxy;
pub mod redis;
mod wait;
pub mod zookeeper;

pub use certificates::Certificates;
pub use child::{Child, Program};
pub use clock_shim::{ClockShim, Step};
pub use error::ServerError;
pub use frames::{Framing, mentions};
pub use instructions::instructions;
pub use monitor::{Counts, Monitor, Seen};
pub use ports::free_ports;
pub use proxy::{Proxy, Side, Trick};
pub use wait::{LIMIT, until};
