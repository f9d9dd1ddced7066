//! What the compiler tells a plugin's author about a fault: the SDK's hints say what to write.

use std::path::Path;
use std::process::Command;

/// A plugin with one fault for each hint.
const FAULTS: &str = "
use sockhop_sdk::{Context, Emits, Plugin, Result};

struct Silent;

struct Deaf;

const SILENT: Emits<Silent> = Emits::new(\"silent\");

fn port(text: &str) -> Result<u16> {
    Ok(text.parse()?)
}

fn hear(_: &Context, _: Deaf) -> Result {
    Ok(())
}

pub fn plugin() -> Plugin {
    let _ = port(\"1\");
    Plugin::new(\"faults\", \"0.1.0\", \"\").emits(SILENT).on(\"hear\", hear).on(\"number\", 5)
}
";

/// The beginning of each message, and what to write.
const HINTS: [(&str, &str); 4] = [
    ("`?` couldn't convert the error", "`.map_err(Refusal::internal)?`"),
    (
        "`Silent` can't be sent to clients",
        "put `#[derive(serde::Serialize, schemars::JsonSchema)]` on `Silent`",
    ),
    (
        "`Deaf` can't be the payload of an event",
        "put `#[derive(serde::Deserialize, schemars::JsonSchema)]` on `Deaf`",
    ),
    (
        "this is no event handler",
        "a handler looks like this: `fn ping(ctx: &Context, ping: Ping) -> Result<Pong>`",
    ),
];

#[test]
fn the_compiler_tells_an_author_what_to_write() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = root.canonicalize().expect("the root of the workspace");
    let dir = tempfile::tempdir().expect("a directory");
    let manifest = format!(
        "[package]\nname = \"faults\"\nedition = \"2024\"\n\n[dependencies]\nsockhop-sdk = {{ path \
         = {:?} }}\n\n[workspace]\n",
        root.join("plugin-sdk")
    );
    let put = |path: &str, text: &str| std::fs::write(dir.path().join(path), text).expect("a file");
    put("Cargo.toml", &manifest);
    // The same versions as in the workspace, which are on this machine.
    put("Cargo.lock", &std::fs::read_to_string(root.join("Cargo.lock")).expect("the lock file"));
    std::fs::create_dir(dir.path().join("src")).expect("a directory");
    put("src/lib.rs", FAULTS);
    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--color=never", "--target=wasm32-wasip2"])
        .env("CARGO_TARGET_DIR", root.join("target/hints"))
        .current_dir(dir.path())
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> = said.split("\nerror").skip(1).collect();
    for (message, remedy) in HINTS {
        let error = errors.iter().find(|error| error.contains(message));
        let error = error.unwrap_or_else(|| panic!("no error says {message}: {said}"));
        assert!(error.contains(remedy), "{error}");
    }
}
