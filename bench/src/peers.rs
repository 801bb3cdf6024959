//! Locks of others in other languages: small programs under `bench/peers`, made ready when they are asked for.
//!
//! What they need beside their runtime comes from the package registry of their language, into `target/peers`. Where
//! the runtime is not installed, or the packages cannot be had, the peer is absent from the run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::places;

/// redis-py, pottery and kazoo.
pub(crate) fn python(program: &str) -> Option<Command> {
    let home = home("python");
    let python = home.join("bin/python");
    let packages = ["-c", "import kazoo, pottery, redis.asyncio"];
    once("python", || {
        python.exists() && ran(Command::new(&python).args(packages))
            || ran(Command::new("python3").args(["-m", "venv"]).arg(&home))
                && ran(Command::new(&python)
                    .args(["-m", "pip", "install", "--quiet", "--requirement"])
                    .arg(source("python/requirements.txt")))
    })
    .then(|| with(Command::new(&python), &[source("python").join(program)]))
}

/// Curator, of which Debian has the jars.
pub(crate) fn curator() -> Option<Command> {
    let jars = [
        "curator-client",
        "curator-framework",
        "curator-recipes",
        "zookeeper",
        "guava",
        "slf4j-api",
        "slf4j-nop",
    ];
    let jars: Vec<_> = jars.iter().map(|jar| format!("/usr/share/java/{jar}.jar")).collect();
    java("CuratorLock", &jars.join(":"), jars.iter().all(|jar| Path::new(jar).exists()))
}

/// Redisson, whose jars come from the registry of Maven.
pub(crate) fn redisson() -> Option<Command> {
    let jars = home("java").join("redisson");
    let fetched = jars.exists() || {
        let to = format!("-DoutputDirectory={}", jars.display());
        once("redisson", || {
            let pom = source("java/pom.xml");
            ran(Command::new("mvn").args(["-q", "-B", "dependency:copy-dependencies", &to, "-f"]).arg(pom))
        })
    };
    java("RedissonLock", &format!("{}/*", jars.display()), fetched)
}

/// A program in Java with its libraries, compiled once.
fn java(program: &'static str, jars: &str, complete: bool) -> Option<Command> {
    let classes = home("java").join(program);
    let compiled = complete
        && once(program, || {
            let sources = ["Worker", program].map(|name| source("java").join(format!("{name}.java")));
            ran(Command::new("javac").args(["-cp", jars, "-d"]).arg(&classes).args(sources))
        });
    compiled.then(|| {
        let mut command = Command::new("java");
        // As little as a short-lived process needs: four of them share the machine with the server.
        command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
        command.arg(format!("{}:{jars}", classes.display())).arg(program);
        command
    })
}

/// redsync and redislock.
pub(crate) fn go(library: &str) -> Option<Command> {
    let program = home("go").join("peers");
    once("go", || {
        ran(Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(source("go")))
    })
    .then(|| with(Command::new(&program), &[library.into()]))
}

/// redis-semaphore and redlock.
pub(crate) fn node(library: &str) -> Option<Command> {
    let home = home("node");
    once("node", || {
        let copied = ["package.json", "main.js"]
            .iter()
            .all(|file| std::fs::copy(source("node").join(file), home.join(file)).is_ok());
        let install = ["install", "--silent", "--no-audit", "--no-fund"];
        copied
            && ran(Command::new("node").arg("--version"))
            && (home.join("node_modules/redlock").exists()
                || ran(Command::new("npm").args(install).current_dir(&home)))
    })
    .then(|| with(Command::new("node"), &[home.join("main.js"), library.into()]))
}

fn source(name: &str) -> PathBuf {
    places::bench().join("peers").join(name)
}

/// Where a language's packages are: beside everything else that is built.
fn home(language: &str) -> PathBuf {
    let target = places::root().join("target/peers").join(language);
    // Whoever writes there says what is wrong.
    let _ = std::fs::create_dir_all(&target);
    target
}

fn with(mut command: Command, args: &[PathBuf]) -> Command {
    command.args(args);
    command
}

fn ran(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Makes something ready, once in a run.
fn once(what: &'static str, ready: impl FnOnce() -> bool) -> bool {
    static READY: Mutex<Vec<(&str, bool)>> = Mutex::new(Vec::new());
    let mut known = READY.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, ready)) = known.iter().find(|(name, _)| *name == what) {
        return *ready;
    }
    eprintln!("peers: making those in {what} ready");
    let ready = ready();
    known.push((what, ready));
    ready
}
