//! The gate in front of a resource, which refuses a holder that has lost its hold and does not know it.
//!
//! A lease cannot stop a holder that is paused: it wakes up, believes that it still holds, and writes. Only the
//! resource can refuse that write, and it needs to remember one number for that: the highest fencing token that it has
//! let in, the *mark*. A token below the mark belongs to a holder that came before, and is refused.
//!
//! # Why a new holder enters before it reads
//! A check at the write alone is not enough. Say that A holds with token 33, is paused, and loses its hold; B is
//! granted 34 and reads the resource. The mark is still 33 or lower, so A's late write passes. Then B writes what it
//! made of its read, and A's update is lost, although every write was checked. When B enters with 34 *before* it
//! reads, the mark is 34 when A's write comes, and A is refused. So the order is:
//!
//! 1. be granted the hold;
//! 2. [`enter`](FenceGate::enter) the gate with its token;
//! 3. read;
//! 4. write, each write checked ([`write`](FenceGate::write), [`pass`](FenceGate::pass) or
//!    [`check`](FenceGate::check)).
//!
//! # Why the check and the write are one step
//! A holder can be paused between [`check`](FenceGate::check) and the write that it allowed.
//! [`write`](FenceGate::write) and [`pass`](FenceGate::pass) keep the gate closed to everybody else until the write is
//! done, so that no newer holder enters in between. Use `check` alone only where the write that follows compares
//! tokens by itself.
//!
//! # Who passes the gate
//! Those who write, and those who read in order to write. Holders of a shared hold only read, and several of them are
//! valid at once with different tokens: the gate would refuse the older ones, so they do not use it. The permits of a
//! semaphore write at the same time with different tokens, each in a slot of its own, so there is one mark per slot:
//! see [`Fence`].
//!
//! # What a gate does not do
//! It is one resource's: there is no atomicity over several gates, so enter each one before reading its resource.
//! It does not reach a write that cannot be taken behind it, such as a mail that was sent. And it knows only what it
//! remembers: the marks of [`FenceGate::new`] end with the process, and a file of [`FenceGate::open`] that is deleted
//! or restored from a backup lets in whom it refused before.
//!
//! # Invariants
//! 1. The mark of a slot never falls.
//! 2. A token is accepted if and only if it is not below the mark of its slot, and raises the mark in the same step.
//!    An equal one is accepted, because a holder writes many times.
//! 3. A mark that accepted a token is stored before the answer is given.
//! 4. While a [`Passage`] lives, no other decision of its gate is made.
//! 5. In trouble nobody is let in: every answer but `Ok` means "do not write".

mod error;
mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub use error::{FenceError, FenceTrouble, FenceTroubleKind, Stale};

use crate::FencingToken;
use file::FileMarks;

/// What a resource uses to refuse the writes of a stale holder.
///
/// A clone is the same gate. See the [module](self) for the order in which a holder uses it.
///
/// # Guarantees
/// The mark of a slot never falls, and a token below it is refused. Tokens are compared, never interpreted, so a gate
/// works with every engine; it makes no assumption about time.
///
/// # Cancel safety
/// Every method is synchronous: a decision is made when it returns and cannot be half cancelled. Each waits without
/// limit while somebody else has a [`Passage`]. It must: a holder that is paused inside its write would otherwise
/// finish it after the next holder has read. In asynchronous code, [`pass`](Self::pass) says how to wait.
///
/// # Examples
/// ```
/// use tenure_core::{FenceGate, FencingToken};
///
/// let gate = FenceGate::new();
/// # let token = |number| FencingToken::new(number).unwrap();
/// let (older, newer) = (token(33), token(34));
///
/// gate.enter(newer)?; // Before the first read.
/// gate.write(newer, || { /* write to the resource */ })?;
///
/// let refused = gate.write(older, || unreachable!("a stale holder does not write")).unwrap_err();
/// assert_eq!(refused.stale().map(|stale| stale.mark), Some(newer));
/// # Ok::<(), tenure_core::FenceError>(())
/// ```
#[derive(Clone)]
pub struct FenceGate {
    desk: Arc<Desk>,
}

impl FenceGate {
    /// How many slots a gate has, so the greatest limit of a semaphore whose permits it can tell apart.
    pub const SLOTS_MAX: u32 = 4096;

    /// A gate whose marks live in this process.
    ///
    /// Its marks end with the process. A resource that outlives the process needs [`FenceGate::open`], or a check
    /// that is stored with the data.
    #[must_use]
    pub fn new() -> Self {
        Self::over(Marks::Memory(BTreeMap::new()))
    }

