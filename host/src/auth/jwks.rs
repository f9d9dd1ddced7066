//! The keys of a JWKS file. The file is read again when it changes, and, at most once in ten
//! seconds, for a token whose key is unknown.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::config::JwksConfig;
use crate::files::Stamp;

use super::error::{TokenError, TokenKeyError};
use super::keys::Keys;
use super::token::Token;

/// The least time between two reads for unknown keys: tokens of strangers must not keep the disk
/// busy.
const REREAD: Duration = Duration::from_secs(10);

/// The most bytes of a file.
const MAX_FILE: u64 = 1 << 20;

/// The keys of a file. Clones share them.
#[derive(Clone)]
pub(crate) struct KeySet(Arc<Shared>);

struct Shared {
    config: JwksConfig,
    keys: ArcSwap<Keys>,
    read: Mutex<LastRead>,
    /// Held while the file is read for an unknown key.
    reading: tokio::sync::Mutex<()>,
    /// Held while the file is read again.
    rereading: Mutex<()>,
}

/// The last read of the file.
struct LastRead {
    stamp: Option<Stamp>,
    at: Instant,
}

impl KeySet {
    /// Reads the file.
    ///
    /// # Errors
    /// It can't be read, or has no key that can be used.
    pub(super) fn load(config: &JwksConfig) -> Result<Self, TokenKeyError> {
        // Before the file is read: what is written meanwhile changes it again.
        let stamp = stamp_of(&config.file);
        let keys = read(config)?;
        let read = Mutex::new(LastRead { stamp, at: Instant::now() });
        let (config, keys) = (config.clone(), ArcSwap::from_pointee(keys));
        let (reading, rereading) = (tokio::sync::Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Shared { config, keys, read, reading, rereading })))
    }

    /// Verifies the signature of a token.
    ///
    /// # Errors
    /// Returns why it is refused.
    pub(super) async fn verify(&self, token: &Token<'_>) -> Result<(), TokenError> {
        let is_unknown = |result: &Result<(), TokenError>| {
            matches!(result, Err(TokenError::UnknownKey(_) | TokenError::Algorithm(_)))
        };
        let verified = self.0.keys.load().verify(token);
        if !is_unknown(&verified) {
            return verified;
        }
        // Tokens that come while the file is read wait for it: a stock client that is refused does
        // not try again.
        let _reading = self.0.reading.lock().await;
        let verified = self.0.keys.load().verify(token);
        if !is_unknown(&verified) || !self.0.may_reread() {
            return verified;
        }
        let shared = Arc::clone(&self.0);
        let _ = tokio::task::spawn_blocking(move || shared.read_again()).await;
        self.0.keys.load().verify(token)
    }

    /// Reads the file again if it has changed. Blocks.
    pub(super) fn read_if_changed(&self) {
        let stamp = stamp_of(&self.0.config.file);
        let is_new = stamp.is_some() && stamp != self.0.last_read().stamp;
        if is_new {
            self.0.read_again();
        }
    }
}

impl Shared {
    fn last_read(&self) -> std::sync::MutexGuard<'_, LastRead> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an unknown key may cause a read now. If so, the next one must wait.
    fn may_reread(&self) -> bool {
        let mut read = self.last_read();
        let may = read.at.elapsed() >= REREAD;
        if may {
            read.at = Instant::now();
        }
        may
    }

    /// Replaces all keys together. After an error, the keys of before remain, and the file is read
    /// again when it changes.
    fn read_again(&self) {
        // One at a time, so that the newest keys are stored last.
        let _rereading = self.rereading.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the file is read: what is written meanwhile changes it again.
        let stamp = stamp_of(&self.config.file);
        match read(&self.config) {
            Ok(keys) => {
                self.keys.store(Arc::new(keys));
                let file = self.config.file.display();
                tracing::info!(%file, "the keys of tokens were read again");
            }
            Err(error) => {
                let error = crate::error_chain::ErrorChain(&error).to_string();
                tracing::warn!(
                    error,
                    "the keys of tokens can't be read again; those of before stay in use"
                );
            }
        }
        let mut last = self.last_read();
        (last.stamp, last.at) = (stamp, Instant::now());
    }
}

fn read(config: &JwksConfig) -> Result<Keys, TokenKeyError> {
    let unreadable = |source| TokenKeyError::Unreadable {
        setting: "auth.jwks.file".to_owned(),
        file: config.file.clone(),
        source,
    };
    let metadata = std::fs::metadata(&config.file).map_err(unreadable)?;
    if metadata.len() > MAX_FILE {
        let problem = format!("has {} bytes; at most {MAX_FILE} are read", metadata.len());
        return Err(TokenKeyError::Jwks { file: config.file.clone(), problem });
    }
    let text = std::fs::read_to_string(&config.file).map_err(unreadable)?;
    Keys::of_set(&text, config)
}

/// Returns the stamp of the file. `None` if its metadata can't be read.
fn stamp_of(file: &Path) -> Option<Stamp> {
    std::fs::metadata(file).ok().map(|metadata| Stamp::of(&metadata))
}
