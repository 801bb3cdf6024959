//! ZooKeeper: one server, or an ensemble of several.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::ports::on_free_ports;
use crate::{Child, LIMIT, Program, ServerError, until};

/// Its Debian package.
const PACKAGE: &str = "zookeeper";
/// What it consists of; its manifest names the rest.
const JAR: &str = "/usr/share/java/zookeeper.jar";
/// The variable that names a class path of another version, which is looked through first.
const CLASS_PATH: &str = "TENURE_ZOOKEEPER";
/// Half of the shortest session, in milliseconds.
const TICK_MS: u64 = 500;

/// What it is to say: warnings, on its standard output.
const LOGGING: &str = "log4j.rootLogger=WARN, out\n\
    log4j.appender.out=org.apache.log4j.ConsoleAppender\n\
    log4j.appender.out.layout=org.apache.log4j.SimpleLayout\n";

/// Servers that belong together; killed when dropped.
#[derive(Debug)]
pub struct ZookeeperEnsemble {
    servers: Vec<ZookeeperServer>,
    directory: TempDir,
}

/// One server of an ensemble.
#[derive(Debug)]
pub struct ZookeeperServer {
    port: u16,
    home: PathBuf,
    java: Vec<String>,
    child: Child,
}

impl ZookeeperEnsemble {
    /// One server that keeps its data in memory and, slowly, on disk. `java` are further options of the virtual
    /// machine, by which ZooKeeper is configured, too.
    ///
    /// # Errors
    /// When it is not installed or does not answer.
    pub fn single(java: &[&str]) -> Result<Self, ServerError> {
        on_free_ports(|[port]| Self::start(&[port], &[], java))
    }

    /// Three servers, of which two are enough.
    ///
    /// # Errors
    /// When it is not installed or does not answer.
    pub fn three(java: &[&str]) -> Result<Self, ServerError> {
        on_free_ports(|ports: [u16; 9]| {
            let (clients, peers) = ports.split_at(3);
            let peers: Vec<_> = (1..=3)
                .zip(peers.chunks_exact(2))
                .map(|(id, ports)| format!("server.{id}=127.0.0.1:{}:{}", ports[0], ports[1]))
                .collect();
            Self::start(clients, &peers, java)
        })
    }

    fn start(ports: &[u16], peers: &[String], java: &[&str]) -> Result<Self, ServerError> {
        let directory = tempfile::tempdir().map_err(ServerError::step("make a directory"))?;
        let mut servers = Vec::with_capacity(ports.len());
        for (at, port) in ports.iter().enumerate() {
            let home = directory.path().join((at + 1).to_string());
            configure(&home, *port, at + 1, peers).map_err(ServerError::step("configure ZooKeeper"))?;
            let java: Vec<_> = java.iter().map(|option| (*option).to_owned()).collect();
            let child = spawn(&home, &java)?;
            servers.push(ZookeeperServer { port: *port, home, java, child });
        }
        let mut ensemble = Self { servers, directory };
        ensemble.wait_ready()?;
        Ok(ensemble)
    }

    /// Waits until all of them serve.
    ///
    /// # Errors
    /// When one does not within a limit.
    pub fn wait_ready(&mut self) -> Result<(), ServerError> {
        self.servers.iter_mut().try_for_each(ZookeeperServer::wait_ready)
    }

    /// `host:port` of all servers, apart by commas.
    #[must_use]
    pub fn hosts(&self) -> String {
        let hosts: Vec<_> = self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        hosts.join(",")
    }

    /// A URL of all servers.
    #[must_use]
    pub fn url(&self) -> String {
        format!("zookeeper://{}", self.hosts())
    }

    /// Its servers.
    pub fn servers(&mut self) -> &mut [ZookeeperServer] {
        &mut self.servers
    }

    /// Where the first one listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.servers[0].port
    }

    /// Which of its servers leads, if one does now.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        self.servers
            .iter()
            .position(|server| server.say("srvr").is_ok_and(|said| said.contains("Mode: leader")))
    }

    /// Where it keeps its files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl ZookeeperServer {
    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Kills it, as if its machine had gone.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    /// Starts it again on the same port, with what it has kept. It need not serve yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.child.kill();
        self.child = spawn(&self.home, &self.java)?;
        Ok(())
    }

    /// The same, without any of its data.
    ///
    /// # Errors
    /// As there.
    pub fn restart_empty(&mut self) -> Result<(), ServerError> {
        self.child.kill();
        let forget = std::fs::remove_dir_all(self.home.join("data/version-2"));
        forget.map_err(ServerError::step("delete the data of ZooKeeper"))?;
        self.restart()
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// When it does not within a limit.
    pub fn wait_ready(&mut self) -> Result<(), ServerError> {
        let port = self.port;
        self.child.wait_ready(|| say(port, "srvr").is_ok_and(|said| said.contains("Mode: ")))
    }

    /// What it says to a command of four letters.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn say(&self, command: &str) -> io::Result<String> {
        say(self.port, command)
    }

    /// Waits until what it says to a command of four letters is as wanted; false when it is not within a limit.
    #[must_use]
    pub fn wait_until_it_says(&self, command: &str, wanted: impl Fn(&str) -> bool) -> bool {
        until(|| self.say(command).is_ok_and(|said| wanted(&said)))
    }
}

/// What the server at a port of this machine says to a command of four letters.
///
/// # Errors
/// When nobody answers.
pub fn say(port: u16, command: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LIMIT.min(Duration::from_secs(5))))?;
    stream.write_all(command.as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

fn configure(home: &Path, port: u16, id: usize, peers: &[String]) -> io::Result<()> {
    let data = home.join("data");
    std::fs::create_dir_all(&data)?;
    std::fs::write(data.join("myid"), id.to_string())?;
    std::fs::write(home.join("log4j.properties"), LOGGING)?;
    let peers = peers.join("\n");
    let settings = format!(
        "tickTime={TICK_MS}\ninitLimit=20\nsyncLimit=8\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
         admin.enableServer=false\n4lw.commands.whitelist=*\nminSessionTimeout={}\nmaxSessionTimeout=60000\n\
         maxClientCnxns=0\n{peers}\n",
        data.display(),
        TICK_MS * 2,
    );
    std::fs::write(home.join("zoo.cfg"), settings)
}

fn spawn(home: &Path, java: &[String]) -> Result<Child, ServerError> {
    let class_path = match std::env::var(CLASS_PATH) {
        Ok(first) if !first.is_empty() => format!("{first}:{JAR}"),
        _ => JAR.to_owned(),
    };
    let log4j = format!("-Dlog4j.configuration=file:{}/log4j.properties", home.display());
    let program = Program::new("java", PACKAGE)
        .args(["-Xms32m", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .args(["-Dzookeeper.extendedTypesEnabled=true", "-Dzookeeper.forceSync=no", &log4j])
        .args(java)
        .args(["-cp", &class_path, "org.apache.zookeeper.server.quorum.QuorumPeerMain"])
        .arg(home.join("zoo.cfg"));
    program.start(&home.join("server.log"))
}
