//! Where a run takes place: the engine, the ways to it, and its servers if they are ours.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use tempfile::TempDir;
use tenure::Tenure;
use tenure_core::engine::memory::{Memory, Snapshot};
use tenure_servers::{Proxy, Side};

use crate::VerifyError;
use crate::crew::Crew;
use crate::history::Micros;
use crate::nemesis::{Kind, Strike};
use crate::own::Own;
use crate::weather::Bad;

/// The engine of a run, and the ways to it.
#[derive(Debug)]
pub(crate) struct Site {
    place: Place,
    ttl: Micros,
}

#[derive(Debug)]
enum Place {
    /// The engine in memory; workers are threads.
    Inside { engine: Memory, lagging: Option<Snapshot> },
    /// An engine at a URL; workers are processes.
    Outside(Box<Outside>),
}

#[derive(Debug)]
struct Outside {
    url: String,
    /// For each worker one before each server, so that one can be cut off while others are not.
    proxies: Vec<Vec<Proxy>>,
    own: Option<Own>,
    /// Of a local engine of our own.
    _directory: Option<TempDir>,
}

/// How the way of a worker is made bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Cut,
    Hold,
    Swallow,
    Late,
}

impl Way {
    fn of(strike: &Strike) -> Self {
        [Self::Cut, Self::Hold, Self::Swallow, Self::Late][strike.dice as usize % 4]
    }
}

impl Site {
    /// The engine in memory.
    pub(crate) fn inside(ttl: Micros) -> Self {
        Self { place: Place::Inside { engine: Memory::new(), lagging: None }, ttl }
    }

    /// A local engine in a directory of its own, that goes with the run.
    pub(crate) fn local(ttl: Micros) -> Result<Self, VerifyError> {
        let trouble = |error| VerifyError::trouble(format!("cannot make a directory for the locks: {error}"));
        let directory = tempfile::Builder::new().prefix("tenure-verify-").tempdir().map_err(trouble)?;
        let url = format!("local://{}", directory.path().display());
        let outside = Outside { url, proxies: vec![], own: None, _directory: Some(directory) };
        Ok(Self { place: Place::Outside(Box::new(outside)), ttl })
    }

    /// An engine at a URL.
    pub(crate) fn at(url: &str, ttl: Micros) -> Self {
        let outside = Outside { url: url.to_owned(), proxies: vec![], own: None, _directory: None };
        Self { place: Place::Outside(Box::new(outside)), ttl }
    }

    /// Servers of our own.
    pub(crate) fn own(mut own: Own, ttl: Micros) -> Self {
        let url = {
            let ports = own.ports();
            own.url(&ports)
        };
        let outside = Outside { url, proxies: vec![], own: Some(own), _directory: None };
        Self { place: Place::Outside(Box::new(outside)), ttl }
    }

    /// The URL of a database that needs tables before it is used.
    pub(crate) fn needs_tables(&self) -> Option<&str> {
        let Place::Outside(outside) = &self.place else { return None };
        outside.own.as_ref().filter(|own| own.needs_tables()).map(|_| outside.url.as_str())
    }

