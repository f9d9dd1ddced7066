//! The compiled code of plugins. Compiling takes seconds of processor time, and every test starts
//! hosts with the same plugins. So hosts get the code that hosts of earlier tests have compiled.
//! The environment names the directory of the code, `SOCKHOP_COMPILED_DIR`, which
//! `cargo xtask test` empties. Without it, each host compiles.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn kept() -> Option<PathBuf> {
    std::env::var_os("SOCKHOP_COMPILED_DIR").map(PathBuf::from)
}

/// The directory in which a host with this data directory keeps the code.
fn cache_of(data: &Path) -> PathBuf {
    data.join("cache")
}

/// Copies the code of the plugins in `plugins` to a host that has no directory for it yet. A host
/// that finds no code compiles it.
pub(crate) fn lend(plugins: &Path, data: &Path) {
    if let Some(kept) = kept().filter(|_| !cache_of(data).exists()) {
        let _ = copy(&digests_in(plugins), &kept, &cache_of(data));
    }
}

/// Keeps the code of the plugins in `plugins` that a host has compiled.
pub(crate) fn keep(plugins: &Path, data: &Path) {
    if let Some(kept) = kept() {
        let _ = copy(&digests_in(plugins), &cache_of(data), &kept);
    }
}

/// Copies the entries whose names begin with one of these digests, if they are not there.
fn copy(digests: &[String], from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let target = to.join(&name);
        if !digests.iter().any(|digest| name.starts_with(digest.as_str())) || target.exists() {
            continue;
        }
        // Hosts run the content, and refuse a directory that another user can write to.
        DirBuilder::new().recursive(true).mode(0o700).create(to)?;
        // Tests copy at the same time: an entry is whole or missing.
        let unfinished = tempfile::NamedTempFile::new_in(to)?;
        fs::copy(from.join(&name), unfinished.path())?;
        unfinished.persist(target)?;
    }
    Ok(())
}

/// The digests of the plugins in a directory, as the host writes them.
fn digests_in(plugins: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(plugins) else { return Vec::new() };
    let files = entries.flatten().map(|entry| entry.path());
    let plugins = files.filter(|file| file.extension().is_some_and(|kind| kind == "wasm"));
    plugins
        .filter_map(|file| fs::read(file).ok())
        .map(|bytes| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
        .collect()
}
