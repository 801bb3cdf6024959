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
mod tests;
