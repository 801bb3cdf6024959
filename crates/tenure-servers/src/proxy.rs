//! A proxy between clients and one server that misbehaves when it is told to.
//!
//! What passes is cut into the frames of the protocol, so that a test can speak of the next request or the next reply.
//! Each direction of each connection has a thread that reads and one that writes; between them is a queue, so that a
//! delay makes the way longer and not narrower.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::wait::now;
use crate::{Framing, LIMIT, ServerError};

/// Which way something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "there are two ways")]
pub enum Side {
    /// From clients to the server.
    Requests,
    /// From the server to clients.
    Replies,
}

/// What is done to one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trick {
    /// It is lost; what follows passes.
    Drop,
    /// It is passed on twice.
    Duplicate,
    /// The connection is cut instead of passing it on.
    CutBefore,
    /// It is passed on, and the connection is cut.
    CutAfter,
    /// It is passed on with the first of these bytes written as others.
    Replace {
        /// What is looked for.
        from: Vec<u8>,
        /// What is written instead.
        to: Vec<u8>,
    },
    /// It is passed on so much later, and what follows with it.
    Delay(Duration),
    /// It is passed on byte by byte, one in each such time.
    Drip(Duration),
    /// It is lost, and whoever sent it gets these bytes back: an error that the server never said. Meant for a
    /// connection on which nothing else is under way, or the answers get out of step.
    Answer(Vec<u8>),
}

/// Listens on a port of its own and passes everything on to a server.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    rules: Arc<Rules>,
}

type Matcher = Box<dyn Fn(&[u8]) -> bool + Send>;

#[derive(Default)]
struct Rules {
    now: Mutex<Now>,
    changed: Condvar,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Now {
    requests: Way,
    replies: Way,
    /// New connections are closed at once.
    refuses: bool,
    /// New connections are accepted, and nobody is behind them.
    half_open: bool,
    open: Vec<(TcpStream, TcpStream)>,
    /// Clients that were accepted while nobody was behind us.
    stranded: Vec<TcpStream>,
    /// How many tricks were played, and frames held.
    events: usize,
}

#[derive(Default)]
struct Way {
    holds: bool,
    swallows: bool,
    delay: Duration,
    /// How many bytes pass in a second, on each connection.
    bandwidth: Option<u32>,
    tricks: VecDeque<(Matcher, Trick)>,
}

impl Now {
    fn way(&mut self, side: Side) -> &mut Way {
        match side {
            Side::Requests => &mut self.requests,
            Side::Replies => &mut self.replies,
        }
    }
}

impl Proxy {
    /// A proxy before the server at a port of this machine.
    ///
    /// # Errors
    /// When the machine has no port left.
    pub fn before(server_port: u16, framing: Framing) -> Result<Self, ServerError> {
        Self::before_address(SocketAddr::from((Ipv4Addr::LOCALHOST, server_port)), framing)
    }

