//! What can go wrong with a store: for the operator, for a handler's call, and for a commit.

use std::io;
use std::path::PathBuf;

use super::{FORMAT, Fault};

/// The file does not do what it should, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be created or opened.
    #[error("the state in {} can't be opened", .file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file of something else.
    #[error("{} is not a store of plugin state", .file.display())]
    NotOurs {
        /// The file.
        file: PathBuf,
    },
    /// A file of a newer host.
    #[error("the state in {} has format {found}, and this host knows formats up to {FORMAT}", .file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: i64,
    },
    /// What is there is not what there was. The plugin does not serve until an operator has decided.
    #[error(transparent)]
    Lost(#[from] Fault),
    /// What is stored is not what was written.
    #[error("the state is damaged: {0}")]
    Damaged(&'static str),
    /// SQLite's own.
    #[error("the state can't be read or written")]
    Sqlite(#[from] rusqlite::Error),
}

impl StoreError {
    /// With what caused it.
    pub(super) fn chain(&self) -> String {
        std::error::Error::source(self).map_or_else(|| self.to_string(), |source| format!("{self}: {source}"))
    }
}

/// Why a handler's call is refused.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// One of the limits; the text says which.
    #[error("{0}")]
    Limit(String),
    /// The plugin would have more than its quota.
    #[error("the plugin's state would have {used} bytes, its quota is {quota}")]
    Full {
        /// What it would have.
        used: u64,
        /// What it may have.
        quota: u64,
    },
    /// Arguments that can't be right.
    #[error("{0}")]
    Misuse(String),
    /// What the view has read has changed, and the store has ended its snapshot: what it reads now would not go with that. The handler is to be
    /// run again.
    #[error("what was read before has changed meanwhile")]
    Outdated,
    /// The write-ahead log is full, and a reader outside of the host keeps it so.
    #[error("the state can't be written now")]
    Contended,
    /// The host's fault, not the handler's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for ViewError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Why changes were not stored. Nothing of them was, but where it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Something that the view read has changed since.
    #[error("what was read has changed meanwhile")]
    Conflict,
    /// The plugin would have more than it may.
    #[error("the plugin's state would take more than {used} bytes, its quota is {quota}")]
    Full {
        /// What it would have.
        used: u64,
        /// What it may have.
        quota: u64,
    },
    /// The write-ahead log is full, and a reader outside of the host keeps it so.
    #[error("the write-ahead log is full, and another process reads from it")]
    Contended,
    /// The host's fault, not the handler's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host panicked over it.
    #[error("whether it was stored is not known")]
    Unknown,
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
