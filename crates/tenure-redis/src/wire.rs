//! One connection that many tasks share: requests are written as they come, replies are dealt out in order.
//!
//! A task only appends its request to a buffer and waits for its reply; the connection's one driver does all reading
//! and writing. So requests that come together leave together, and a caller that is cancelled drops its end of a
//! channel and nothing else: its reply is still read, in its turn, and thrown away. Nothing is ever sent twice.
//!
//! # Invariants
//! 1. Replies are given to requests in the order in which these were written.
//! 2. When the connection ends, each request still waiting is told so, and whether it may have reached the server: only
//!    one of which no byte was written certainly has not.
//! 3. A request that is not answered within its patience ends the connection: whatever is behind it waits as well.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tenure_core::engine::{Effect, EngineErrorKind, Retry};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::resp::{self, Value};
use crate::trouble::Trouble;

/// A stream of bytes to a server.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Takes in what the server pushes.
pub(crate) type OnPush = Box<dyn Fn(Vec<Value>) + Send>;

/// The shared end of a connection.
pub(crate) struct Wire {
    state: Mutex<State>,
}

struct State {
    /// What was requested and not yet taken up by the driver.
    out: Vec<u8>,
    /// How many bytes were ever requested.
    requested: u64,
    waiting: VecDeque<Waiting>,
    driver: Option<Waker>,
    closing: bool,
    ended: Option<Trouble>,
}

struct Waiting {
    to: oneshot::Sender<Result<Value, Trouble>>,
    /// Where its first byte is in all that was requested.
    begins: u64,
    sent: Moment,
    patience: Duration,
}

