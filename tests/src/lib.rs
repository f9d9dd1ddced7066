//! The base of the integration tests: hosts, and a client that can also send what an official
//! client would not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]
// Tasks that a test has spawned end with its runtime.
#![allow(clippy::disallowed_methods, reason = "the tasks of a test end with its runtime")]

mod api;
mod client;
mod compiled;
mod dispatch;
mod files;
mod handmade;
mod host;
mod polling;
mod process;
mod service;
mod tls;
mod tokens;

pub use api::{Answer, ask, row_of, send};
pub use client::{Arguments, Stream, TestClient, answered};
pub use dispatch::TestDispatcher;
pub use files::{binary, bundled, bundled_plugin, chameleon, drop_in, guest, put};
pub use handmade::{asynchronous, do_nothing, do_nothing_as, handmade, table_filler};
pub use host::TestHost;
pub use polling::PollingSession;
#[cfg(target_os = "linux")]
pub use process::bound_by_permissions;
pub use process::{HostProcess, serve};
pub use service::Service;
pub use tls::{Identity, TlsClient};
pub use tokens::{token, with_tokens};

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use sockhop::config::{Config, SocketIo};

/// The environment variable that selects the Socket.IO implementation for tests, by its name in the
/// configuration.
pub(crate) const SOCKETIO: &str = "SOCKHOP_TEST_SOCKETIO";

/// Returns the Socket.IO implementation that a test's host uses: the one that the environment
/// names, or the default.
pub fn socketio() -> SocketIo {
    match std::env::var(SOCKETIO).as_deref() {
        Ok("builtin") => SocketIo::Builtin,
        Ok("socketioxide") => SocketIo::Socketioxide,
        Ok(other) => panic!("{SOCKETIO}={other}: expected builtin or socketioxide"),
        Err(_) => Config::default().server.socketio,
    }
}

/// How long any operation may take before a test gives up: far longer than it should take on a slow
/// machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the same component with another digest: with a custom section, which nobody reads.
pub fn another(mut component: Vec<u8>, number: u32) -> Vec<u8> {
    // The id of the section, its length, and its name with its length.
    component.extend([0, 6, 1, b'n']);
    component.extend(number.to_le_bytes());
    component
}

/// Returns a directory with copies of `files`, as an operator would fill it.
pub fn directory_of(files: &[PathBuf]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for file in files {
        put(dir.path(), file);
    }
    dir
}

/// Waits for a random time of less than so many milliseconds. For tests that hold whenever
/// something else happens.
pub async fn moment(most_ms: u64) {
    let random = RandomState::new().build_hasher().finish();
    tokio::time::sleep(Duration::from_millis(random % most_ms)).await;
}

/// Waits until `condition` returns a value, and returns that value.
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