    /// A proxy before the server at an address.
    ///
    /// # Errors
    /// As [`Proxy::before`].
    pub fn before_address(server: SocketAddr, framing: Framing) -> Result<Self, ServerError> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(ServerError::step("open a proxy"))?;
        let port = listener.local_addr().map_err(ServerError::step("open a proxy"))?.port();
        let rules = Arc::new(Rules::default());
        let ours = Arc::downgrade(&rules);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Some(rules) = ours.upgrade() else { return };
                // A server that is away looks to the client like one that hangs up.
                let _ = connect(&rules, client, server, framing);
            }
        });
        Ok(Self { port, rules })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Plays a trick on the next frame that goes this way and that matches. Tricks of one way are played in order.
    pub fn next(&self, side: Side, matches: impl Fn(&[u8]) -> bool + Send + 'static, trick: Trick) {
        self.rules.now().way(side).tricks.push_back((Box::new(matches), trick));
    }

    /// Keeps back what goes this way, or lets it go on; nothing is lost.
    pub fn hold(&self, side: Side, holds: bool) {
        self.rules.now().way(side).holds = holds;
        self.rules.changed.notify_all();
    }

    /// Loses all that goes this way, on connections that stay open: half of a network is gone.
    pub fn swallow(&self, side: Side, swallows: bool) {
        self.rules.now().way(side).swallows = swallows;
    }

    /// Makes this way longer.
    pub fn delay(&self, side: Side, delay: Duration) {
        self.rules.now().way(side).delay = delay;
    }

    /// Makes this way narrower: so many bytes a second on each connection, or as many as come.
    pub fn bandwidth(&self, side: Side, bytes_per_second: Option<NonZeroU32>) {
        self.rules.now().way(side).bandwidth = bytes_per_second.map(NonZeroU32::get);
    }

    /// Loses all that goes either way on connections that stay open, and accepts new ones behind which nobody is: a
    /// machine that has gone without saying so. Or lets everybody pass again; who was accepted meanwhile is cut.
    pub fn half_open(&self, half_open: bool) {
        let mut now = self.rules.now();
        now.half_open = half_open;
        now.requests.swallows = half_open;
        now.replies.swallows = half_open;
        for stranded in now.stranded.drain(..) {
            let _ = stranded.shutdown(Shutdown::Both);
        }
    }

    /// Cuts all connections that are open.
    pub fn cut(&self) {
        let mut now = self.rules.now();
        now.events += 1;
        for (client, server) in now.open.drain(..) {
            hang_up(&client, &server);
        }
        for stranded in now.stranded.drain(..) {
            let _ = stranded.shutdown(Shutdown::Both);
        }
        drop(now);
        self.rules.changed.notify_all();
    }

    /// Closes new connections at once, or accepts them again.
    pub fn refuse(&self, refuses: bool) {
        self.rules.now().refuses = refuses;
    }

    /// How many tricks were played, frames held, and cuts made.
    #[must_use]
    pub fn events(&self) -> usize {
        self.rules.now().events
    }

    /// Waits until there were so many events; false when there were not within [`LIMIT`].
    #[must_use]
    pub fn wait_for_events(&self, count: usize) -> bool {
        let now = self.rules.now();
        let waited = self.rules.changed.wait_timeout_while(now, LIMIT, |now| now.events < count);
        let (_now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse(true);
        self.hold(Side::Requests, false);
        self.hold(Side::Replies, false);
        self.cut();
        // Wakes the thread that listens, which then finds that nobody needs it.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let _ = TcpStream::connect_timeout(&address, Duration::from_millis(100));
    }
}

fn connect(rules: &Arc<Rules>, client: TcpStream, server: SocketAddr, framing: Framing) -> io::Result<()> {
    {
        let mut now = rules.now();
        if now.refuses {
            return client.shutdown(Shutdown::Both);
        }
        if now.half_open {
            now.stranded.push(client);
            rules.event(&mut now);
            return Ok(());
        }
    }
    let server = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    rules.now().open.push((client.try_clone()?, server.try_clone()?));
    let ((to_server, for_server), (to_client, for_client)) = (channel(), channel());
    let requests =
        Lane { side: Side::Requests, ahead: to_server.clone(), back: to_client.clone(), free: now() };
    let replies = Lane { side: Side::Replies, ahead: to_client, back: to_server, free: now() };
    for (mut lane, queued, from, to) in [
        (requests, for_server, client.try_clone()?, server.try_clone()?),
        (replies, for_client, server, client),
    ] {
        let rules = Arc::clone(rules);
        let (source, sink) = (from.try_clone()?, to.try_clone()?);
        std::thread::spawn(move || {
            // Whichever way ends, the connection has ended.
            let _ = read(&rules, &mut lane, source, framing);
            let _ = lane.ahead.send(Queued { due: now(), bytes: None });
        });
        std::thread::spawn(move || {
            let _ = write(sink, &queued);
            hang_up(&from, &to);
        });
    }
    Ok(())
}

fn hang_up(one: &TcpStream, other: &TcpStream) {
    // Either may have gone already.
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}

/// Bytes, and when they are to be there; none is the end of the connection.
struct Queued {
    due: Instant,
    bytes: Option<Vec<u8>>,
}

/// One way of one connection.
struct Lane {
    side: Side,
    ahead: Sender<Queued>,
    back: Sender<Queued>,
    /// When a narrow way has passed on all that is queued.
    free: Instant,
}

