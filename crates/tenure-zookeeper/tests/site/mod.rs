//! An ensemble for all trials of a run; each client behind a way of its own, which can be cut for good.
#![allow(clippy::expect_used, reason = "a site that cannot be opened fails the run")]

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tenure_conformance::{Hook, Site};
use tenure_servers::ServerError;
use tenure_servers::zookeeper::ZookeeperEnsemble;
use tenure_zookeeper::{Terms, Zookeeper, ZookeeperOptions};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Empty folders are kept for longer than a run: a trial looks at what the folder of a line without places remembers.
pub(crate) const JAVA: &[&str] = &["-Dznode.container.checkIntervalMs=3600000"];

/// Long enough for a busy machine, and short enough for a trial that waits for its end.
const SESSION: Duration = Duration::from_secs(8);

pub(crate) fn run(
    start: impl Fn() -> Result<ZookeeperEnsemble, ServerError> + Send + Sync + 'static,
) -> ExitCode {
    let ensemble: OnceLock<String> = OnceLock::new();
    let running: Arc<Mutex<Option<ZookeeperEnsemble>>> = Arc::default();
    let keeps = Arc::clone(&running);
    let code = tenure_conformance::run("zookeeper", move || {
        let hosts = ensemble.get_or_init(|| {
            let ensemble = start().expect("an ensemble");
            let hosts = ensemble.hosts();
            *keeps.lock().expect("nobody panics here") = Some(ensemble);
            hosts
        });
        let hosts = hosts.split(',').map(str::to_owned).collect();
        async move { ZookeeperSite { hosts, ways: Mutex::default() } }
    });
    drop(running.lock().expect("nobody panics here").take());
    code
}

#[derive(Debug)]
struct ZookeeperSite {
    hosts: Vec<String>,
    /// By the session of the client.
    ways: Mutex<HashMap<i64, AbortHandle>>,
}

impl Site for ZookeeperSite {
    type Engine = Zookeeper;

    async fn client(&self) -> Zookeeper {
        let nth = self.ways.lock().expect("nobody panics here").len();
        let (port, way) = way_to(self.hosts[nth % self.hosts.len()].clone()).await;
        let options = ZookeeperOptions::new(format!("127.0.0.1:{port}"));
        let options = options.with_session(SESSION).with_terms(Terms::Any);
        let client = Zookeeper::open(&options.with_connect_timeout(Duration::from_secs(30))).await;
        let client = client.expect("a server of ours");
        let (session, _) = client.session().await.expect("it has just been opened");
        self.ways.lock().expect("nobody panics here").insert(session, way);
        client
    }

    fn can(&self, hook: Hook) -> Result<(), &'static str> {
        match hook {
            Hook::Vanish => Ok(()),
            _ => Err("an ensemble does not forget"),
        }
    }

    /// The server is left with a session of which it never hears again.
    async fn vanish(&self, client: Zookeeper) {
        let (session, _) = client.session().await.expect("it lives");
        self.ways.lock().expect("nobody panics here").get(&session).expect("a client of ours").abort();
    }

    async fn forget(&self) {}
}

/// A port from which a client gets to a server, as long as the task lives.
async fn way_to(host: String) -> (u16, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it listens").port();
    let way = tokio::spawn(async move {
        let mut streams = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let host = host.clone();
            streams.spawn(async move {
                if let Ok(mut server) = TcpStream::connect(host).await {
                    let _ = client.set_nodelay(true);
                    let _ = server.set_nodelay(true);
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (port, way.abort_handle())
}