    /// Puts a proxy before the server, for each worker.
    pub(crate) fn interpose(&mut self, workers: usize) -> Result<(), VerifyError> {
        let Place::Outside(outside) = &mut self.place else { return Ok(()) };
        let servers = match (&mut outside.own, split(&outside.url)) {
            (Some(own), _) => {
                own.ports().into_iter().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).collect()
            }
            (None, Some((_, server, _))) => vec![resolve(server).ok_or_else(|| {
                VerifyError::Unreachable(format!("the address of the server, {server}, cannot be found"))
            })?],
            (None, None) => {
                let message = "cut works by a proxy, for the URL of one server without encryption: \
                               leave it out of --nemesis";
                return Err(VerifyError::Usage(message.to_owned()));
            }
        };
        for _ in 0..workers {
            let proxies = servers.iter().map(|server| Proxy::before_address(*server, Proxy::bytes));
            let proxies = proxies.collect::<Result<_, _>>();
            outside.proxies.push(proxies.map_err(|error| VerifyError::trouble(error.to_string()))?);
        }
        Ok(())
    }

    /// The engine in memory, if it is that.
    pub(crate) fn memory(&self) -> Option<&Memory> {
        match &self.place {
            Place::Inside { engine, .. } => Some(engine),
            Place::Outside(_) => None,
        }
    }

    /// The URL by which a worker reaches the engine.
    pub(crate) fn url_of(&self, worker: usize) -> String {
        match &self.place {
            Place::Inside { .. } => "memory:".to_owned(),
            Place::Outside(outside) => {
                let Some(proxies) = outside.proxies.get(worker) else { return outside.url.clone() };
                let ports: Vec<_> = proxies.iter().map(Proxy::port).collect();
                match (&outside.own, split(&outside.url)) {
                    (Some(own), _) => own.url(&ports),
                    (None, Some((head, _, tail))) => format!("{head}127.0.0.1:{}{tail}", ports[0]),
                    (None, None) => outside.url.clone(),
                }
            }
        }
    }

    /// The engine without any proxy, to watch it.
    pub(crate) fn watch(&self) -> Watch {
        match &self.place {
            Place::Inside { engine, .. } => Watch::Inside(engine.clone()),
            Place::Outside(outside) => Watch::Outside(outside.url.clone()),
        }
    }

    /// A client that no nemesis touches.
    pub(crate) async fn connect(&self) -> Result<Tenure, tenure::Error> {
        self.watch().connect().await
    }

    /// The name by which something else is expected of the engine.
    pub(crate) fn expected_as(&self) -> Option<&'static str> {
        match &self.place {
            Place::Outside(outside) => outside.own.as_ref().and_then(Own::expected_as),
            Place::Inside { .. } => None,
        }
    }

    /// What our server says of itself.
    pub(crate) fn server(&mut self) -> Option<String> {
        match &mut self.place {
            Place::Outside(outside) => outside.own.as_mut().map(Own::name),
            Place::Inside { .. } => None,
        }
    }

    /// What the engine can be put through here.
    pub(crate) fn possible(&self) -> Vec<Kind> {
        match &self.place {
            Place::Inside { .. } => vec![Kind::Kill, Kind::Pause, Kind::Cut, Kind::Failover],
            Place::Outside(outside) => {
                let mut kinds = vec![Kind::Kill, Kind::Pause];
                let can_be_cut_off = match &outside.own {
                    Some(own) => own.can_be_cut_off(),
                    None => split(&outside.url).is_some(),
                };
                if can_be_cut_off {
                    kinds.push(Kind::Cut);
                }
                kinds.extend(outside.own.iter().flat_map(|own| own.possible()));
                kinds
            }
        }
    }

    /// Whether the engine may forget what it has acknowledged when this happens to it.
    pub(crate) fn forgets(&self, kind: Kind) -> bool {
        match &self.place {
            Place::Inside { .. } => kind == Kind::Failover,
            Place::Outside(outside) => outside.own.as_ref().is_some_and(|own| own.forgets(kind)),
        }
    }

    /// A fault in words.
    pub(crate) fn describe(&self, strike: &Strike) -> String {
        let ms = strike.lasts / 1_000;
        match strike.kind {
            Kind::Cut => format!("{:?} for {ms} ms", Way::of(strike)).to_lowercase(),
            _ => format!("for {ms} ms"),
        }
    }

    /// Begins a fault of the network or of servers.
    pub(crate) fn strike(&mut self, strike: &Strike, crew: &Crew) -> Result<(), String> {
        let late = Duration::from_micros(self.late(strike));
        match (&mut self.place, strike.kind) {
            (Place::Inside { .. }, Kind::Cut) => {
                let bad = if Way::of(strike) == Way::Cut { Bad::Cut } else { Bad::Late(late) };
                crew.members[strike.victim].weather.turn(bad);
            }
            (Place::Inside { engine, lagging }, Kind::Failover) => *lagging = Some(engine.snapshot()),
            (Place::Outside(outside), Kind::Cut) => {
                for proxy in outside.proxies.get(strike.victim).into_iter().flatten() {
                    make_bad(proxy, Way::of(strike), late);
                }
            }
            (Place::Outside(outside), kind) => {
                if let Some(own) = &mut outside.own {
                    own.strike(kind, strike.victim, strike.dice)?;
                }
            }
            (Place::Inside { .. }, _) => {}
        }
        Ok(())
    }

    /// Ends a fault of the network or of servers.
    pub(crate) fn heal(&mut self, strike: &Strike, crew: &Crew) -> Result<(), String> {
        match (&mut self.place, strike.kind) {
            (Place::Inside { .. }, Kind::Cut) => crew.members[strike.victim].weather.turn(Bad::Nothing),
            (Place::Inside { engine, lagging }, Kind::Failover) => {
                if let Some(lagging) = lagging.take() {
                    engine.restore(lagging);
                }
            }
            (Place::Outside(outside), Kind::Cut) => {
                for proxy in outside.proxies.get(strike.victim).into_iter().flatten() {
                    make_good(proxy, Way::of(strike));
                }
            }
            (Place::Outside(outside), kind) => {
                if let Some(own) = &mut outside.own {
                    own.heal(kind, strike.victim)?;
                }
            }
            (Place::Inside { .. }, _) => {}
        }
        Ok(())
    }

    /// For how long after its end a fault still has effects that nobody can take back.
    pub(crate) fn fades(&self, strike: &Strike) -> Option<Micros> {
        let is_inside = matches!(self.place, Place::Inside { .. });
        match (strike.kind, Way::of(strike)) {
            (Kind::Cut, Way::Cut | Way::Hold | Way::Swallow) if !is_inside => None,
            (Kind::Cut, _) => Some(self.late(strike)),
            _ => None,
        }
    }

    /// How late messages are at most: inside, where nothing keeps them in order, for nearly as long as a tombstone
    /// lasts, which is one TTL.
    fn late(&self, strike: &Strike) -> Micros {
        match self.place {
            Place::Inside { .. } => self.ttl * 9 / 10,
            Place::Outside(_) => strike.lasts.min(self.ttl / 2),
        }
    }
}

