//! A certificate and its private key: read from their files, parsed, and checked against each
//! other.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, ServerConfig};
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::der::{DateTime, Decode};

use crate::config::TlsConfig;

/// The most bytes of a file: many times a chain of certificates.
const MAX_FILE: u64 = 1 << 20;

/// The protocol after TLS. WebSockets over HTTP/2 are not supported.
const ALPN: &[u8] = b"http/1.1";

/// Why a certificate and its key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{setting}: can't read {}", file.display())]
    Unreadable {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file does not contain what it should.
    #[error("{setting}: {} {problem}", file.display())]
    Unusable {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong, and what is expected.
        problem: String,
    },
    /// The key is not that of the certificate.
    #[error(
        "server.tls: the key in {} is not that of the first certificate in {}; the first \
             certificate must be that of this host, before those of its issuers",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
}

/// One of the two files.
struct PemFile<'config> {
    setting: &'static str,
    file: &'config Path,
    content: Vec<u8>,
}

/// The content of the two files.
pub(super) struct Pair<'config> {
    certificate: PemFile<'config>,
    key: PemFile<'config>,
}

/// A certificate with its key, ready to serve.
pub(super) struct Loaded {
    server: Arc<ServerConfig>,
    validity: Option<Validity>,
}

/// The time in which a certificate is valid, in seconds since 1970.
struct Validity {
    from: i64,
    until: i64,
}

impl<'config> PemFile<'config> {
    fn read(setting: &'static str, file: &'config Path) -> Result<Self, TlsError> {
        let unreadable = |source| TlsError::Unreadable { setting, file: file.to_owned(), source };
        let mut content = Vec::new();
        let opened = std::fs::File::open(file).map_err(unreadable)?;
        opened.take(MAX_FILE + 1).read_to_end(&mut content).map_err(unreadable)?;
        let read = Self { setting, file, content };
        if read.content.len() as u64 > MAX_FILE {
            return Err(read.unusable(format!("has more than {MAX_FILE} bytes")));
        }
        Ok(read)
    }

    fn unusable(&self, problem: impl Into<String>) -> TlsError {
        let (setting, file, problem) = (self.setting, self.file.to_owned(), problem.into());
        TlsError::Unusable { setting, file, problem }
    }

    /// The error for PEM that can't be parsed. `expected` is what the file should contain.
    fn not_pem(&self, error: &pem::Error, expected: &str) -> TlsError {
        let problem = match error {
            pem::Error::NoItemsFound => {
                let has_pem = self.content.windows(11).any(|text| text == b"-----BEGIN ");
                let problem = if has_pem { "has no" } else { "is not PEM; expected a" };
                format!("{problem} {expected}")
            }
            error => format!("is not valid PEM ({error}); expected a {expected}"),
        };
        self.unusable(problem)
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let expected = "certificate (-----BEGIN CERTIFICATE-----)";
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.content).collect();
        let parsed = parsed.map_err(|error| self.not_pem(&error, expected))?;
        if parsed.is_empty() {
            return Err(self.not_pem(&pem::Error::NoItemsFound, expected));
        }
        Ok(parsed)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.content).map_err(|error| {
            self.not_pem(&error, "private key without a password (-----BEGIN PRIVATE KEY-----)")
        })
    }
}

impl<'config> Pair<'config> {
    /// Reads the two files.
    ///
    /// # Errors
    /// One of them can't be read.
    pub(super) fn read(config: &'config TlsConfig) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: PemFile::read("server.tls.certificate_file", &config.certificate_file)?,
            key: PemFile::read("server.tls.key_file", &config.key_file)?,
        })
    }

    /// A digest of the content of both files.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update((self.certificate.content.len() as u64).to_le_bytes());
        digest.update(&self.certificate.content);
        digest.update(&self.key.content);
        digest.finalize().into()
    }

    /// Parses both, and checks that the key is that of the certificate.
    ///
    /// # Errors
    /// They can't be used together.
    pub(super) fn load(&self) -> Result<Loaded, TlsError> {
        let chain = self.certificate.certificates()?;
        let key = self.key.key()?;
        let bad_certificate = |problem: &dyn std::fmt::Display| {
            let problem = format!("has a certificate that can't be used: {problem}");
            self.certificate.unusable(problem)
        };
        let first = chain.first().map(|first| first.as_ref()).unwrap_or_default();
        let validity = Validity::of(first);
        let provider = ring::default_provider();
        // First the key alone, so that an error names the right file.
        provider.key_provider.load_private_key(key.clone_key()).map_err(|error| {
            self.key.unusable(format!("has a private key that can't be used: {error}"))
        })?;
        let certified =
            CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    TlsError::Mismatch {
                        certificate: self.certificate.file.to_owned(),
                        key: self.key.file.to_owned(),
                    }
                }
                error => bad_certificate(&error),
            })?;
        let mut server = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| bad_certificate(&error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Loaded { server: Arc::new(server), validity })
    }
}

impl Validity {
    /// Returns `None` if the certificate can't be parsed. The parser refuses some certificates that
    /// rustls and clients accept, so this is no error.
    fn of(certificate: &[u8]) -> Option<Self> {
        let seconds = |time: DateTime| i64::try_from(time.unix_duration().as_secs()).ok();
        let validity = Certificate::from_der(certificate).ok()?.tbs_certificate.validity;
        let (from, until) = (validity.not_before, validity.not_after);
        Some(Self { from: seconds(from.to_date_time())?, until: seconds(until.to_date_time())? })
    }
}

impl Loaded {
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    pub(super) fn expires_at(&self) -> Option<i64> {
        Some(self.validity.as_ref()?.until)
    }

    /// What clients will object to, if the certificate is not valid now.
    pub(super) fn warning(&self) -> Option<String> {
        let Validity { from, until } = self.validity.as_ref()?;
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = since_1970.as_ref().map_or(0, Duration::as_secs);
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let at = |seconds| {
            jiff::Timestamp::from_second(seconds)
                .map_or_else(|_| "?".to_owned(), |at| at.to_string())
        };
        if now >= *until {
            Some(format!("the certificate has expired at {}: clients refuse it", at(*until)))
        } else if now < *from {
            Some(format!("the certificate is not valid before {}: clients refuse it", at(*from)))
        } else {
            None
        }
    }
}
