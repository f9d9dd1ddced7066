//! The rules that every source follows: each heavy dependency is used by only one part, each part
//! of the host uses only lower layers, no modules import each other in a cycle, files are short.

mod imports;
mod source;

use std::path::Path;

use imports::{Crate, Uses, in_cycles};
use source::{code, is_of_tests, root, sources};

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
    let root = root().join("host/src");
    let laws: [(&str, &[&str]); 24] = [
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
        ("jsonwebtoken", &["auth/"]),
        ("anyhow", &["main.rs", "command.rs", "command/"]),
        ("figment2", &["config.rs", "config/"]),
        ("governor", &["rate.rs"]),
        ("notify", &["reload/watch.rs"]),
        ("prometheus_client", &["metrics.rs"]),
        ("tracing_subscriber", &["log.rs"]),
        ("rustls", &["tls.rs", "tls/", "outbound.rs", "outbound/"]),
        ("tokio_rustls", &["tls.rs", "tls/", "outbound/"]),
        ("rustls_native_certs", &["outbound/"]),
        ("url", &["outbound/", "config/outbound.rs"]),
        ("x509_cert", &["tls/"]),
        ("ppp", &["http/proxy/"]),
        ("serde_saphyr", &["scenario/"]),
        ("similar", &["scenario/"]),
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
    }
}

/// Parts that their user must not know, although they stand before it.
const APART: [(&str, &str); 3] =
    [("plugin", "schema"), ("plugin", "events"), ("plugin", "socketio")];

/// Returns the uses of a part by one that must not know it. The layers stand from bottom to top;
/// the parts of the lowest layer may use each other.
fn wrong_uses(uses: &Uses, layers: &[&[&str]]) -> Vec<String> {
    let layer = |name: &String| {
        layers.iter().position(|names| names.contains(&name.as_str())).unwrap_or_else(|| {
            panic!("{name} is in no layer: is it a noun or a verb of the sentence?")
        })
    };
    let is_right = |(user, used): &&(String, String)| {
        let (own, other) = (layer(user), layer(used));
        let is_below = other < own || own == 0 && other == 0;
        is_below && !APART.contains(&(user, used))
    };
    let wrong = uses.iter().filter(|pair| !is_right(pair));
    wrong.map(|(user, used)| format!("{user} uses {used}")).collect()
}

/// The layers from bottom to top. Each layer uses only the layers before it.
#[test]
fn no_part_uses_one_that_stands_behind_it() {
    let layers: [&[&str]; 13] = [
        &[
            "breaker",
            "config",
            "effect",
            "error_chain",
            "event",
            "files",
            "memory",
            "rate",
            "transport",
            "wall_clock",
        ],
        &["auth", "outbound", "tls"],
        &["socketio"],
        // `rejection`, `rule`, `schema` and `events` are parts of `sockhop-core`.
        &["log", "metrics", "schema", "events", "store", "plugin", "rooms"],
        &["contract", "scenario"],
        &["registry"],
        &["dispatcher", "plugin_tasks"],
        &["socket", "timers", "deliveries", "load_events", "reload"],
        &["settings"],
        &["http"],
        &["host"],
        &["trial"],
        &["command", "main", "lib"],
    ];
    let host = root().join("host/src");
    let wrong = wrong_uses(&Crate::read(&host).with(&["schema", "events"]).uses()[""], &layers);
    assert!(wrong.is_empty(), "{wrong:?}");
    for file in sources(&host) {
        let name = file.strip_prefix(&host).expect("a source of the host").with_extension("");
        let part = name.iter().next().expect("a part").to_string_lossy();
        let is_known = layers.iter().any(|names| names.contains(&&*part));
        assert!(is_known, "{part} is in no layer: is it a noun or a verb of the sentence?");
    }
}