impl Wire {
    fn new() -> Self {
        let state = State {
            out: Vec::new(),
            requested: 0,
            waiting: VecDeque::new(),
            driver: None,
            closing: false,
            ended: None,
        };
        Self { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one command.
    ///
    /// # Cancel safety
    /// It was sent, unless the connection had ended; dropping the answer's future changes nothing.
    pub(crate) fn request(
        &self,
        patience: Duration,
        parts: &[&[u8]],
    ) -> impl Future<Output = Result<Value, Trouble>> + Send + use<> {
        let (to, answer) = oneshot::channel();
        let driver = {
            let mut state = self.state();
            if let Some(trouble) = &state.ended {
                let _ = to.send(Err(Trouble { effect: Effect::None, ..trouble.clone() }));
                None
            } else {
                let before = state.out.len();
                resp::command(&mut state.out, parts);
                let length = (state.out.len() - before) as u64;
                let begins = state.requested;
                state.requested += length;
                state.waiting.push_back(Waiting { to, begins, sent: SystemClock.now(), patience });
                state.driver.take()
            }
        };
        if let Some(driver) = driver {
            driver.wake();
        }
        async move {
            let ended = || {
                Trouble::new(
                    EngineErrorKind::Unreachable,
                    Effect::Unknown,
                    Retry::Worth,
                    "the connection ended without an answer",
                )
            };
            answer.await.unwrap_or_else(|_| Err(ended()))
        }
    }

    /// Lets the connection end when everything is answered.
    pub(crate) fn close(&self) {
        let driver = {
            let mut state = self.state();
            state.closing = true;
            state.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Ends the connection now, because it cannot be trusted any more.
    pub(crate) fn kill(&self, why: &str) {
        let driver = {
            let mut state = self.state();
            state.ended.get_or_insert_with(|| Trouble::away(why));
            state.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().ended.is_some()
    }

    /// Tells all who wait that the connection has ended, with the first `written` bytes on their way.
    fn end(&self, trouble: &Trouble, written: u64) {
        let waiting = {
            let mut state = self.state();
            state.ended.get_or_insert_with(|| trouble.clone());
            std::mem::take(&mut state.waiting)
        };
        for one in waiting {
            let effect = if one.begins >= written { Effect::None } else { Effect::Unknown };
            let _ = one.to.send(Err(Trouble { effect, ..trouble.clone() }));
        }
    }
}

/// Reads and writes for everybody; ends with the connection.
pub(crate) struct Driver {
    wire: Arc<Wire>,
    stream: Box<dyn Stream>,
    on_push: OnPush,
    writing: Vec<u8>,
    written_of_writing: usize,
    written: u64,
    flushed: bool,
    chunk: Box<[u8]>,
    unread: Vec<u8>,
    /// Rings when the first of those who wait has waited long enough.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Driver {
    /// A connection over a stream on which nothing is under way, with what was read of it too early.
    pub(crate) fn new(stream: Box<dyn Stream>, unread: Vec<u8>, on_push: OnPush) -> (Arc<Wire>, Self) {
        let wire = Arc::new(Wire::new());
        let driver = Self {
            wire: Arc::clone(&wire),
            stream,
            on_push,
            writing: Vec::new(),
            written_of_writing: 0,
            written: 0,
            flushed: true,
            chunk: vec![0; 16 * 1024].into_boxed_slice(),
            unread,
            alarm: None,
        };
        (wire, driver)
    }

    /// Takes up what was requested; an error when the connection is to end.
    fn take_up(&mut self, waker: &Waker) -> Result<(), Trouble> {
        let mut state = self.wire.state();
        if let Some(trouble) = &state.ended {
            return Err(trouble.clone());
        }
        if self.written_of_writing == self.writing.len() {
            self.writing.clear();
            self.written_of_writing = 0;
            std::mem::swap(&mut self.writing, &mut state.out);
        }
        if state.closing && self.writing.is_empty() && state.waiting.is_empty() {
            return Err(Trouble::away("the connection was closed"));
        }
        if !state.driver.as_ref().is_some_and(|driver| driver.will_wake(waker)) {
            state.driver = Some(waker.clone());
        }
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Trouble> {
        while self.written_of_writing < self.writing.len() {
            let rest = &self.writing[self.written_of_writing..];
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(Trouble::away("the server closed the connection")),
                Poll::Ready(Ok(length)) => {
                    self.written_of_writing += length;
                    self.written += length as u64;
                    self.flushed = false;
                }
                Poll::Ready(Err(error)) => return Err(broken(&error)),
            }
        }
        if !self.flushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.flushed = true,
                Poll::Ready(Err(error)) => return Err(broken(&error)),
            }
        }
        Ok(())
    }

    /// Reads what has come; false when nothing has.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Trouble> {
        let mut buffer = ReadBuf::new(&mut self.chunk);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(error)) => return Err(broken(&error)),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                return Err(Trouble::away("the server closed the connection"));
            }
            Poll::Ready(Ok(())) => self.unread.extend_from_slice(buffer.filled()),
        }
        self.deal()?;
        Ok(true)
    }

    /// Gives each complete reply to whom it belongs.
    fn deal(&mut self) -> Result<(), Trouble> {
        let mut at = 0;
        while at < self.unread.len() {
            let parsed = resp::parse(&self.unread[at..]);
            let parsed = parsed.map_err(|_| Trouble::nonsense("the server does not speak RESP3"))?;
            let Some((value, length)) = parsed else { break };
            at += length;
            if let Value::Push(push) = value {
                (self.on_push)(push);
                continue;
            }
            let one = self.wire.state().waiting.pop_front();
            let one = one.ok_or_else(|| Trouble::nonsense("the server answered what nobody has asked"))?;
            let _ = one.to.send(Ok(value));
        }
        self.unread.drain(..at);
        Ok(())
    }

    /// Ends the connection when the first of those who wait has waited too long. The alarm is not moved with every
    /// reply, only when it rings.
    fn watch(&mut self, cx: &mut Context<'_>) -> Result<(), Trouble> {
        loop {
            if let Some(alarm) = &mut self.alarm {
                if alarm.as_mut().poll(cx).is_pending() {
                    return Ok(());
                }
                self.alarm = None;
            }
            let left = {
                let state = self.wire.state();
                let Some(first) = state.waiting.front() else { return Ok(()) };
                SystemClock.now().until(first.sent.after(first.patience))
            };
            if left.is_zero() {
                return Err(Trouble::away("the server did not answer in time"));
            }
            self.alarm = Some(Box::pin(tokio::time::sleep(left)));
        }
    }

    fn drive(&mut self, cx: &mut Context<'_>) -> Result<(), Trouble> {
        if !self.unread.is_empty() {
            self.deal()?;
        }
        loop {
            self.take_up(cx.waker())?;
            self.write(cx)?;
            if !self.read(cx)? {
                break;
            }
        }
        self.watch(cx)
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.drive(cx) {
            Ok(()) => Poll::Pending,
            Err(trouble) => {
                self.wire.end(&trouble, self.written);
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Driver {
    /// The runtime has ended, or the driver has: nobody reads any more.
    fn drop(&mut self) {
        self.wire.end(&Trouble::away("the runtime of the connection has ended"), self.written);
    }
}

fn broken(error: &std::io::Error) -> Trouble {
    Trouble::away(format!("the connection broke: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    const PATIENCE: Duration = Duration::from_secs(5);

    fn pair() -> (Arc<Wire>, DuplexStream) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (wire, driver) = Driver::new(Box::new(near), Vec::new(), Box::new(|_| ()));
        tokio::spawn(driver);
        (wire, far)
    }

    async fn says(far: &mut DuplexStream, length: usize) -> String {
        let mut bytes = vec![0; length];
        far.read_exact(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn c030_a_cancelled_request_does_not_shift_the_replies_of_others() {
        let (wire, mut far) = pair();
        drop(wire.request(PATIENCE, &[b"one"]));
        let two = wire.request(PATIENCE, &[b"two"]);
        assert!(says(&mut far, 26).await.ends_with("two\r\n"));
        far.write_all(b"+first\r\n>1\r\n+push\r\n+second\r\n").await.unwrap();
        assert_eq!(two.await, Ok(Value::Text(b"second".to_vec())));
    }

    #[tokio::test]
    async fn a_reply_that_nobody_asked_for_ends_the_connection() {
        let (wire, mut far) = pair();
        let one = wire.request(PATIENCE, &[b"one"]);
        far.write_all(b"+yes\r\n+stray\r\n").await.unwrap();
        assert!(one.await.is_ok());
        let error = wire.request(PATIENCE, &[b"two"]).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Protocol);
        assert!(wire.has_ended());
    }

    #[tokio::test]
    async fn c026_only_what_was_not_written_is_certainly_not_applied() {
        let (near, far) = tokio::io::duplex(40);
        let (wire, driver) = Driver::new(Box::new(near), Vec::new(), Box::new(|_| ()));
        let written = wire.request(PATIENCE, &[b"one"]);
        let half = wire.request(PATIENCE, &[&[b'x'; 100]]);
        let unwritten = wire.request(PATIENCE, &[b"three"]);
        let driver = tokio::spawn(driver);
        tokio::task::yield_now().await;
        drop(far);
        driver.await.unwrap();
        assert_eq!(written.await.unwrap_err().effect, Effect::Unknown);
        assert_eq!(half.await.unwrap_err().effect, Effect::Unknown);
        assert_eq!(unwritten.await.unwrap_err().effect, Effect::None);
        assert_eq!(wire.request(PATIENCE, &[b"four"]).await.unwrap_err().effect, Effect::None);
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_ends_the_connection_in_time() {
        let (wire, _far) = pair();
        let error = wire.request(Duration::from_millis(50), &[b"one"]).await.unwrap_err();
        assert_eq!((error.kind, error.effect), (EngineErrorKind::Unreachable, Effect::Unknown));
        assert!(wire.has_ended());
    }

    #[test]
    fn a_runtime_that_ends_tells_those_who_wait() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (wire, _far) = runtime.block_on(async { pair() });
        let one = wire.request(PATIENCE, &[b"one"]);
        drop(runtime);
        let error = futures_executor::block_on(one).unwrap_err();
        assert_eq!((error.kind, error.effect), (EngineErrorKind::Unreachable, Effect::None));
    }
}
