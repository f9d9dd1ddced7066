//! `[server.tls]`: the certificate and the key with which clients are served over TLS.

use std::path::PathBuf;

use serde::Deserialize;

/// `[server.tls]`: TLS on the address of clients.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// A PEM file with the certificate of the host, and then those of its issuers, without the
    /// root.
    pub certificate_file: PathBuf,
    /// A PEM file with the private key of the first certificate.
    pub key_file: PathBuf,
}
