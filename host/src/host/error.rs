//! The error of a start that fails, with what its user can do about it.

use std::io;
use std::path::PathBuf;

use crate::auth::TokenKeyError;
use crate::config::Listen;
use crate::http::keys::KeyError;
use crate::outbound::OutboundError;
use crate::plugin::EngineError;
use crate::registry::OperatorSettingsError;
use crate::reload::ScanError;
use crate::store::StoreError;
use crate::tls::TlsError;

use super::descriptors::TooFew;

/// Why a host can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another host uses the data directory.
    #[error("the data directory {} is in use by another host (pid {pid}); stop it, or give this \
             one another with --data", dir.display())]
    DataInUse {
        /// The data directory.
        dir: PathBuf,
        /// The other host's process id.
        pid: String,
    },
    /// The data directory can't be used.
    #[error("can't use the data directory {}", dir.display())]
    Data {
        /// The data directory.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The plugin directory can't be read.
    #[error("can't read the plugin directory {}; create it, or name another with \
             --plugins", dir.display())]
    Plugins {
        /// The plugin directory.
        dir: PathBuf,
        /// The cause.
        source: ScanError,
    },
    /// The host can't listen on the address.
    #[error("can't listen on {address}; choose another address with --listen")]
    Listen {
        /// The address.
        address: Listen,
        /// The cause.
        source: io::Error,
    },
    /// The host can't listen on the address of operators.
    #[error("can't listen on {address}; choose another address with `listen` in `[admin]`")]
    Admin {
        /// The address.
        address: Listen,
        /// The cause.
        source: io::Error,
    },
    /// A configured namespace is invalid: no client could connect to it.
    #[error("server.namespaces: {0}")]
    Namespace(String),
    /// The keys of tokens can't be used.
    #[error(transparent)]
    Auth(#[from] TokenKeyError),
    /// The authorities that plugins trust, or the secrets of their deliveries, can't be used.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The certificate or its key can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An event of the configuration can't be used.
    #[error(transparent)]
    Operator(#[from] OperatorSettingsError),
    /// The file with the answers to repeated requests can't be used.
    #[error(
        "can't use the answers to requests with `Idempotency-Key`; if the file is damaged, \
             move it away: repeated requests of the last 24 hours are executed again then"
    )]
    Answers(#[source] StoreError),
    /// The process has too few file descriptors.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// The thread that follows the plugin directory can't be started.
    #[error("can't start the thread that watches the plugin directory")]
    Thread(#[source] io::Error),
    /// The path of the host's own program can't be found.
    #[error(
        "can't find the program's own executable, which compiles plugins in a separate process"
    )]
    Compiler(#[source] io::Error),
    /// The engine can't be created.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The access keys can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}
