//! TLS by rustls, with ring: the provider is named, so that no other one in the program plays a part.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, Error as TlsError, RootCertStore};

use crate::options::Tls;
use crate::trouble::Trouble;
use crate::wire::Stream;

/// Speaks TLS over a stream, with a server that can prove to be `host`.
pub(crate) async fn wrap(stream: TcpStream, host: &str, tls: &Tls) -> Result<Box<dyn Stream>, Trouble> {
    let name = ServerName::try_from(host.to_owned());
    let name =
        name.map_err(|_| Trouble::unsupported(format!("{host:?} is no name that a certificate can have")))?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Trouble::unsupported(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots(tls)?)
        .with_no_client_auth();
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(refusal(host, &error)),
    }
}

fn roots(tls: &Tls) -> Result<RootCertStore, Trouble> {
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(path) => {
            let unreadable = |why: String| {
                Trouble::denied(format!("cannot read authorities from {}: {why}", path.display()))
            };
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
                roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(unreadable("it has no certificate".to_owned()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let advice = "this system has no certificate authorities: add ca=/path.pem to the URL";
                return Err(Trouble::denied(advice));
            }
        }
    }
    Ok(roots)
}

/// A broken stream may be better next time; a certificate that proves nothing will not.
fn refusal(host: &str, error: &std::io::Error) -> Trouble {
    let message = format!("no TLS with {host}: {error}");
    match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
        Some(_) => Trouble::denied(message),
        None => Trouble::away(message),
    }
}
