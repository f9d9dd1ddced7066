//! TLS on the address of clients: the certificate and its key, which are swapped while the host
//! runs, and the handshake. Only this module knows rustls.

mod pair;
mod session;
mod stream;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::config::TlsConfig;
use crate::error_chain::ErrorChain;

use pair::{Loaded, Pair};
use session::BUFFER_BYTES;

pub use pair::TlsError;
pub(crate) use session::TlsSession;
pub(crate) use stream::ClientStream;

/// Checks that the certificate and the key can be used together. Returns a warning about the time
/// in which the certificate is valid.
///
/// # Errors
/// They can't be used.
pub fn check(config: &TlsConfig) -> Result<Option<String>, TlsError> {
    Ok(Pair::read(config)?.load()?.warning())
}

/// The certificate and the key that the host serves now.
pub(crate) struct Tls {
    current: ArcSwap<Loaded>,
    files: Mutex<Files>,
}

/// A certificate and a key that can be served from now on.
pub(crate) struct ReadyPair {
    config: TlsConfig,
    digest: [u8; 32],
    loaded: Loaded,
}

/// The files, and their last read.
struct Files {
    config: TlsConfig,
    /// The digest of the pair that is served.
    digest: [u8; 32],
    /// The error of the last read. It is logged once.
    error: Option<String>,
}

impl Tls {
    /// Reads the certificate and the key.
    ///
    /// # Errors
    /// They can't be used.
    pub(crate) fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let pair = Pair::read(config)?;
        let loaded = pair.load()?;
        if let Some(warning) = loaded.warning() {
            tracing::warn!(certificate = %config.certificate_file.display(), "{warning}");
        }
        let files = Files { config: config.clone(), digest: pair.digest(), error: None };
        Ok(Self { current: ArcSwap::from_pointee(loaded), files: Mutex::new(files) })
    }

    /// Reads the files again, and swaps the certificate and the key if they have changed. After an
    /// error, the pair of before stays in use: one of the files may not be written yet, so the
    /// caller is expected to call this again soon. An error is logged once, and not for each call.
    /// Blocks.
    ///
    /// The content is compared, and not the time of the change, which can be the same for two
    /// writes. A symbolic link is followed each time.
    pub(crate) fn refresh(&self) {
        let mut files = self.files();
        let config = files.config.clone();
        if let Err(error) = self.read(&mut files, &config) {
            let error = ErrorChain(&error).to_string();
            if files.error.as_ref() != Some(&error) {
                tracing::warn!(
                    error,
                    "the certificate and its key can't be read again; those of before stay in use"
                );
                files.error = Some(error);
            }
        }
    }

    /// Reads the files of a changed configuration, for [`Tls::take`]. Blocks.
    ///
    /// # Errors
    /// They can't be used.
    pub(crate) fn prepare(config: &TlsConfig) -> Result<ReadyPair, TlsError> {
        let pair = Pair::read(config)?;
        Ok(ReadyPair { config: config.clone(), digest: pair.digest(), loaded: pair.load()? })
    }

    /// Serves a pair that was prepared, and reads its files from now on. If the files have changed
    /// since, [`Tls::refresh`] notices it.
    pub(crate) fn take(&self, pair: ReadyPair) {
        self.store(&mut self.files(), pair);
    }

    fn read(&self, files: &mut Files, config: &TlsConfig) -> Result<(), TlsError> {
        let pair = Pair::read(config)?;
        if pair.digest() == files.digest {
            files.error = None;
            return Ok(());
        }
        let (config, digest, loaded) = (config.clone(), pair.digest(), pair.load()?);
        self.store(files, ReadyPair { config, digest, loaded });
        Ok(())
    }

    fn store(&self, files: &mut Files, pair: ReadyPair) {
        let ReadyPair { config, digest, loaded } = pair;
        if digest != files.digest {
            let certificate = config.certificate_file.display();
            match loaded.warning() {
                Some(warning) => tracing::warn!(%certificate, "a new certificate: {warning}"),
                None => tracing::info!(%certificate, "a new certificate is used"),
            }
            self.current.store(Arc::new(loaded));
        }
        *files = Files { config, digest, error: None };
    }

    /// One read at a time, so that the newest pair is stored last.
    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the certificate expires, in seconds since 1970; `None` if that is not known.
    pub(crate) fn expires_at(&self) -> Option<i64> {
        self.current.load().expires_at()
    }

    /// Does the handshake with the certificate that is current now. The caller limits the time.
    ///
    /// # Errors
    /// The client has disconnected, or it and the host do not agree.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<ClientStream> {
        let acceptor = TlsAcceptor::from(self.current.load().server());
        let limit = |session: &mut rustls::ServerConnection| {
            session.set_buffer_limit(Some(BUFFER_BYTES));
        };
        let accepted = acceptor.accept_with(stream, limit).await?;
        Ok(ClientStream::Tls(Box::new(accepted)))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

#[cfg(test)]
mod tests;
