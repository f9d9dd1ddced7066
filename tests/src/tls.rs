//! Certificates that a test makes, and connections that trust them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use sockhop::config::{Config, TlsConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// A certificate for `localhost` and 127.0.0.1 that is its own issuer, and its key.
pub struct Identity {
    /// The certificate, as PEM.
    pub certificate: String,
    /// The key, as PEM.
    pub key: String,
    /// The certificate, as DER.
    pub der: Vec<u8>,
}

impl Default for Identity {
    fn default() -> Self {
        Self::expiring(4000)
    }
}

impl Identity {
    /// Makes a certificate that expires with the begin of a year.
    pub fn expiring(year: i32) -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        (params.not_before, params.not_after) =
            (date_time_ymd(1980, 1, 1), date_time_ymd(year, 1, 1));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let (der, key) = (certificate.der().to_vec(), key.serialize_pem());
        Self { certificate: certificate.pem(), key, der }
    }

    /// Writes both files to a directory, each in one step, as operators' tools do. Returns the
    /// setting that names them.
    pub fn write(&self, directory: &Path) -> TlsConfig {
        let config = Self::files(directory);
        sockhop::files::replace(&config.key_file, &[self.key.as_bytes()]).expect("a file");
        let certificate = [self.certificate.as_bytes()];
        sockhop::files::replace(&config.certificate_file, &certificate).expect("a file");
        config
    }

    /// The setting that names the files of a directory.
    pub fn files(directory: &Path) -> TlsConfig {
        let at = |name: &str| -> PathBuf { directory.join(name) };
        TlsConfig { certificate_file: at("certificate.pem"), key_file: at("key.pem") }
    }

    /// Writes both files to a directory, and sets them. Operators get a separate address without
    /// TLS, for the requests of tests.
    pub fn set(&self, directory: &Path, config: &mut Config) {
        config.server.tls = Some(self.write(directory));
        config.admin.listen = Some(([127, 0, 0, 1], 0).into());
    }
}

/// A client that trusts some certificates.
#[derive(Clone)]
pub struct TlsClient(TlsConnector);

impl TlsClient {
    /// Trusts the certificates of these identities.
    pub fn trusting<'a>(identities: impl IntoIterator<Item = &'a Identity>) -> Self {
        Self::with(identities, &[&TLS13, &TLS12], &["http/1.1"])
    }

    /// Does the same, and supports only TLS 1.2.
    pub fn old(identity: &Identity) -> Self {
        Self::with([identity], &[&TLS12], &[])
    }

    /// Does the same, and supports only these protocols within TLS.
    pub fn speaking(identity: &Identity, protocols: &[&str]) -> Self {
        Self::with([identity], &[&TLS13], protocols)
    }

    fn with<'a>(
        identities: impl IntoIterator<Item = &'a Identity>,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&str],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        for identity in identities {
            roots.add(CertificateDer::from(identity.der.clone())).expect("a certificate");
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Each connection does a whole handshake, and sees the certificate.
        config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// Connects to the host at `url`.
    ///
    /// # Errors
    /// The handshake has failed.
    pub async fn connect(&self, url: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let address = url.trim_start_matches("https://");
        let stream = TcpStream::connect(address).await.expect("a host to connect to");
        stream.set_nodelay(true).expect("a tunable socket");
        self.on(stream).await
    }

    /// Does the handshake on a TCP connection.
    ///
    /// # Errors
    /// It has failed.
    pub async fn on(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").expect("a name");
        self.0.connect(name, stream).await
    }
}
