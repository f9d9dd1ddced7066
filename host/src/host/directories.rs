//! What commands need to know of the directories of a host: where its files are, whether another
//! process uses them, and whether there are plugins.

use std::path::{Path, PathBuf};

use crate::http::keys::own_key_file;
use crate::reload::directory;

use super::lock::DataLock;
use super::{StartError, address};

/// Locks a data directory: no host can use it until the lock is dropped.
///
/// # Errors
/// [`StartError::DataInUse`] while a host runs; [`StartError::Data`] if the directory can't be
/// used.
pub fn lock_data(dir: &Path) -> Result<DataLock, StartError> {
    DataLock::take(dir)
}

/// Locks a data directory to read it: no host can start until the lock is dropped. Nothing is
/// written. Returns `None` if no host has ever used the directory.
///
/// # Errors
/// As [`lock_data`].
pub fn share_data(dir: &Path) -> Result<Option<DataLock>, StartError> {
    DataLock::share(dir)
}

/// Returns the directory in which a host keeps compiled code. Another process of the same user may
/// use it too.
pub fn cache_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("cache")
}

/// Returns the file of the key that a host creates for itself.
pub fn key_file(data_dir: &Path) -> PathBuf {
    own_key_file(data_dir)
}

/// Returns the file in which a running host publishes its address.
pub fn address_file(data_dir: &Path) -> PathBuf {
    address::address_file(data_dir)
}

/// Returns the plugin files of a directory. Returns none if it can't be read.
pub fn plugin_files(plugins_dir: &Path) -> Vec<PathBuf> {
    let files = directory::plugin_files(plugins_dir).unwrap_or_default();
    files.into_iter().map(|(file, _)| file).collect()
}

/// Whether a directory can be read and holds no plugin files.
pub fn is_empty(plugins_dir: &Path) -> bool {
    directory::plugin_files(plugins_dir).is_ok_and(|files| files.is_empty())
}
