//! The architecture rules of the host: each heavy dependency is used by only one part, each part
//! uses only lower layers, and no modules import each other in a cycle.

mod imports;
mod source;

use std::path::Path;

use imports::{Crate, in_cycles};
use source::{code, is_of_tests, sources};

/// Whether a line of code that is not a comment names the crate.
fn names(source: &str, name: &str) -> bool {
    let path = format!("{name}::");
    source.lines().map(str::trim_start).filter(|line| !line.starts_with("//")).any(|line| {
        line.match_indices(&path).any(|(at, _)| {
            !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
        })
    })
}

#[test]
fn each_heavy_dependency_is_known_to_one_part() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src");
    let laws: [(&str, &[&str]); 14] = [
        ("wasmtime", &["plugin/"]),
        ("wasmtime_wasi", &["plugin/"]),
        ("sockhop_socketio", &["socketio/builtin.rs"]),
        ("socketioxide", &["socketio/library.rs", "socketio/library/"]),
        ("socketioxide_core", &["socketio/library.rs", "socketio/library/"]),
        // They are for `sockhop-core`, which has laws of its own below.
        ("jsonschema", &[]),
        ("stacker", &[]),
        ("axum", &["http.rs", "http/", "host.rs"]),
        ("rusqlite", &["store.rs", "store/"]),
        ("anyhow", &["main.rs", "command.rs", "command/"]),
        ("figment2", &["config.rs", "config/"]),
        ("notify", &["reload/watch.rs"]),
        ("prometheus_client", &["metrics.rs"]),
        ("tracing_subscriber", &["log.rs"]),
    ];
    for file in sources(&root) {
        let name = file
            .strip_prefix(&root)
            .expect("a source of the host")
            .to_string_lossy()
            .replace('\\', "/");
        let source = std::fs::read_to_string(&file).expect("a source");
        for (dependency, places) in laws {
            let allowed = places
                .iter()
                .any(|place| name == *place || (place.ends_with('/') && name.starts_with(place)));
            assert!(
                allowed || !names(&source, dependency),
                "{name} knows {dependency}; only {places:?} may"
            );
        }
        assert!(!name.ends_with("mod.rs"), "{name}: a module's file has its name");
        assert!(source.starts_with("//!"), "{name} does not begin by saying what it owns");
    }
}

/// The layers from bottom to top. Each layer uses only the layers before it.
#[test]
fn no_part_uses_one_that_stands_behind_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src");
    let layers: [&[&str]; 10] = [
        &["breaker", "config", "effect", "error_chain", "event", "files", "memory", "transport"],
        &["socketio"],
        // `schema` and `events` are parts of `sockhop-core`. `plugin` must not know them.
        &["log", "metrics", "schema", "events", "store", "plugin", "rooms"],
        &["contract"],
        &["registry"],
        &["dispatcher"],
        &["socket", "reload"],
        &["http"],
        &["host"],
        &["command", "main", "lib"],
    ];
    let layer = |name: &str| layers.iter().position(|names| names.contains(&name));
    for file in sources(&root) {
        let name = file
            .strip_prefix(&root)
            .expect("a source of the host")
            .to_string_lossy()
            .replace('\\', "/");
        let part = name.split(['/', '.']).next().expect("a part");
        let own = layer(part).unwrap_or_else(|| {
            panic!("{name} is in no layer: is it a noun or a verb of the sentence?")
        });
        let source = std::fs::read_to_string(&file).expect("a source");
        for line in source.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for (at, _) in line.match_indices("crate::") {
                let used = line[at + "crate::".len()..]
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or_default();
                if let Some(other) = layer(used)
                    && used != part
                {
                    let sideways = other == own && own == 2;
                    // `plugin` does not know Socket.IO, not even its interface.
                    let is_apart = part == "plugin" && used == "socketio";
                    assert!(
                        other <= own && !sideways && !is_apart,
                        "{name} (layer {own}) uses {used} (layer {other})"
                    );
                }
            }
        }
    }
}

