//! What the tests share: clusters, claims, and waits with a limit.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::expect_used,
    reason = "a part of tests, each of which uses its own"
)]

pub mod site;