/// The engine as one reaches it who only watches.
#[derive(Clone, Debug)]
pub(crate) enum Watch {
    Inside(Memory),
    Outside(String),
}

impl Watch {
    pub(crate) async fn connect(&self) -> Result<Tenure, tenure::Error> {
        match self {
            Self::Inside(engine) => Ok(Tenure::new(engine.clone())),
            Self::Outside(url) => tenure::connect(url).await,
        }
    }
}

fn make_bad(proxy: &Proxy, way: Way, late: Duration) {
    for side in [Side::Requests, Side::Replies] {
        match way {
            Way::Cut => {}
            Way::Hold => proxy.hold(side, true),
            Way::Swallow => proxy.swallow(side, true),
            Way::Late => proxy.delay(side, late),
        }
    }
    if way == Way::Cut {
        proxy.refuse(true);
        proxy.cut();
    }
}

fn make_good(proxy: &Proxy, way: Way) {
    for side in [Side::Requests, Side::Replies] {
        proxy.hold(side, false);
        proxy.swallow(side, false);
        proxy.delay(side, Duration::ZERO);
    }
    proxy.refuse(false);
    if way == Way::Swallow {
        // What was swallowed in the middle of a message cannot be made good.
        proxy.cut();
    }
}

/// What is before the address of the one server of a URL, the address, and what is behind it; none when there is not
/// exactly one that a proxy can stand before.
fn split(url: &str) -> Option<(&str, &str, &str)> {
    let scheme = url.find("://")?;
    if ["rediss", "etcds", "local", "memory"].contains(&&url[..scheme]) || url[..scheme].contains(['+', '-'])
    {
        return None;
    }
    let begin = scheme + 3;
    let end = url[begin..].find(['/', '?', '#']).map_or(url.len(), |end| begin + end);
    let begin = url[begin..end].rfind('@').map_or(begin, |at| begin + at + 1);
    let server = &url[begin..end];
    (!server.is_empty() && !server.contains(',')).then(|| (&url[..begin], server, &url[end..]))
}

fn resolve(server: &str) -> Option<SocketAddr> {
    server.to_socket_addrs().ok()?.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_stands_before_one_server_and_no_other_url() {
        assert_eq!(split("redis://h:1"), Some(("redis://", "h:1", "")));
        assert_eq!(split("redis://u:p@h:1/3?x=y"), Some(("redis://u:p@", "h:1", "/3?x=y")));
        for other in
            ["rediss://h:1", "local:///x", "memory:", "redis+unix:///x", "etcd://a:1,b:2", "redis://"]
        {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
