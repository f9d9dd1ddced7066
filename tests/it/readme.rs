//! The instructions for beginners in the SDK's README work.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sockhop_tests::{TestHost, bundled_plugin, guest};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the code blocks of that README in `language`.
fn blocks(language: &str) -> Vec<String> {
    let readme = read("../plugin-sdk/README.md");
    let blocks = readme.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    blocks.filter(|(name, _)| *name == language).map(|(_, code)| code.to_owned()).collect()
}

#[test]
fn the_first_plugin_is_one_that_is_built_and_tested() {
    assert_eq!(blocks("rust"), [read("guests/examples/wave.rs")]);
}

#[test]
fn the_manifest_is_whole_and_replaces_what_cargo_new_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let cargo = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    cargo(&["new", "--lib", "--vcs", "none", "wave"]);
    let [manifest] = &blocks("toml")[..] else { panic!("README shows one manifest") };
    std::fs::write(dir.path().join("wave/Cargo.toml"), manifest).expect("a manifest");
    let metadata = cargo(&[
        "metadata",
        "--offline",
        "--no-deps",
        "--format-version",
        "1",
        "--manifest-path",
        "wave/Cargo.toml",
    ]);
    let metadata: Value = serde_json::from_slice(&metadata).expect("JSON");
    let package = &metadata["packages"][0];
    assert_eq!(package["name"], json!("wave"));
    assert_eq!(package["targets"][0]["crate_types"], json!(["cdylib", "rlib"]));
    let mut names: Vec<_> = package["dependencies"]
        .as_array()
        .expect("dependencies")
        .iter()
        .map(|one| one["name"].clone())
        .collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, ["schemars", "serde", "serde_json", "sockhop-sdk"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_plugin_serves_those_who_subscribe_to_its_room() {
    let host = TestHost::start(&[guest("wave"), bundled_plugin("subscription")]).await;
    let (mut subscriber, client) = (host.client().await, host.client().await);
    subscriber.ask("subscribe_event", json!({"event_type": "waves"})).await;
    let reply = client.ask("wave", json!({"text": "hello"})).await;
    assert_eq!(reply["text"], json!("hello"));
    assert_eq!(subscriber.expect("waved").await, reply);
}
