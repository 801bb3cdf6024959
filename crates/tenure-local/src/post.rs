//! Wakes between processes: a datagram to those whose turn has come, and an ear that hears them and deaths.
//!
//! Whoever changes a line knows from the file whom that concerns, and sends each of them one datagram: a release
//! wakes one waiter, however many wait. A process that is killed sends nothing, but the kernel closes its member
//! file, and a watch on the directory tells that to everybody who waits.
//!
//! All of this is a hint. A datagram can be lost, and on a system without a free inotify instance deaths are not
//! heard; then a waiter learns of the change when it looks again by itself ([`REFRESH_EVERY`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tenure_core::ClaimId;
use tenure_core::engine::Wake;
use tenure_core::engine::signals::Signals;

use crate::directory::Directory;
use crate::member::Members;
use crate::member_id::MemberId;

/// How often a waiter looks by itself.
pub(crate) const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// A socket's queue holds ten datagrams unless the system says otherwise. Whoever finds as many at once may have
/// missed some.
const QUEUE_LEN: usize = 10;

/// How many sockets stay connected.
const CONNECTED_MAX: usize = 32;

/// Sockets that datagrams are sent from, connected to those we have written to: finding the other's socket by its
/// path costs as much as the rest of a hand-off.
#[derive(Debug, Default)]
pub(crate) struct Outbox(Mutex<HashMap<MemberId, OwnedFd>>);

impl Outbox {
    /// Tells a member to let a claim look again. Who does not listen looks by himself.
    pub(crate) fn send(&self, directory: &Directory, to: MemberId, claim: ClaimId) {
        let mut connected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if connected.len() >= CONNECTED_MAX && !connected.contains_key(&to) {
            connected.clear();
        }
        let socket = match connected.entry(to) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => match socket_to(directory, to) {
                Ok(socket) => vacant.insert(socket),
                Err(_) => return,
            },
        };
        let sent = rustix::net::send(socket, &claim.bits().to_le_bytes(), SendFlags::NOSIGNAL);
        // A full queue empties itself, and its owner knows what that means. Any other trouble is his end.
        if sent.is_err_and(|error| error != Errno::WOULDBLOCK) {
            connected.remove(&to);
        }
    }
}

/// Listens on a thread of its own until dropped.
#[derive(Debug)]
pub(crate) struct Ear {
    stop: Arc<OwnedFd>,
}

impl Ear {
    /// Begins to listen for a member; none when the system lacks what it takes.
    pub(crate) fn new(members: &Arc<Members>, own: MemberId, signals: &Arc<Signals>) -> Option<Self> {
        let socket = bound(&members.directory, own).ok()?;
        let watch = watch(&members.directory).ok();
        let stop = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC).ok()?);
        let (members, signals, stopped) = (Arc::clone(members), Arc::clone(signals), Arc::clone(&stop));
        let listen = move || {
            members.sweep();
            Hearing { socket, watch, stopped, members, signals, own }.run();
        };
        std::thread::Builder::new().name("tenure-ear".into()).spawn(listen).ok()?;
        Some(Self { stop })
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        // The counter is zero, so there is room for one.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

/// What the ear's thread owns.
struct Hearing {
    socket: OwnedFd,
    watch: Option<OwnedFd>,
    stopped: Arc<OwnedFd>,
    members: Arc<Members>,
    signals: Arc<Signals>,
    own: MemberId,
}

impl Hearing {
    /// Runs as long as the engine is in use.
    fn run(self) {
        loop {
            let mut sources =
                vec![PollFd::new(&self.stopped, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
            sources.extend(self.watch.as_ref().map(|watch| PollFd::new(watch, PollFlags::IN)));
            match rustix::event::poll(&mut sources, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let ready: Vec<_> = sources.iter().map(|source| !source.revents().is_empty()).collect();
            if ready[0] {
                return;
            }
            if ready[1] {
                self.hear_datagrams();
            }
            if let (Some(watch), Some(true)) = (&self.watch, ready.get(2)) {
                self.hear_deaths(watch);
            }
        }
    }

    fn hear_datagrams(&self) {
        let mut heard = 0;
        let mut datagram = [0; 16];
        loop {
            match rustix::net::recv(&self.socket, &mut datagram, RecvFlags::DONTWAIT) {
                Ok((16, _)) => {
                    let claim = ClaimId::from_bits(u128::from_le_bytes(datagram));
                    self.signals.tell(claim, Wake::LookAgain);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
            heard += 1;
        }
        if heard >= QUEUE_LEN {
            self.signals.tell_all();
        }
    }

    fn hear_deaths(&self, watch: &OwnedFd) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(watch, &mut buffer);
        let mut changed = false;
        while let Ok(event) = reader.next() {
            changed |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            let Some(dead) = event.file_name().and_then(MemberId::of_name) else { continue };
            if dead != self.own {
                self.members.wait_until_dead(dead);
                changed = true;
            }
        }
        if changed {
            self.signals.tell_all();
        }
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
}

fn socket_to(directory: &Directory, to: MemberId) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    rustix::net::connect(&socket, &address(directory, to)?)?;
    Ok(socket)
}

/// The socket of a member, with the rights of its file.
fn bound(directory: &Directory, own: MemberId) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    rustix::net::bind(&socket, &address(directory, own)?)?;
    let mode: Mode = directory.file_mode();
    rustix::fs::chmodat(&directory.members, own.socket(), mode, AtFlags::empty())?;
    Ok(socket)
}

/// A path by way of the open directory: a socket's address has room for 107 bytes only.
fn address(directory: &Directory, member: MemberId) -> Result<SocketAddrUnix, Errno> {
    let members = directory.members.as_fd().as_raw_fd();
    SocketAddrUnix::new(format!("/proc/self/fd/{members}/{}", member.socket()))
}

/// Watches for files of members that are closed. Those that were removed before, by an orderly end, do not count.
fn watch(directory: &Directory) -> Result<OwnedFd, Errno> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let members = format!("/proc/self/fd/{}", directory.members.as_fd().as_raw_fd());
    inotify::add_watch(&watch, members, WatchFlags::CLOSE_WRITE | WatchFlags::EXCL_UNLINK)?;
    Ok(watch)
}
