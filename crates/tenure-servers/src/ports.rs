//! Free ports of the loopback address.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::ServerError;

/// How often a port may be offered that was given out before.
const TRIES: usize = 1_000;

/// So many ports that nobody uses now, and that this process was never given before. Somebody else may take one before
/// its server does: then start again with others.
///
/// # Errors
/// When the machine has none left.
pub fn free_ports<const N: usize>() -> Result<[u16; N], ServerError> {
    // A server that starts, or is away to be started again, does not listen, and its port would look free.
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // All are held until all are known, or one would be offered again.
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    let mut known = 0;
    for _ in 0..N + TRIES {
        if known == N {
            break;
        }
        let listener =
            TcpListener::bind(("127.0.0.1", 0)).map_err(ServerError::step("look for a free port"))?;
        let port = listener.local_addr().map_err(ServerError::step("look for a free port"))?.port();
        held.push(listener);
        if given.insert(port) {
            ports[known] = port;
            known += 1;
        }
    }
    if known < N {
        let none = std::io::Error::other("all free ports were given out before");
        return Err(ServerError::step("look for a free port")(none));
    }
    Ok(ports)
}

/// How often a server is started on other ports.
const STARTS_MAX: u32 = 6;

/// Starts servers on ports that are free. Somebody else may take a port between our look and their start, so a start
/// that fails is repeated on others, a few times.
pub(crate) fn on_free_ports<const N: usize, S>(
    mut start: impl FnMut([u16; N]) -> Result<S, ServerError>,
) -> Result<S, ServerError> {
    let mut starts = 1;
    loop {
        match start(free_ports()?) {
            Err(error) if starts < STARTS_MAX && !matches!(error, ServerError::Missing { .. }) => starts += 1,
            started => return started,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_fails_is_repeated_on_other_ports_but_not_for_ever() {
        let (mut ports, taken) = (Vec::new(), || ServerError::step("listen")(std::io::Error::other("taken")));
        let third = on_free_ports(|[port]| {
            ports.push(port);
            if ports.len() == 3 { Ok(port) } else { Err(taken()) }
        });
        assert_eq!(third.unwrap(), ports[2]);
        assert!(ports[0] != ports[1] && ports[1] != ports[2]);

        let mut starts = 0;
        let never = on_free_ports(|[_]| -> Result<(), _> {
            starts += 1;
            Err(taken())
        });
        assert!(never.is_err() && starts == STARTS_MAX);

        let mut starts = 0;
        let missing = on_free_ports(|[_]| -> Result<(), _> {
            starts += 1;
            Err(ServerError::Missing { program: "a server".to_owned(), package: "servers" })
        });
        assert!(missing.is_err() && starts == 1, "what is not installed is not there on other ports");
    }

    #[test]
    fn no_port_is_given_out_twice() {
        let mut seen = HashSet::new();
        for _ in 0..2_000 {
            assert!(free_ports::<3>().unwrap().into_iter().all(|port| seen.insert(port)));
        }
    }
}
