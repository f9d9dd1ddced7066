//! Runs the short form of a part that judges the host.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::process::Command;

use serde_json::Value;

/// Runs one part of the benchmark with `--quick`, and fails if a promise was not kept.
pub(crate) fn judge(part: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--only", part, "--quick", "--json"])
        .output()
        .unwrap();
    let progress = String::from_utf8_lossy(&output.stderr);
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}:\n{progress}"));
    let broken: Vec<_> = found["verdicts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|verdict| verdict["is_kept"] != true)
        .collect();
    assert!(broken.is_empty() && output.status.success(), "{broken:#?}\n{found:#}\n{progress}");
}
