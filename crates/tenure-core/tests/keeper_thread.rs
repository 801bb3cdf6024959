//! Without a keeper nothing is locked. Alone in its program: it takes away the memory for threads.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tenure_core::engine::memory::Memory;
use tenure_core::{ErrorKind, Tenure};

#[test]
fn c014_where_the_keeper_cannot_start_nothing_is_locked() {
    let tenure = Tenure::new(Memory::new());
    let lock = tenure.lock("a");
    let before = getrlimit(Resource::As);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let in_use = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let in_use: u64 = in_use.trim().trim_end_matches(" kB").parse().unwrap();
    // Room for what is left to allocate, but not for the stack of a thread.
    setrlimit(Resource::As, Rlimit { current: Some((in_use + 512) * 1024), ..before }).unwrap();
    let refused = futures_executor::block_on(lock.acquire());
    setrlimit(Resource::As, before).unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(futures_executor::block_on(tenure.inspect("a")).unwrap().places, vec![]);
    // The next one finds room again.
    assert!(futures_executor::block_on(lock.acquire()).unwrap().is_held());
}