/// The dependencies of `sockhop-core`. None of them reads files, opens sockets or starts threads.
const CORE_KNOWS: [&str; 6] =
    ["jsonschema", "semver", "serde", "serde_json", "stacker", "thiserror"];

#[test]
fn the_core_has_no_io_and_only_its_schemas_know_the_validator() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/core");
    let manifest = std::fs::read_to_string(core.join("Cargo.toml")).expect("a manifest");
    let dependencies = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ']).next().filter(|name| !name.is_empty()));
    for dependency in dependencies {
        assert!(CORE_KNOWS.contains(&dependency), "the core depends on {dependency}");
    }
    for file in sources(&core.join("src")) {
        let name = file.strip_prefix(core.join("src")).expect("a source of the core");
        let source = std::fs::read_to_string(&file).expect("a source");
        assert!(source.starts_with("//!"), "{name:?} does not begin by saying what it owns");
        assert!(!name.ends_with("mod.rs"), "{name:?}: a module's file has its name");
        for io in ["env", "fs", "net", "process", "thread"] {
            let is_of_tests = name.ends_with("tests.rs");
            let knows = names(&source, &format!("std::{io}"));
            assert!(is_of_tests || !knows, "{name:?} knows std::{io}");
        }
        for validator in ["jsonschema", "stacker"] {
            let is_schema = name.starts_with("schema.rs") || name.starts_with("schema/");
            assert!(is_schema || !names(&source, validator), "{name:?} knows {validator}");
        }
    }
}

/// The SDK enables the validator of schemas only where there is a test host.
#[test]
fn a_compiled_plugin_has_no_validator_in_it() {
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-sdk/Cargo.toml");
    let manifest = std::fs::read_to_string(sdk).expect("a manifest");
    let tables: Vec<&str> = manifest.split("\n[").collect();
    let enabling: Vec<&&str> = tables.iter().filter(|table| table.contains("\"schema\"")).collect();
    assert_eq!(enabling.len(), 1, "{enabling:?}");
    assert!(
        enabling[0].starts_with("target.'cfg(not(target_family = \"wasm\"))'.dependencies]"),
        "{enabling:?}"
    );
}

/// Maximum number of lines of code in a file, without its tests, comments and blank lines.
const MAX_LINES: usize = 400;

#[test]
fn no_file_is_longer_than_its_reader_can_keep_in_mind() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let directories = [
        "host/src",
        "host/core/src",
        "host/socketio/src",
        "plugin-sdk/src",
        "plugins",
        "tests/bench",
    ];
    for directory in directories {
        let directory = root.join(directory);
        for file in sources(&directory) {
            let lines = code(&std::fs::read_to_string(&file).expect("a source")).count();
            let is_of_tests = is_of_tests(file.strip_prefix(&directory).expect("a source"));
            assert!(is_of_tests || lines <= MAX_LINES, "{}: {lines} lines", file.display());
        }
    }
}

#[test]
fn no_modules_of_a_crate_import_each_other_in_a_cycle() {
    for root in ["host/src", "host/core/src", "host/socketio/src", "plugin-sdk/src"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(root);
        for (parent, uses) in Crate::read(&root).uses() {
            let modules = in_cycles(&uses);
            assert!(modules.is_empty(), "{}/{parent}: {modules:?} in {uses:#?}", root.display());
        }
    }
}

#[test]
fn the_host_has_one_file_for_each_interface_that_a_plugin_imports() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let world = std::fs::read_to_string(root.join("wit/v0.1/plugin.wit")).expect("the world");
    let mut interfaces: Vec<_> = world
        .lines()
        .filter_map(|line| line.trim().strip_prefix("import ")?.strip_suffix(';'))
        .map(|interface| format!("{interface}.rs"))
        .collect();
    interfaces.sort();
    let files = sources(&root.join("host/src/plugin/calls"));
    let mut files: Vec<_> = files
        .iter()
        .map(|file| file.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(files, interfaces);
}
