//! What the types promise: futures that may be sent between threads, and a guard that has one owner.

use std::time::Duration;

use tenure_core::engine::memory::Memory;
use tenure_core::{
    Busy, Error, Guard, Guards, Lock, LockAll, Loss, Outcome, RwLock, Semaphore, Tenure, blocking,
};

fn send<T: Send>() {}
fn send_sync_unpin<T: Send + Sync + Unpin>() {}
fn send_value<T: Send>(_: &T) {}

#[test]
fn types_may_be_shared_between_threads() {
    send_sync_unpin::<Tenure>();
    send_sync_unpin::<Lock>();
    send_sync_unpin::<RwLock>();
    send_sync_unpin::<Semaphore>();
    send_sync_unpin::<LockAll>();
    send_sync_unpin::<Guard>();
    send_sync_unpin::<Guards>();
    send_sync_unpin::<Outcome>();
    send_sync_unpin::<Busy>();
    send_sync_unpin::<Loss>();
    send_sync_unpin::<Error>();
    send_sync_unpin::<blocking::Tenure>();
    send_sync_unpin::<blocking::Lock>();
    send_sync_unpin::<blocking::Guard>();
    send::<Memory>();
}

#[tokio::test]
async fn futures_may_be_sent_to_another_thread() {
    let tenure = Tenure::new(Memory::new());
    let (lock, all) = (tenure.lock("k"), tenure.lock_all(["a", "b"]));
    send_value(&lock.acquire());
    send_value(&lock.try_acquire());
    send_value(&lock.wait_for(Duration::ZERO));
    send_value(&all.acquire());
    send_value(&all.try_acquire());
    send_value(&all.wait_for(Duration::ZERO));
    send_value(&tenure.inspect("k"));
    send_value(&tenure.keys("", None, 1));
    send_value(&tenure.shutdown(Duration::ZERO));
    let guard = lock.acquire().await.unwrap();
    send_value(&tenure.evict("k", guard.claim()));
    send_value(&guard.lost());
    send_value(&guard.verify());
    send_value(&guard.run(async {}));
    send_value(&guard.release());
}

/// Does not compile for a type that can be cloned: which of the two is meant would be ambiguous.
trait NotClone<Which> {
    fn holds() {}
}
struct Cloneable;
impl<T: ?Sized> NotClone<()> for T {}
impl<T: ?Sized + Clone> NotClone<Cloneable> for T {}

#[test]
fn c043_a_guard_has_one_owner() {
    <Guard as NotClone<_>>::holds();
    <Guards as NotClone<_>>::holds();
    <blocking::Guard as NotClone<_>>::holds();
}
