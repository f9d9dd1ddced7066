//! The short form of the soak: the same abuse at the same time, for a quarter of a minute.

#![cfg(target_os = "linux")]

use std::process::Command;

use serde_json::Value;

#[test]
fn honest_clients_notice_nothing_of_all_abuse_at_once() {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--only", "soak", "--quick", "--json"])
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
