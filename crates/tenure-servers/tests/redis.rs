//! A server lives as long as its value, and no longer.

use std::path::Path;

use tenure_servers::redis::RedisServer;
use tenure_servers::{Program, ServerError};

#[test]
fn a_server_answers_can_be_frozen_and_is_gone_with_its_value() {
    let mut server = RedisServer::start(&[]).unwrap();
    assert_eq!(server.say("PING").unwrap(), "+PONG\r\n");
    server.process().freeze();
    server.process().thaw();
    server.restart().unwrap();
    assert_eq!(server.say("PING").unwrap(), "+PONG\r\n");
    let (pid, directory) = (server.process().pid(), server.directory().to_owned());
    drop(server);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!directory.exists());
}

#[test]
fn a_server_that_does_not_start_says_why() {
    let error = RedisServer::start(&["--maxmemory", "nonsense"]).unwrap_err();
    assert!(matches!(&error, ServerError::Silent { said, .. } if said.contains("nonsense")), "{error}");
}

#[test]
fn a_program_that_is_missing_is_named_with_its_package() {
    let error = Program::new("no-such-server", "no-package").run().unwrap_err();
    let words = error.to_string();
    assert!(words.contains("no-such-server") && words.contains("no-package"), "{words}");
}
