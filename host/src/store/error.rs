//! The errors of a store: for the operator, for a handler's call, and for a commit.

use std::io;
use std::path::PathBuf;

use sockhop_core::state::StateError;

use super::StoreFault;
use super::format::FORMAT;

/// The file can't be used. This error is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be created or opened.
    #[error("the state in {} can't be opened", .file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file is not a store.
    #[error("{} is not a store of plugin state", .file.display())]
    NotOurs {
        /// The file.
        file: PathBuf,
    },
    /// The file was written by a newer host.
    #[error("the state in {} has format {found}, and this host knows formats up to \
             {FORMAT}", .file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: i64,
    },
    /// State is missing, older or damaged. The plugin does not serve until an operator has decided.
    #[error(transparent)]
    Lost(#[from] StoreFault),
    /// The stored data is not what was written.
    #[error("the state is damaged: {0}")]
    Damaged(&'static str),
    /// An error of SQLite.
    #[error("the state can't be read or written")]
    Sqlite(#[from] rusqlite::Error),
}

/// Why a handler's call is refused.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The call exceeds a limit; the text names it.
    #[error("{0}")]
    Limit(String),
    /// The plugin's state would exceed its quota.
    #[error("the plugin's state would have {used} bytes, its quota is {quota}")]
    Full {
        /// Bytes that the state would have.
        used: u64,
        /// The quota in bytes.
        quota: u64,
    },
    /// The arguments are invalid.
    #[error("{0}")]
    Misuse(String),
    /// The store has ended the view's snapshot, and data that the view had read has changed since.
    /// A new read would not be consistent with the earlier ones. The handler must run again.
    #[error("data that was read before has changed meanwhile")]
    Outdated,
    /// The write-ahead log is full, and a reader in another process prevents its checkpoint. Or the
    /// caller gave up waiting for a sequence number.
    #[error("the state can't be written now")]
    Contended,
    /// The store failed; the handler is not the cause.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<StateError> for ViewError {
    fn from(error: StateError) -> Self {
        if error.is_limit() {
            Self::Limit(error.to_string())
        } else {
            Self::Misuse(error.to_string())
        }
    }
}

impl From<rusqlite::Error> for ViewError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Why changes were not stored. None of them is stored, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Data that the view had read has changed since.
    #[error("data that was read has changed meanwhile")]
    Conflict,
    /// The timer whose event was handled was cancelled or set again meanwhile.
    #[error("the timer was cancelled or set again meanwhile")]
    TimerGone,
    /// The plugin would have too many timers.
    #[error("the plugin would have more than {max} timers, dead ones included")]
    TooManyTimers {
        /// The limit.
        max: u64,
    },
    /// The plugin would have too many deliveries, or too many results of deliveries that its
    /// handlers have not handled.
    #[error(
        "the plugin would have more than {max} deliveries, dead ones and unhandled results \
             included"
    )]
    TooManyDeliveries {
        /// The limit.
        max: u64,
    },
    /// The plugin's state would exceed its quota.
    #[error("the plugin's state would take more than {used} bytes, its quota is {quota}")]
    Full {
        /// Bytes that the state would have.
        used: u64,
        /// The quota in bytes.
        quota: u64,
    },
    /// The write-ahead log is full, and a reader in another process prevents its checkpoint.
    #[error("the write-ahead log is full, and another process reads from it")]
    Contended,
    /// Other commits took longer than the caller may wait.
    #[error("the commit could not begin in time")]
    Late,
    /// The store failed; the handler is not the cause.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host panicked during the commit. The changes may be stored.
    #[error("it is not known whether the changes were stored")]
    Unknown,
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
