//! Which version the ensemble has, and what is known to be wrong with it.
//!
//! The protocol does not tell the version. The command `srvr` does, which servers answer unless they are told not to;
//! a server that does not is taken for a good one.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a server may take to say its version.
const PATIENCE: Duration = Duration::from_millis(500);

/// No server says more.
const WORDS_MAX: u64 = 16 << 10;

/// What is known to be wrong with the first of these servers that says its version.
pub(crate) async fn cautions(servers: &str) -> Vec<String> {
    let asking = async {
        for server in servers.split(',') {
            if let Ok(said) = ask(server).await {
                return known_of(&said);
            }
        }
        Vec::new()
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_default()
}

async fn ask(server: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(b"srvr").await?;
    let mut said = String::new();
    stream.take(WORDS_MAX).read_to_string(&mut said).await?;
    Ok(said)
}

/// What is known of a server that says this.
fn known_of(said: &str) -> Vec<String> {
    let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let version =
        field("Zookeeper version:").and_then(|line| line.split(['-', ',']).next()).unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor)), Some(Some(patch))) =
        (parts.next(), parts.next(), parts.next())
    else {
        return Vec::new();
    };
    // A server that is alone has nobody to fetch what it has missed from.
    if field("Mode:") == Some("standalone") {
        return Vec::new();
    }
    let known = match (major, minor, patch) {
        (3, 9, 3) => "ZOOKEEPER-4925: use 3.9.4 or newer",
        (3, 7, _) | (3, 8, ..=3) | (3, 9, ..=1) => "ZOOKEEPER-4785: use 3.8.4, 3.9.4 or newer",
        _ => return Vec::new(),
    };
    vec![format!(
        "ZooKeeper {version} may lose what a quorum has agreed upon when a server rejoins it ({known})"
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(version: &str, mode: &str) -> String {
        format!(
            "Zookeeper version: {version}-5a02a05eddb59aee6ac762f7ea82e92a68eb9c0f, built on 2022\nMode: {mode}\n"
        )
    }

    #[test]
    fn what_is_known_of_a_version_is_said_of_servers_that_are_not_alone() {
        for version in ["3.7.1", "3.8.0", "3.8.3", "3.9.1", "3.9.3"] {
            assert!(known_of(&said(version, "follower"))[0].contains(version));
            assert_eq!(known_of(&said(version, "standalone")), Vec::<String>::new());
        }
        for version in ["3.8.4", "3.9.2", "3.9.4", "3.10.0", "4.0.0", "x", ""] {
            assert_eq!(known_of(&said(version, "leader")), Vec::<String>::new(), "{version}");
        }
        assert_eq!(
            known_of("srvr is not executed because it is not in the whitelist."),
            Vec::<String>::new()
        );
    }
}
