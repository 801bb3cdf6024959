//! Free ports of the loopback address.

use std::net::TcpListener;

use crate::ServerError;

/// So many ports that nobody uses now. Somebody may take one before its server does: then start again with others.
///
/// # Errors
/// When the machine has none left.
pub fn free_ports<const N: usize>() -> Result<[u16; N], ServerError> {
    // All are held until all are known, or one would be given out twice.
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener =
            TcpListener::bind(("127.0.0.1", 0)).map_err(ServerError::step("look for a free port"))?;
        *port = listener.local_addr().map_err(ServerError::step("look for a free port"))?.port();
        held.push(listener);
    }
    Ok(ports)
}