#[test]
fn a_use_of_a_higher_layer_is_found_in_trees_of_imports_and_through_the_parent() {
    let host = Crate::of([
        ("", "pub use sockhop_core::schema;"),
        ("store", "use crate::{event::Json, http::Problem};"),
        ("store/commit", "use super::super::dispatcher::Dispatcher;"),
        ("plugin", "use crate::schema::Validator;"),
        ("event", ""),
        ("dispatcher", "fn f() { crate::plugin::call() }"),
        ("http", ""),
    ]);
    let layers: [&[&str]; 4] =
        [&["event"], &["schema", "store", "plugin"], &["dispatcher"], &["http"]];
    assert_eq!(
        wrong_uses(&host.with(&["schema"]).uses()[""], &layers),
        ["plugin uses schema", "store uses dispatcher", "store uses http"]
    );
}

/// Returns the names of the libraries that a crate depends on, without those of its tests.
fn dependencies(directory: &Path) -> Vec<String> {
    let manifest = std::fs::read_to_string(directory.join("Cargo.toml")).expect("a manifest");
    let mut is_inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if let Some(table) = line.strip_prefix('[') {
            is_inside = table.ends_with("dependencies]") && !table.contains("dev-dependencies");
        } else if is_inside && line.starts_with(|first: char| first.is_ascii_alphabetic()) {
            names.extend(line.split(['.', ' ', '=']).next().map(str::to_owned));
        }
    }
    names
}

#[test]
fn the_socket_io_server_knows_no_host_no_plugins_and_no_other_server() {
    let crate_dir = root().join("host/socketio");
    let known = dependencies(&crate_dir);
    assert!(known.iter().any(|name| name == "hyper"), "{known:?}");
    for name in known {
        let is_foreign =
            ["axum", "socketioxide", "engineioxide", "wasmtime", "rusqlite", "sockhop"]
                .iter()
                .any(|foreign| name.starts_with(foreign));
        assert!(!is_foreign, "`sockhop-socketio` depends on {name}");
    }
}

/// The dependencies of `sockhop-core`. None of them reads files, opens sockets or starts threads.
const CORE_KNOWS: [&str; 12] = [
    "chrono",
    "chrono-tz",
    "croner",
    "form_urlencoded",
    "jsonschema",
    "percent-encoding",
    "semver",
    "serde",
    "serde_json",
    "stacker",
    "thiserror",
    "url",
];

#[test]
fn the_core_has_no_io_and_each_library_is_known_to_one_part_of_it() {
    let core = root().join("host/core");
    for dependency in dependencies(&core) {
        assert!(CORE_KNOWS.contains(&dependency.as_str()), "the core depends on {dependency}");
    }
    for file in sources(&core.join("src")) {
        let name = file.strip_prefix(core.join("src")).expect("a source of the core");
        let source = std::fs::read_to_string(&file).expect("a source");
        for io in ["env", "fs", "net", "process", "thread"] {
            let is_of_tests = name.ends_with("tests.rs");
            let knows = names(&source, &format!("std::{io}"));
            assert!(is_of_tests || !knows, "{name:?} knows std::{io}");
        }
        for validator in ["jsonschema", "stacker"] {
            let is_schema = name.starts_with("schema.rs") || name.starts_with("schema/");
            assert!(is_schema || !names(&source, validator), "{name:?} knows {validator}");
        }
        for calendar in ["chrono", "chrono_tz", "croner"] {
            let is_schedule = name.starts_with("schedule.rs");
            assert!(is_schedule || !names(&source, calendar), "{name:?} knows {calendar}");
        }
    }
}

/// The SDK enables the validator of schemas only where there is a test host.
#[test]
fn a_compiled_plugin_has_no_validator_in_it() {
    let sdk = root().join("plugin-sdk/Cargo.toml");
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
    let root = root();
    for file in sources(&root) {
        let name = file.strip_prefix(&root).expect("a file of the repository");
        let lines = code(&std::fs::read_to_string(&file).expect("a source")).count();
        assert!(is_of_tests(name) || lines <= MAX_LINES, "{}: {lines} lines", name.display());
    }
}

#[test]
fn every_file_begins_with_what_it_owns_and_has_the_name_of_its_module() {
    for file in sources(&root()) {
        let source = std::fs::read_to_string(&file).expect("a source");
        let name = file.display();
        assert!(source.starts_with("//! "), "{name} does not begin by saying what it owns");
        assert!(!file.ends_with("mod.rs"), "{name}: a module's file has its name");
    }
}