    /// A gate whose marks are in a file, shared by all processes of this machine that open the same path.
    ///
    /// A missing or empty file is made into one without marks, readable and writable by its owner only; its directory
    /// must exist. The file is sparse: it is 516 KiB long and takes a few blocks. The path must be on a local file
    /// system, where `flock` and `fdatasync` keep their word.
    ///
    /// # Guarantees
    /// A mark is on the disk before the token that raised it is accepted, so it survives the end of any process and a
    /// power cut, also one in the middle of raising a mark. A file that was deleted, replaced or truncated while the
    /// gate was open is noticed. What is not noticed: a file replaced by an older copy of itself before it is opened,
    /// and a disk that loses the newest mark after it has said that it is stored.
    ///
    /// # Errors
    /// [`FenceError::Trouble`] if the file cannot be opened or is not a whole fence file; it is then left as it is.
    ///
    /// # Examples
    /// ```
    /// use tenure_core::{FenceGate, FencingToken};
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// let path = directory.path().join("orders.fence");
    /// FenceGate::open(&path)?.enter(FencingToken::new(34).unwrap())?;
    ///
    /// // Another process, or this one after a restart.
    /// let gate = FenceGate::open(&path)?;
    /// assert!(gate.check(FencingToken::new(33).unwrap()).unwrap_err().stale().is_some());
    /// # Ok::<(), tenure_core::FenceError>(())
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FenceError> {
        Ok(Self::over(Marks::File(FileMarks::open(path.as_ref())?)))
    }

    /// Lets a new holder in and keeps every older one out; called before the holder's first read.
    ///
    /// # Errors
    /// [`FenceError::Stale`] if a newer holder has entered: the hold is lost. [`FenceError::Trouble`] if the mark could
    /// not be stored, or the slot is not below [`FenceGate::SLOTS_MAX`]: the holder is not in and must not read or
    /// write, and may enter again.
    pub fn enter(&self, fence: impl Into<Fence>) -> Result<(), FenceError> {
        self.pass(fence).map(drop)
    }

    /// Asks whether a holder may write now, and raises the mark like [`enter`](Self::enter).
    ///
    /// The answer holds for the moment in which it was given. A write that follows it is a second step, before which
    /// the holder can be paused and become stale: see [`write`](Self::write).
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub fn check(&self, fence: impl Into<Fence>) -> Result<(), FenceError> {
        self.pass(fence).map(drop)
    }

    /// Checks and writes in one step: runs the closure while nobody else can pass or enter.
    ///
    /// # Guarantees
    /// No decision of this gate, in any slot and in any process that opened its file, falls between the check and the
    /// end of the closure. A process that ends inside the closure opens the gate again. What the closure returns is
    /// returned as it is, also when it is an error of its own.
    ///
    /// # Errors
    /// As [`enter`](Self::enter); the closure was then not called.
    ///
    /// # Panics
    /// If the closure panics. The mark stays raised and the gate opens again. A closure that uses the same gate waits
    /// for itself for ever.
    ///
    /// # Examples
    /// ```
    /// # use tenure_core::{FenceGate, FencingToken};
    /// let gate = FenceGate::new();
    /// let mut balance = 100;
    /// gate.write(FencingToken::new(34).unwrap(), || balance += 1)?;
    /// assert_eq!(balance, 101);
    /// # Ok::<(), tenure_core::FenceError>(())
    /// ```
    pub fn write<T>(&self, fence: impl Into<Fence>, write: impl FnOnce() -> T) -> Result<T, FenceError> {
        let _passage = self.pass(fence)?;
        Ok(write())
    }

    /// Checks, and keeps the gate closed to everybody else until the [`Passage`] is dropped.
    ///
    /// This is [`write`](Self::write) for writes that are asynchronous or spread over several functions. It blocks the
    /// thread while it waits for its turn, so an asynchronous program takes it on a thread for blocking work, as in
    /// the example, and uses the other methods there too: a task that waits for a turn on the runtime's only thread
    /// would keep the task that has the passage from ending it.
    ///
    /// # Guarantees
    /// As [`write`](Self::write), until the passage is dropped.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    ///
    /// # Cancel safety
    /// Dropping a future that has a passage opens the gate at once. A request which that future had sent may still be
    /// on its way to the resource, and no gate stands before it any more: let a write that has begun run to its end,
    /// for example in a task of its own.
    ///
    /// # Examples
    /// ```
    /// # use tenure_core::{FenceGate, FencingToken};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn put(_: &str) {}
    /// let gate = FenceGate::new();
    /// let token = FencingToken::new(34).unwrap();
    ///
    /// let passage = tokio::task::spawn_blocking(move || gate.pass(token)).await??;
    /// put("the write").await;
    /// drop(passage);
    /// # Ok(())
    /// # }
    /// ```
    pub fn pass(&self, fence: impl Into<Fence>) -> Result<Passage, FenceError> {
        let fence = fence.into();
        let mut passage = self.take_turn(fence.slot)?;
        passage.marks_mut().decide(fence)?;
        Ok(passage)
    }

