//! Access keys with scopes, from the configuration or created by the host.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::auth::bearer;
use crate::config::{Config, ConfigError, MIN_SECRET, Scope};
use crate::event::Identity;
use crate::files;

use super::problem::Problem;

/// The accepted keys.
pub(crate) struct Keys(ArcSwap<KeyList>);

/// The keys that are accepted at one time.
pub(crate) type KeyList = Vec<Arc<AcceptedKey>>;

/// A key whose holder may send requests.
pub(crate) struct AcceptedKey {
    name: Arc<str>,
    /// SHA-256 of the secret, which is not kept. All digests have the same length.
    digest: [u8; 32],
    scopes: Vec<Scope>,
    /// Who the holder is, for the routes of plugins.
    pub(super) identity: Arc<Identity>,
}

/// Returns the path of the host's own key file in the data directory.
pub(crate) fn own_key_file(data_dir: &Path) -> PathBuf {
    data_dir.join("key")
}

/// Random bytes of a key that the host creates.
const OWN_KEY_BYTES: usize = 32;

impl Keys {
    /// Loads the configured keys. If none are configured, loads the host's own key with all scopes,
    /// and creates it if it is missing.
    pub(crate) fn load(config: &Config) -> Result<Self, KeyError> {
        Self::read(config).map(|keys| Self(ArcSwap::from_pointee(keys)))
    }

    /// Loads the keys of a new configuration, to [`replace`](Self::replace) the accepted keys.
    pub(crate) fn read(config: &Config) -> Result<KeyList, KeyError> {
        let secrets = config.read_secrets().map_err(KeyError::Configured)?;
        let mut keys: Vec<_> = secrets
            .iter()
            .map(|(key, secret)| AcceptedKey {
                name: key.name.as_str().into(),
                digest: digest(secret),
                scopes: key.scopes.clone(),
                identity: Arc::new(key.identity()),
            })
            .collect();
        if keys.is_empty() {
            let secret = own_key(&own_key_file(&config.data.dir))?;
            keys.push(AcceptedKey {
                name: "host".into(),
                digest: digest(&secret),
                scopes: Scope::ALL.to_vec(),
                identity: Arc::default(),
            });
        }
        Ok(keys.into_iter().map(Arc::new).collect())
    }

    /// Accepts these keys from now on, and no others.
    pub(crate) fn replace(&self, keys: KeyList) {
        self.0.store(Arc::new(keys));
    }

    /// Returns the name of the request's key if it has `scope`. Otherwise 401 (no key, or an
    /// unknown one) or 403 (without this scope).
    pub(super) fn allow(&self, headers: &HeaderMap, scope: Scope) -> Result<Arc<str>, Problem> {
        let Some(secret) = bearer(headers) else {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "send a key: `Authorization: Bearer KEY`",
            ));
        };
        let key = self.find(secret).ok_or_else(unknown)?;
        key.allow(scope).map(|key| Arc::clone(&key.name))
    }

    /// Returns the key with this secret.
    pub(super) fn find(&self, secret: &str) -> Option<Arc<AcceptedKey>> {
        let given = digest(secret);
        // Every key is compared, in constant time: the response time does not show which key
        // matched.
        let keys = self.0.load();
        let found = keys.iter().fold(None, |found, key| {
            if bool::from(same(&key.digest, &given)) { Some(key) } else { found }
        });
        found.cloned()
    }
}

impl AcceptedKey {
    /// Returns the key if it has `scope`, otherwise 403.
    pub(super) fn allow(&self, scope: Scope) -> Result<&Self, Problem> {
        if self.scopes.contains(&scope) {
            return Ok(self);
        }
        let message = format!("this key does not have the scope `{}`", scope.name());
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", &message).with_key(&self.name))
    }
}

/// The problem of a key that is not accepted.
pub(super) fn unknown() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "this key is not known here")
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> Choice {
    a.ct_eq(b)
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Reads the host's own key, or creates it in a file that only its owner can access.
fn own_key(file: &Path) -> Result<String, KeyError> {
    let wrong = |source| KeyError::Own { file: file.to_owned(), source };
    if file.exists() {
        if let Some(mode) = files::mode(file).map_err(wrong)?.filter(|mode| mode & 0o077 != 0) {
            return Err(KeyError::Readable { file: file.to_owned(), mode });
        }
        let text = std::fs::read_to_string(file).map_err(wrong)?;
        let secret = text.lines().next().unwrap_or_default().trim();
        if secret.len() < MIN_SECRET {
            let file = file.to_owned();
            return Err(KeyError::Short { file, length: secret.len() });
        }
        return Ok(secret.to_owned());
    }
    let mut random = [0_u8; OWN_KEY_BYTES];
    getrandom::fill(&mut random).map_err(|error| wrong(io::Error::other(error.to_string())))?;
    let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    files::replace_durably(file, &[secret.as_bytes(), b"\n"]).map_err(wrong)?;
    Ok(secret)
}

/// Why the keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The configured keys can't be used.
    #[error(transparent)]
    Configured(ConfigError),
    /// Other users can access the file of the host's own key.
    #[error(
        "the key file {} is open to others (mode {mode:o}): anyone who has read it can operate \
         this host; delete it, and a new key is made at \
         the next start, or keep the key with `chmod 600`",
        file.display()
    )]
    Readable {
        /// The key file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The host's own key is so short that it could be guessed.
    #[error(
        "the key in {} has {length} characters, and at least {MIN_SECRET} are needed; delete the \
         file, and a new key is made at the next start",
        file.display()
    )]
    Short {
        /// The key file.
        file: PathBuf,
        /// Characters in its first line.
        length: usize,
    },
    /// The host's own key can't be read or created.
    #[error("can't use the key file {}", file.display())]
    Own {
        /// The key file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.load().iter().map(|key| &key.name)).finish()
    }
}
