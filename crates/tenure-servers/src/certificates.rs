//! Certificates for servers with TLS, made by the program `openssl`.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Program, ServerError};

/// An authority of our own, and a certificate that it gave to 127.0.0.1 and localhost; PEM files, gone with the value.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
}

impl Certificates {
    /// Makes them, good for two days.
    ///
    /// # Errors
    /// When `openssl` is missing or fails.
    pub fn new() -> Result<Self, ServerError> {
        Self::good_for(2)
    }

    /// Makes an authority that is good, and a certificate that has expired.
    ///
    /// # Errors
    /// As [`Certificates::new`].
    pub fn expired() -> Result<Self, ServerError> {
        Self::good_for(-1)
    }

    fn good_for(days: i32) -> Result<Self, ServerError> {
        let directory = tempfile::tempdir().map_err(ServerError::step("make a directory"))?;
        let this = Self { directory };
        let (authority, authority_key) = (this.authority(), this.path("ca.key"));
        this.key_and("req", "/CN=tenure authority", &authority_key)
            .args(["-x509", "-days", "2", "-out"])
            .arg(&authority)
            .run()?;
        let request = this.path("server.csr");
        this.key_and("req", "/CN=tenure", &this.key())
            .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-out"])
            .arg(&request)
            .run()?;
        let sign =
            Program::new("openssl", "openssl").args(["x509", "-req", "-copy_extensions", "copy", "-in"]);
        let sign = sign.arg(request).arg("-CA").arg(authority).arg("-CAkey").arg(authority_key);
        sign.args(["-CAcreateserial", "-days", &days.to_string(), "-out"]).arg(this.certificate()).run()?;
        Ok(this)
    }

    fn key_and(&self, verb: &str, subject: &str, key: &Path) -> Program {
        let make = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", subject];
        Program::new("openssl", "openssl").arg(verb).args(make).arg("-keyout").arg(key)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Whom clients are to trust.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The server's certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path("server.pem")
    }

    /// The server's private key.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.path("server.key")
    }

    /// Where they lie.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}
