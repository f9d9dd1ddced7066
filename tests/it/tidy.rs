//! The architecture rules of the host: each heavy dependency is used by only one part, and each
//! part uses only lower layers.

use std::path::{Path, PathBuf};

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

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
    let laws: [(&str, &[&str]); 13] = [
        ("wasmtime", &["plugin/"]),
        ("wasmtime_wasi", &["plugin/"]),
        ("sockhop_socketio", &["socketio/builtin.rs"]),
        ("socketioxide", &["socketio/library.rs", "socketio/library/"]),
        ("socketioxide_core", &["socketio/library.rs", "socketio/library/"]),
        ("jsonschema", &["schema.rs", "schema/"]),
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
    let layers: [&[&str]; 9] = [
        &[
            "breaker",
            "config",
            "effect",
            "error_chain",
            "event",
            "files",
            "memory",
            "rejection",
            "rule",
            "transport",
        ],
        &["socketio"],
        &["log", "metrics", "schema", "store", "plugin", "rooms"],
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
                    assert!(
                        other <= own && !sideways,
                        "{name} (layer {own}) uses {used} (layer {other})"
                    );
                }
            }
        }
    }
}

/// Maximum number of lines of code in a file, without its tests, comments and blank lines.
const MAX_LINES: usize = 400;

/// The lines of code of a file. Tests stand at its end, or in files of their own.
fn lines_of_code(source: &str) -> usize {
    let code = source.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    let is_code = |line: &&str| !line.is_empty() && !line.starts_with("//");
    code.map(str::trim).filter(is_code).count()
}

#[test]
fn no_file_is_longer_than_its_reader_can_keep_in_mind() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for directory in ["host/src", "host/socketio/src", "plugin-sdk/src", "plugins", "tests/bench"] {
        for file in sources(&root.join(directory)) {
            let name = file.file_name().expect("a name").to_string_lossy().into_owned();
            // Files of tests only: they belong to the module beside them.
            let is_of_tests = file.components().any(|part| part.as_os_str() == "tests")
                || ["tests.rs", "model.rs", "differential.rs"].contains(&name.as_str());
            let lines = lines_of_code(&std::fs::read_to_string(&file).expect("a source"));
            assert!(is_of_tests || lines <= MAX_LINES, "{}: {lines} lines", file.display());
        }
    }
}

/// The files of the SDK use each other in one direction.
#[test]
fn no_file_of_the_sdk_uses_one_that_uses_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-sdk/src");
    let mut uses: Vec<(String, Vec<String>)> = Vec::new();
    for file in sources(&root) {
        let path = file.strip_prefix(&root).expect("a source of the SDK").to_string_lossy();
        let part = path.split(['/', '.', '\\']).next().expect("a part").to_owned();
        let source = std::fs::read_to_string(&file).expect("a source");
        let code = source.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        let code = code.filter(|line| !line.trim_start().starts_with("//"));
        let used = code.flat_map(|line| {
            line.match_indices("crate::").filter_map(|(at, _)| {
                // `$crate` is the crate of a macro's caller.
                let is_own = !line[..at].ends_with('$');
                let rest = &line[at + "crate::".len()..];
                let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
                is_own.then(|| name.to_owned())
            })
        });
        if part != "lib" {
            uses.push((part.clone(), used.filter(|used| *used != part).collect()));
        }
    }
    let mut remaining = uses;
    // Takes away the files that use none of the others, until nothing is left.
    while !remaining.is_empty() {
        let names: Vec<_> = remaining.iter().map(|(name, _)| name.clone()).collect();
        let (inner, leaves): (Vec<_>, Vec<_>) = remaining
            .into_iter()
            .partition(|(_, used)| used.iter().any(|used| names.contains(used)));
        assert!(!leaves.is_empty(), "these files use each other in a circle: {names:?}");
        // A directory has several files of one name.
        remaining = inner;
    }
}
