//! The authorities whose certificates are trusted, and how TLS is spoken.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// The most bytes of a file: more than the authorities of all systems have together.
const MAX_FILE: u64 = 4 << 20;

/// Why the authorities can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file can't be read.
    #[error("outbound.ca_file: can't read {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file does not contain what it should.
    #[error("outbound.ca_file: {} {problem}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong, and what is expected.
        problem: String,
    },
    /// The machine trusts no authority.
    #[error(
        "no authorities are found on this machine, which a plugin with `outbound` needs for \
         https; install the system's certificates (`ca-certificates`), or set `ca_file` in \
         `[outbound]`"
    )]
    NoSystemStore {
        /// The first error of the system's store, if there was one.
        source: Option<rustls_native_certs::Error>,
    },
    /// The provider of cryptography refuses the configuration.
    #[error("TLS can't be used")]
    Tls(#[source] rustls::Error),
}

/// Trusts the authorities in `file`, or the authorities of the machine if there is none. Blocks.
pub(super) fn client_config(file: Option<&Path>) -> Result<ClientConfig, TrustError> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            for certificate in read(file)? {
                roots.add(certificate).map_err(|error| TrustError::Unusable {
                    file: file.to_owned(),
                    problem: format!("has a certificate that can't be used: {error}"),
                })?;
            }
        }
        None => {
            // Single certificates of a system that can't be parsed are left out.
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let source = found.errors.into_iter().next();
                return Err(TrustError::NoSystemStore { source });
            }
        }
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().map_err(TrustError::Tls)?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let unreadable = |source| TrustError::Unreadable { file: file.to_owned(), source };
    let unusable = |problem: String| TrustError::Unusable { file: file.to_owned(), problem };
    let mut content = Vec::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(MAX_FILE + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > MAX_FILE {
        return Err(unusable(format!("has more than {MAX_FILE} bytes")));
    }
    let certificates = CertificateDer::pem_slice_iter(&content).collect::<Result<Vec<_>, _>>();
    let certificates = certificates
        .map_err(|error| unusable(format!("is not valid PEM ({error}); expected certificates")))?;
    if certificates.is_empty() {
        return Err(unusable("has no certificate in PEM".to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use crate::error_chain::ErrorChain;

    use super::*;

    #[test]
    fn an_error_of_the_store_of_the_machine_is_shown_as_the_cause() {
        let (inner, path) = (io::ErrorKind::PermissionDenied.into(), "/etc/store.pem".into());
        let kind = rustls_native_certs::ErrorKind::Io { inner, path };
        let source = rustls_native_certs::Error { context: "failed to read", kind };
        let shown = |source| ErrorChain(&TrustError::NoSystemStore { source }).to_string();
        assert!(shown(Some(source)).contains("permission denied"));
        assert!(shown(None).ends_with("in `[outbound]`"));
    }
}