    /// The mark of a slot: the highest token that it accepted, or was about to accept when trouble came; none at first.
    ///
    /// For people and for tests. A holder does not compare by itself: between the look and the write the mark can
    /// rise.
    ///
    /// # Errors
    /// [`FenceError::Trouble`] if the mark cannot be read.
    pub fn mark(&self, slot: u32) -> Result<Option<FencingToken>, FenceError> {
        self.take_turn(slot)?.marks_mut().mark(slot)
    }

    fn over(marks: Marks) -> Self {
        let name = match &marks {
            Marks::Memory(_) => "memory".to_owned(),
            Marks::File(file) => file.path().display().to_string(),
        };
        Self { desk: Arc::new(Desk { name, marks: Mutex::new(Some(marks)), returned: Condvar::new() }) }
    }

    /// Waits until nobody else decides, in this process and then in others.
    fn take_turn(&self, slot: u32) -> Result<Passage, FenceError> {
        if slot >= Self::SLOTS_MAX {
            return Err(FenceTrouble::slot_limit(slot).into());
        }
        let marks = self.desk.take();
        let mut passage = Passage { desk: Arc::clone(&self.desk), marks: Some(marks) };
        if let Marks::File(file) = passage.marks_mut() {
            file.lock()?;
        }
        Ok(passage)
    }
}

impl Default for FenceGate {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FenceGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FenceGate").field(&self.desk.name).finish()
    }
}

/// What a holder shows at a gate: the token of its hold and, of a permit, which one it is.
///
/// Permits are held at the same time with different tokens, so one mark for all would refuse valid holders. The
/// grants of one slot follow each other, and their tokens rise. Wherever a gate wants a fence, a bare token stands for
/// slot 0, the only one of a mutex.
///
/// ```
/// use tenure_core::{Fence, FenceGate, FencingToken};
///
/// let gate = FenceGate::new();
/// # let token = |number| FencingToken::new(number).unwrap();
/// gate.enter(Fence { slot: 1, token: token(34) })?;
/// gate.enter(Fence { slot: 0, token: token(33) })?; // An older permit, still valid.
/// assert!(gate.enter(Fence { slot: 1, token: token(32) }).is_err());
/// # Ok::<(), tenure_core::FenceError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_structs, reason = "a literal is how it is made")]
pub struct Fence {
    /// Which permit it is, from zero; zero for other modes. Below [`FenceGate::SLOTS_MAX`].
    pub slot: u32,
    /// The fencing token of the hold.
    pub token: FencingToken,
}

impl From<FencingToken> for Fence {
    fn from(token: FencingToken) -> Self {
        Self { slot: 0, token }
    }
}

/// A holder that was accepted and keeps the gate closed to everybody else; dropping it opens the gate.
///
/// It can be sent to another thread and kept over an `await`. [`FenceGate::pass`] says what to mind.
#[must_use = "the gate opens when the passage is dropped"]
#[clippy::has_significant_drop]
pub struct Passage {
    desk: Arc<Desk>,
    /// Taken only by `drop`.
    marks: Option<Marks>,
}

impl Passage {
    #[expect(clippy::expect_used, reason = "only `drop` takes the marks out, and nothing runs after it")]
    fn marks_mut(&mut self) -> &mut Marks {
        self.marks.as_mut().expect("a passage has the marks until it is dropped")
    }
}

impl fmt::Debug for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Passage").field(&self.desk.name).finish()
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let Some(mut marks) = self.marks.take() else { return };
        if let Marks::File(file) = &mut marks {
            file.unlock();
        }
        self.desk.give_back(marks);
    }
}

/// Where the marks lie while nobody decides. Who takes them is alone with them, which a `MutexGuard` would give too,
/// but such a guard cannot be sent to another thread.
struct Desk {
    name: String,
    marks: Mutex<Option<Marks>>,
    returned: Condvar,
}