fn read(rules: &Rules, lane: &mut Lane, mut from: TcpStream, framing: Framing) -> io::Result<()> {
    let mut pending = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&chunk[..read]);
        while let Some(length) = framing(&pending).filter(|length| (1..=pending.len()).contains(length)) {
            let frame: Vec<u8> = pending.drain(..length).collect();
            if !rules.judge(lane, frame) {
                return Ok(());
            }
        }
    }
}

fn write(mut to: TcpStream, queued: &Receiver<Queued>) -> io::Result<()> {
    for Queued { due, bytes } in queued {
        let Some(bytes) = bytes else { return Ok(()) };
        loop {
            let left = due.saturating_duration_since(now());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        to.write_all(&bytes)?;
    }
    Ok(())
}

impl Rules {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, now: &mut Now) {
        now.events += 1;
        self.changed.notify_all();
    }

    /// Passes a frame on as the rules say; false when the connection is to end.
    fn judge(&self, lane: &mut Lane, frame: Vec<u8>) -> bool {
        let side = lane.side;
        let mut state = self.now();
        if state.way(side).holds {
            self.event(&mut state);
            let held = self.changed.wait_while(state, |now| now.way(side).holds);
            state = held.unwrap_or_else(PoisonError::into_inner);
        }
        if state.way(side).swallows {
            self.event(&mut state);
            return true;
        }
        let (due, bandwidth) = (now() + state.way(side).delay, state.way(side).bandwidth);
        let tricks = &mut state.way(side).tricks;
        let trick = match tricks.front() {
            Some((matches, _)) if matches(&frame) => tricks.pop_front().map(|(_, trick)| trick),
            _ => None,
        };
        if trick.is_some() {
            self.event(&mut state);
        }
        drop(state);
        match trick {
            None => lane.pass(due, frame, bandwidth),
            Some(Trick::Drop) => true,
            Some(Trick::Duplicate) => {
                lane.pass(due, frame.clone(), bandwidth) && lane.pass(due, frame, bandwidth)
            }
            Some(Trick::CutBefore) => false,
            Some(Trick::CutAfter) => {
                lane.pass(due, frame, bandwidth);
                false
            }
            Some(Trick::Replace { from, to }) => lane.pass(due, replaced(frame, &from, &to), bandwidth),
            Some(Trick::Delay(delay)) => lane.pass(due + delay, frame, bandwidth),
            Some(Trick::Drip(every)) => {
                frame.into_iter().zip(1..).all(|(byte, at)| lane.queue(due + every * at, vec![byte]))
            }
            Some(Trick::Answer(bytes)) => lane.back.send(Queued { due, bytes: Some(bytes) }).is_ok(),
        }
    }
}

impl Lane {
    /// Queues a frame, in pieces where the way is narrow.
    fn pass(&mut self, due: Instant, frame: Vec<u8>, bandwidth: Option<u32>) -> bool {
        let Some(bandwidth) = bandwidth else { return self.queue(due, frame) };
        let piece = usize::try_from(bandwidth / 50).unwrap_or(usize::MAX).max(1);
        frame.chunks(piece).all(|bytes| {
            let takes = Duration::from_secs_f64(bytes.len() as f64 / f64::from(bandwidth));
            self.free = self.free.max(due) + takes;
            self.queue(self.free, bytes.to_vec())
        })
    }

    fn queue(&self, due: Instant, bytes: Vec<u8>) -> bool {
        self.ahead.send(Queued { due, bytes: Some(bytes) }).is_ok()
    }
}