/// Maximum width of a line in characters. `.rustfmt.toml` has the same number for code.
const MAX_WIDTH: usize = 100;

/// Returns the lines that are too wide. Tables have one line for each row.
fn wide<'a>(file: &Path, text: &'a str) -> Vec<&'a str> {
    let name = file.to_string_lossy();
    let is_whole = [".toml", ".ci/run", "ARCHITECTURE.md"].iter().any(|end| name.ends_with(end));
    let comments: &[&str] = match file.extension().and_then(|extension| extension.to_str()) {
        Some("rs" | "wit") => &["//"],
        Some("mjs" | "cjs") => &["//", "/*", "*"],
        Some("py") => &["#"],
        _ => &[],
    };
    let is_bound = |line: &&str| {
        let line = line.trim_start();
        let is_row = line.trim_start_matches(['/', '!', ' ']).starts_with('|');
        !is_row && (is_whole || comments.iter().any(|sign| line.starts_with(sign)))
    };
    let is_wide = |line: &&str| line.chars().count() > MAX_WIDTH;
    text.lines().filter(is_bound).filter(is_wide).collect()
}

#[test]
fn no_comment_and_no_setting_is_wider_than_code() {
    let root = root();
    // All of them, so that nobody meets them one by one.
    let mut found = Vec::new();
    for file in source::files(&root) {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let wide = wide(&file, &text).into_iter();
        found.extend(wide.map(|line| format!("{}: {line}", file.display())));
    }
    assert!(found.is_empty(), "{found:#?}");
    let long = "x".repeat(MAX_WIDTH);
    for (file, is_too_wide) in
        [("a.rs", true), (".ci/run", true), ("deny.toml", true), ("a.txt", false)]
    {
        assert_eq!(wide(Path::new(file), &format!("// {long}")).len(), usize::from(is_too_wide));
        assert!(wide(Path::new(file), &format!("// | {long} |")).is_empty());
    }
}

#[test]
fn no_modules_of_a_crate_import_each_other_in_a_cycle() {
    for root in ["host/src", "host/core/src", "host/socketio/src", "plugin-sdk/src"] {
        let root = source::root().join(root);
        for (parent, uses) in Crate::read(&root).uses() {
            let modules = in_cycles(&uses);
            assert!(modules.is_empty(), "{}/{parent}: {modules:?} in {uses:#?}", root.display());
        }
    }
}

#[test]
fn each_interface_that_a_plugin_imports_has_one_file_on_each_side() {
    let root = root();
    let world = std::fs::read_to_string(root.join("wit/v0.1/plugin.wit")).expect("the world");
    let mut interfaces: Vec<_> = world
        .lines()
        .filter_map(|line| line.trim().strip_prefix("import ")?.strip_suffix(';'))
        .map(|interface| format!("{interface}.rs"))
        .collect();
    interfaces.sort();
    let files = |folder: &str| {
        let files = sources(&root.join(folder));
        let mut files: Vec<_> = files
            .iter()
            .map(|file| file.file_name().expect("a name").to_string_lossy().into_owned())
            .collect();
        files.sort();
        files
    };
    assert_eq!(files("host/src/plugin/calls"), interfaces);
    // The others need nothing of the event: an instance answers them itself.
    interfaces.retain(|file| !["log.rs", "registry.rs", "types.rs"].contains(&file.as_str()));
    assert_eq!(files("host/src/dispatcher/run"), interfaces);
    // The SDK: in a component, and in the test host. `settings` is an interface of WASI.
    let of_sdk = |without: &[&str]| {
        let all = ["log.rs", "registry.rs", "settings.rs", "types.rs"].map(str::to_owned);
        let all = interfaces.iter().cloned().chain(all);
        let mut all: Vec<_> = all.filter(|file| !without.contains(&file.as_str())).collect();
        all.sort();
        all
    };
    assert_eq!(files("plugin-sdk/src/imports"), of_sdk(&[]));
    assert_eq!(files("plugin-sdk/src/testing/run"), of_sdk(&["registry.rs", "types.rs"]));
}