impl Desk {
    fn take(&self) -> Marks {
        let mut marks = self.look();
        loop {
            if let Some(marks) = marks.take() {
                return marks;
            }
            marks = self.returned.wait(marks).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_back(&self, marks: Marks) {
        *self.look() = Some(marks);
        self.returned.notify_one();
    }

    /// No code that can panic runs under this mutex, and whole values are put in and taken out, so a poisoned one
    /// would be sound as well.
    fn look(&self) -> MutexGuard<'_, Option<Marks>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The marks of all slots.
enum Marks {
    Memory(BTreeMap<u32, FencingToken>),
    File(FileMarks),
}

impl Marks {
    /// Accepts the token and has the mark stored, or refuses it.
    fn decide(&mut self, fence: Fence) -> Result<(), FenceError> {
        match self {
            Self::Memory(marks) => {
                let mark = marks.entry(fence.slot).or_insert(fence.token);
                verdict(fence, Some(*mark))?;
                *mark = fence.token;
                Ok(())
            }
            Self::File(file) => file.decide(fence),
        }
    }

    fn mark(&mut self, slot: u32) -> Result<Option<FencingToken>, FenceError> {
        match self {
            Self::Memory(marks) => Ok(marks.get(&slot).copied()),
            Self::File(file) => Ok(file.mark(slot)?),
        }
    }
}

/// The rule of every gate: accepted if and only if the token is not below the mark.
fn verdict(fence: Fence, mark: Option<FencingToken>) -> Result<(), Stale> {
    match mark {
        Some(mark) if fence.token < mark => Err(Stale { slot: fence.slot, offered: fence.token, mark }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(number: u64) -> FencingToken {
        FencingToken::new(number).unwrap()
    }

    /// A value that two holders read and write, and what became of each accepted write.
    struct Shared {
        gate: FenceGate,
        /// The value, as the list of the updates that it is made of.
        value: Vec<u64>,
        accepted: Vec<u64>,
    }

    /// One holder: it enters or not, reads, and writes its update on top of what it read.
    struct Holder {
        token: FencingToken,
        steps: std::vec::IntoIter<fn(&mut Holder, &mut Shared)>,
        read: Vec<u64>,
        refused: bool,
    }

    impl Holder {
        fn new(number: u64, steps: &[fn(&mut Holder, &mut Shared)]) -> Self {
            Self {
                token: token(number),
                steps: Vec::from(steps).into_iter(),
                read: Vec::new(),
                refused: false,
            }
        }

        fn enter(&mut self, shared: &mut Shared) {
            self.refused |= shared.gate.enter(self.token).is_err();
        }

        fn read(&mut self, shared: &mut Shared) {
            self.read = shared.value.clone();
        }

        fn write(&mut self, shared: &mut Shared) {
            if self.refused {
                return;
            }
            let mut value = self.read.clone();
            value.push(self.token.get());
            match shared.gate.write(self.token, || shared.value = value) {
                Ok(()) => shared.accepted.push(self.token.get()),
                Err(error) => {
                    assert!(error.stale().is_some(), "{error}");
                    self.refused = true;
                }
            }
        }
    }

    /// Runs two holders in the order given by the bits of `order`, and says whether an accepted update was lost.
    fn loses_an_update(steps: &[fn(&mut Holder, &mut Shared)], order: u32) -> bool {
        let mut shared = Shared { gate: FenceGate::new(), value: Vec::new(), accepted: Vec::new() };
        let (mut a, mut b) = (Holder::new(33, steps), Holder::new(34, steps));
        for turn in 0..2 * steps.len() {
            let holder = if order >> turn & 1 == 0 { &mut a } else { &mut b };
            let step = holder.steps.next().unwrap();
            step(holder, &mut shared);
        }
        shared.accepted.iter().any(|update| !shared.value.contains(update))
    }

    fn orders(steps: usize) -> impl Iterator<Item = u32> {
        (0u32..1 << (2 * steps)).filter(move |order| order.count_ones() as usize == steps)
    }

    #[test]
    fn c001_fence_in_before_reading_refuses_the_late_write_that_would_be_lost() {
        let gate = FenceGate::new();
        let mut value = 100;

        gate.enter(token(34)).unwrap();
        let read_by_b = value;
        let refused = gate.write(token(33), || value = 150).unwrap_err();
        assert_eq!(refused.stale(), Some(Stale { slot: 0, offered: token(33), mark: token(34) }));
        gate.write(token(34), || value = read_by_b + 1).unwrap();
        assert_eq!(value, 101);
    }

    #[test]
    fn c001_a_check_at_the_write_alone_loses_the_update_of_the_late_writer() {
        let gate = FenceGate::new();
        let mut value = 100;

        let read_by_b = value;
        gate.write(token(33), || value = 150).unwrap();
        gate.write(token(34), || value = read_by_b + 1).unwrap();
        assert_eq!(value, 101, "the update to 150 was accepted, and is gone");
    }

    #[test]
    fn c001_in_every_order_of_steps_no_update_is_lost_with_entering_and_some_without() {
        let with: [fn(&mut Holder, &mut Shared); 4] =
            [Holder::enter, Holder::read, Holder::write, Holder::write];
        let without: [fn(&mut Holder, &mut Shared); 2] = [Holder::read, Holder::write];
        assert!(orders(with.len()).all(|order| !loses_an_update(&with, order)));
        assert!(orders(without.len()).any(|order| loses_an_update(&without, order)));
    }

    #[test]
    fn an_equal_token_is_accepted_again_and_a_lower_one_never() {
        let gate = FenceGate::new();
        assert_eq!(gate.mark(0).unwrap(), None);
        for _ in 0..3 {
            gate.check(token(7)).unwrap();
        }
        assert!(gate.check(token(6)).unwrap_err().stale().is_some());
        assert_eq!(gate.mark(0).unwrap(), Some(token(7)));
    }

    #[test]
    fn an_older_permit_of_another_slot_is_not_refused() {
        let gate = FenceGate::new();
        gate.enter(Fence { slot: 3, token: token(40) }).unwrap();
        gate.enter(Fence { slot: 1, token: token(39) }).unwrap();
        assert!(gate.enter(Fence { slot: 3, token: token(39) }).unwrap_err().stale().is_some());
        assert_eq!(gate.mark(1).unwrap(), Some(token(39)));
    }

    #[test]
    fn a_slot_over_the_limit_is_a_typed_error() {
        let gate = FenceGate::new();
        let last = Fence { slot: FenceGate::SLOTS_MAX - 1, token: token(1) };
        gate.enter(last).unwrap();
        let error = gate.enter(Fence { slot: FenceGate::SLOTS_MAX, ..last }).unwrap_err();
        assert_eq!(error.trouble().map(FenceTrouble::kind), Some(FenceTroubleKind::SlotLimit));
        assert!(gate.mark(u32::MAX).is_err());
    }

    #[test]
    fn a_panic_inside_a_write_opens_the_gate_and_keeps_the_mark() {
        let gate = FenceGate::new();
        let panicking = gate.clone();
        std::thread::spawn(move || panicking.write(token(9), || panic!("on purpose"))).join().unwrap_err();
        assert!(gate.check(token(8)).unwrap_err().stale().is_some());
        gate.check(token(9)).unwrap();
    }

    #[test]
    fn a_newer_holder_enters_only_after_the_passage_has_ended() {
        let gate = FenceGate::new();
        let passage = gate.pass(token(1)).unwrap();
        let written = Arc::new(Mutex::new(false));
        let newer = std::thread::spawn({
            let (gate, written) = (gate.clone(), Arc::clone(&written));
            move || gate.write(token(2), || *written.lock().unwrap()).unwrap()
        });
        // The passage goes to a third thread, which writes and ends it.
        std::thread::spawn({
            let written = Arc::clone(&written);
            move || {
                *written.lock().unwrap() = true;
                drop(passage);
            }
        });
        assert!(newer.join().unwrap(), "the newer holder saw the write of the older one");
    }

    #[test]
    fn gates_and_passages_can_be_sent() {
        fn sent<T: Send + 'static>() {}
        fn shared<T: Send + Sync + 'static>() {}
        sent::<Passage>();
        shared::<FenceGate>();
        shared::<FenceError>();
    }

    proptest! {
        #[test]
        fn marks_never_fall_and_a_stale_token_is_always_refused(
            offers in prop::collection::vec((0u32..3, 1u64..20), 0..60),
        ) {
            let gate = FenceGate::new();
            let mut marks = [0u64; 3];
            for (slot, number) in offers {
                let mark = &mut marks[slot as usize];
                match gate.check(Fence { slot, token: token(number) }) {
                    Ok(()) => prop_assert!(number >= *mark),
                    Err(error) => {
                        let stale = Stale { slot, offered: token(number), mark: token(*mark) };
                        prop_assert!(number < *mark);
                        prop_assert_eq!(error.stale(), Some(stale));
                    }
                }
                *mark = number.max(*mark);
                prop_assert_eq!(gate.mark(slot).unwrap(), Some(token(*mark)));
            }
        }
    }
}