fn replaced(mut frame: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    if let Some(at) = frame.windows(from.len().max(1)).position(|window| window == from) {
        frame.splice(at..at + from.len(), to.iter().copied());
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo behind a proxy: what was sent comes back as the tricks say.
    fn echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut &stream));
            }
        });
        let proxy = Proxy::before(port, Proxy::length_first).unwrap();
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        (proxy, stream)
    }

    fn say(stream: &mut TcpStream, what: u8) {
        stream.write_all(&[0, 0, 0, 1, what]).unwrap();
    }

    fn hear(stream: &mut TcpStream) -> Option<u8> {
        let mut frame = [0; 5];
        stream.read_exact(&mut frame).ok().map(|()| frame[4])
    }

    #[test]
    fn a_trick_is_played_on_the_frame_that_it_is_meant_for() {
        let (proxy, mut stream) = echo();
        proxy.next(Side::Requests, |frame| frame[4] == 2, Trick::Drop);
        proxy.next(Side::Requests, |_| true, Trick::Duplicate);
        proxy.next(Side::Requests, |_| true, Trick::Replace { from: vec![4], to: vec![5] });
        [1, 2, 3, 4].into_iter().for_each(|what| say(&mut stream, what));
        assert_eq!([(); 4].map(|()| hear(&mut stream)), [Some(1), Some(3), Some(3), Some(5)]);
        assert_eq!(proxy.events(), 3);
        proxy.next(Side::Replies, |_| true, Trick::CutBefore);
        say(&mut stream, 5);
        assert_eq!(hear(&mut stream), None);
    }

    #[test]
    fn what_is_held_comes_later_and_what_is_swallowed_never() {
        let (proxy, mut stream) = echo();
        proxy.hold(Side::Replies, true);
        say(&mut stream, 1);
        assert!(proxy.wait_for_events(1));
        proxy.hold(Side::Replies, false);
        assert_eq!(hear(&mut stream), Some(1));
        proxy.swallow(Side::Requests, true);
        say(&mut stream, 2);
        assert!(proxy.wait_for_events(2));
        proxy.swallow(Side::Requests, false);
        proxy.delay(Side::Requests, Duration::from_millis(20));
        let before = now();
        say(&mut stream, 3);
        assert_eq!(hear(&mut stream), Some(3));
        assert!(before.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn an_answer_that_the_server_never_gave_comes_back_in_its_place() {
        let (proxy, mut stream) = echo();
        proxy.next(Side::Requests, |frame| frame[4] == 2, Trick::Answer(vec![0, 0, 0, 1, 9]));
        [1, 2].into_iter().for_each(|what| say(&mut stream, what));
        let mut heard = [hear(&mut stream), hear(&mut stream)];
        heard.sort();
        assert_eq!(heard, [Some(1), Some(9)]);
        say(&mut stream, 3);
        assert_eq!(hear(&mut stream), Some(3));
    }

    #[test]
    fn a_drip_and_a_narrow_way_take_their_time_and_lose_nothing() {
        let (proxy, mut stream) = echo();
        let before = now();
        proxy.next(Side::Replies, |_| true, Trick::Drip(Duration::from_millis(4)));
        say(&mut stream, 1);
        assert_eq!(hear(&mut stream), Some(1));
        assert!(before.elapsed() >= Duration::from_millis(20), "five bytes");
        proxy.bandwidth(Side::Requests, NonZeroU32::new(500));
        let before = now();
        (0..10).for_each(|what| say(&mut stream, what));
        (0..10).for_each(|what| assert_eq!(hear(&mut stream), Some(what)));
        assert!(before.elapsed() >= Duration::from_millis(90), "fifty bytes");
    }

    #[test]
    fn a_half_open_server_accepts_and_never_answers() {
        let (proxy, mut stream) = echo();
        say(&mut stream, 0);
        assert_eq!(hear(&mut stream), Some(0));
        proxy.half_open(true);
        let mut stranded = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        say(&mut stream, 1);
        say(&mut stranded, 1);
        assert!(proxy.wait_for_events(2), "one was accepted, one frame lost");
        stranded.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(hear(&mut stranded), None);
        proxy.half_open(false);
        say(&mut stream, 2);
        assert_eq!(hear(&mut stream), Some(2));
    }

    #[test]
    fn a_cut_ends_all_connections_and_a_refusal_new_ones() {
        let (proxy, mut stream) = echo();
        say(&mut stream, 1);
        assert_eq!(hear(&mut stream), Some(1));
        proxy.refuse(true);
        proxy.cut();
        assert_eq!(hear(&mut stream), None);
        let mut next = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        assert_eq!(hear(&mut next), None);
    }
}
