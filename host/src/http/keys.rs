//! Access keys with scopes, from the configuration or created by the host.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::auth::bearer;
use crate::config::{Config, ConfigError, MIN_SECRET, Scope};
use crate::files;

use super::problem::Problem;

/// The accepted keys as SHA-256 digests: all have the same length, and the secrets are not kept.
pub(crate) struct Keys(Vec<(String, [u8; 32], Vec<Scope>)>);

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
        let secrets = config.read_secrets().map_err(KeyError::Configured)?;
        let mut keys: Vec<_> = secrets
            .iter()
            .map(|(key, secret)| (key.name.clone(), digest(secret), key.scopes.clone()))
            .collect();
        if keys.is_empty() {
            let secret = own_key(&own_key_file(&config.data.dir))?;
            keys.push(("host".to_owned(), digest(&secret), Scope::ALL.to_vec()));
        }
        Ok(Self(keys))
    }

    /// Returns the name of the request's key if it has `scope`. Otherwise 401 (no key, or an
    /// unknown one) or 403 (without this scope).
    pub(super) fn allow(&self, headers: &HeaderMap, scope: Scope) -> Result<&str, Problem> {
        let Some(given) = bearer(headers).map(digest) else {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "send a key: `Authorization: Bearer KEY`",
            ));
        };
        // Every key is compared, in constant time: the response time does not show which key
        // matched.
        let found = self.0.iter().fold(None, |found, (name, digest, scopes)| {
            if bool::from(same(digest, &given)) { Some((name, scopes)) } else { found }
        });
        match found {
            None => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "this key is not known here",
            )),
            Some((name, scopes)) if scopes.contains(&scope) => Ok(name),
            Some((name, _)) => {
                let message = format!("this key does not have the scope `{}`", scope.name());
                Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", &message).with_key(name))
            }
        }
    }
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
        f.debug_list().entries(self.0.iter().map(|(name, ..)| name)).finish()
    }
}
