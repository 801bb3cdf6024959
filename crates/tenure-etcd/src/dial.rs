//! From a list of servers to a connection that may be trusted: connect, log in, check what answers.
//!
//! Any server of a cluster serves every request, so one connection is enough; when it has ended, the next one is made
//! to another server. Where to begin is left to chance, so that many clients spread over the servers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tenure_core::engine::Trouble;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request};

use crate::options::{EtcdOptions, Server, Tls};
use crate::rpc::{AuthClient, AuthenticateRequest, MaintenanceClient, StatusRequest};
use crate::trouble;
use crate::version::Version;

/// A connection that is ready for verbs.
pub(crate) struct Dialed {
    pub(crate) channel: Channel,
    pub(crate) token: Option<AsciiMetadataValue>,
    pub(crate) version: Version,
}

/// Connects to the first server that lets us in and belongs to a cluster with a leader.
pub(crate) async fn dial(options: &EtcdOptions, next: &AtomicUsize) -> Result<Dialed, Trouble> {
    let servers = &options.servers;
    let first = next.fetch_add(1, Ordering::Relaxed);
    let mut refused = Vec::new();
    for n in 0..servers.len() {
        let server = &servers[first.wrapping_add(n) % servers.len()];
        match tokio::time::timeout(options.connect_timeout, one(options, server)).await {
            Ok(Ok(dialed)) => {
                // The one after this is the next to be tried when this connection has ended.
                next.store(first.wrapping_add(n).wrapping_add(1), Ordering::Relaxed);
                return Ok(dialed);
            }
            Ok(Err(trouble)) => refused.push(trouble.without_effect()),
            Err(_) => {
                let limit = options.connect_timeout;
                refused.push(Trouble::away(format!("{server} did not let us in within {limit:?}")));
            }
        }
    }
    // What one server alone refuses for good may pass with another; what is said is the first that will not pass.
    let lasting = refused.iter().position(|trouble| trouble.retry == tenure_core::engine::Retry::Useless);
    let all = refused.len();
    let mut shown = refused.swap_remove(lasting.unwrap_or(all - 1));
    if all > 1 {
        shown.message = format!("none of {all} servers can be used: {}", shown.message);
    }
    Err(shown)
}

async fn one(options: &EtcdOptions, server: &Server) -> Result<Dialed, Trouble> {
    let channel = connect(options, server).await?;
    let token = login(options, &channel).await?;
    let mut request = Request::new(StatusRequest {});
    if let Some(token) = &token {
        request.metadata_mut().insert("token", token.clone());
    }
    let mut maintenance = MaintenanceClient::new(channel.clone());
    let status = maintenance.status(request).await.map_err(|status| strange(server, &status))?.into_inner();
    if status.leader == 0 {
        return Err(Trouble::away(format!("{server} knows no leader of its cluster")));
    }
    let version = Version::parse(&status.version).filter(|version| version.serves());
    let Some(version) = version else {
        return Err(Trouble::unsupported(format!(
            "{server} is version {}: etcd {} or newer is needed",
            status.version,
            Version::OLDEST
        )));
    };
    Ok(Dialed { channel, token, version })
}

/// A server whose first answer is a refusal.
fn strange(server: &Server, status: &tonic::Status) -> Trouble {
    match status.code() {
        Code::Unknown | Code::Internal => {
            Trouble::away(format!("{server} does not answer as an etcd does: {}", status.message()))
        }
        _ => trouble::of(status),
    }
}

async fn connect(options: &EtcdOptions, server: &Server) -> Result<Channel, Trouble> {
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let unusable = |error: tonic::transport::Error| {
        Trouble::unsupported(format!("{server} cannot be used: {}", trouble::root_cause(&error)))
    };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{server}")).map_err(unusable)?;
    let mut endpoint = endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)));
    if let Some(tls) = &options.tls {
        endpoint = endpoint.tls_config(tls_config(tls, server)?).map_err(unusable)?;
    }
    endpoint.connect().await.map_err(|error| {
        let cause = trouble::root_cause(&error);
        if options.tls.is_some() && is_of_tls(&error) {
            // A certificate that proves nothing will not prove more next time.
            return Trouble::denied(format!("no TLS with {server}: {cause}"));
        }
        Trouble::away(format!("cannot connect to {server}: {cause}"))
    })
}

fn is_of_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if text.contains("certificate") || text.contains("corrupt message") || text.contains("alert") {
            return true;
        }
        cause = error.source();
    }
    false
}

fn tls_config(tls: &Tls, server: &Server) -> Result<ClientTlsConfig, Trouble> {
    let read = |path: &std::path::Path| {
        std::fs::read(path)
            .map_err(|error| Trouble::denied(format!("cannot read {}: {error}", path.display())))
    };
    let mut config = ClientTlsConfig::new().domain_name(server.host.clone());
    config = match &tls.ca {
        Some(ca) => config.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => config.with_native_roots(),
    };
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(config)
}

/// The token with which each request says who we are; none without a login.
pub(crate) async fn login(
    options: &EtcdOptions,
    channel: &Channel,
) -> Result<Option<AsciiMetadataValue>, Trouble> {
    let Some(login) = &options.login else { return Ok(None) };
    let request = AuthenticateRequest { name: login.user.clone(), password: login.password.clone() };
    let answer = AuthClient::new(channel.clone()).authenticate(request).await;
    let answer = answer.map_err(|status| trouble::of(&status).without_effect())?.into_inner();
    let token = AsciiMetadataValue::try_from(answer.token);
    token.map(Some).map_err(|_| Trouble::nonsense("the server gave a token that no header can carry"))
}
