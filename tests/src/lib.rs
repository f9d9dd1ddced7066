//! What the integration tests stand on: a host of their own, and a client that can also say what a stock client would not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]
// Bare tasks of a test end with its runtime.
#![allow(clippy::disallowed_methods, reason = "the tasks of a test end with its runtime")]

mod client;
mod dispatch;
mod handmade;
mod host;
mod process;

pub use client::TestClient;
pub use dispatch::TestDispatcher;
pub use handmade::{do_nothing, handmade, table_filler};
pub use host::TestHost;
pub use process::HostProcess;
#[cfg(target_os = "linux")]
pub use process::bound_by_permissions;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long anything may take before a test gives up: far longer than it should on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The directory of the bundled plugins, as `cargo xtask plugins` builds them.
pub fn bundled() -> PathBuf {
    from_env("SOCKHOP_PLUGINS_DIR")
}

/// One bundled plugin.
pub fn bundled_plugin(name: &str) -> PathBuf {
    bundled().join(format!("{name}.wasm"))
}

/// A plugin that only tests load, as `cargo xtask guests` builds it.
pub fn guest(name: &str) -> PathBuf {
    from_env("SOCKHOP_GUESTS_DIR").join(format!("{name}.wasm"))
}

/// The command `sockhop`, as it was built beside the tests.
pub fn binary() -> PathBuf {
    from_env("SOCKHOP_BIN")
}

/// A version of the plugin `chameleon`, in the mood that `mood` says: `version=2 schema=http`.
pub fn chameleon(mood: &str) -> Vec<u8> {
    let bytes = std::fs::read(guest("chameleon")).expect("a plugin");
    const PLACE: usize = 44;
    let at = bytes.windows(10).position(|window| window == b"<<version=").expect("the place of its mood") + 2;
    assert!(mood.len() <= PLACE, "{mood}");
    let mut made = bytes.clone();
    made[at..at + PLACE].copy_from_slice(format!("{mood:<PLACE$}").as_bytes());
    made
}

/// Puts `bytes` into a directory as the documentation says: whole, by a rename. The file's path.
pub fn drop_in(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let unfinished = dir.join(format!(".{name}"));
    std::fs::write(&unfinished, bytes).expect("a file");
    std::fs::rename(&unfinished, dir.join(name)).expect("a renamed file");
    dir.join(name)
}

fn from_env(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run the tests with `cargo xtask test`")))
}

/// A directory with copies of `files`, as an operator would fill it.
pub fn directory_of(files: &[PathBuf]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for file in files {
        put(dir.path(), file);
    }
    dir
}

/// Copies one file into a directory.
pub fn put(dir: &Path, file: &Path) {
    let name = file.file_name().expect("a file's name");
    std::fs::copy(file, dir.join(name)).unwrap_or_else(|error| panic!("can't copy {}: {error}", file.display()));
}

/// Waits until `condition` holds.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < until, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
