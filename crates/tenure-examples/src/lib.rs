//! Examples of `tenure` beside other systems. They are a crate of their own because of what they depend on.
//!
//! `cargo run -p tenure-examples --example message_queue`
#![forbid(unsafe_code)]
