//! The targets of the log: the modules that write records, and the lines of plugins.

/// The target of lines that plugins write.
pub(super) const PLUGIN: &str = "plugin";

/// The modules that write records, of each crate. A module is the target of its records, as
/// `CRATE::MODULE`.
const TARGETS: [(&str, &[&str]); 2] = [
    (
        "sockhop",
        &[
            "auth::jwks",
            "command::serve",
            "command::serve::signals",
            "command::serve::systemd",
            "deliveries",
            "dispatcher",
            "dispatcher::acks",
            "dispatcher::attempt",
            "dispatcher::commit",
            "dispatcher::host_events",
            "dispatcher::host_events::worker",
            "dispatcher::run::deliver",
            "dispatcher::run::http",
            "host",
            "host::connection_limit",
            "host::monitor",
            "host::shutdown",
            "host::warnings",
            "http::accept",
            "http::connection",
            "http::drain",
            "http::emit",
            "http::metrics",
            "http::opening",
            "http::origin",
            "http::plugins",
            "http::problem",
            "http::reload",
            "http::routes",
            "http::rows",
            "http::slots::pool",
            "http::state",
            "http::users",
            "load_events",
            "log",
            "log::panics",
            "log::rejected",
            "plugin::compiler",
            "plugin::compiler::cache",
            "plugin_tasks",
            "reload::claim",
            "reload::commands",
            "reload::draining",
            "reload::inventory",
            "reload::journal",
            "reload::loads",
            "reload::progress",
            "reload::publish",
            "reload::scan",
            "reload::stores",
            "reload::watch",
            "rooms",
            "settings",
            "socket",
            "socket::client",
            "socket::client::authenticate",
            "socketio::cut",
            "socketio::library::argument",
            "store",
            "store::manifest",
            "store::opening",
            "timers",
            "tls",
        ],
    ),
    // The host's own implementation of Socket.IO.
    (
        "sockhop_socketio",
        &["client", "client::detached", "engineio::end", "engineio::http", "engineio::panics"],
    ),
];

/// Whether a filter for `name` selects any records: those of plugins, of a crate, of a module, or
/// of the modules below it.
pub(super) fn is_target(name: &str) -> bool {
    let is_in = |target: &str, module: &str| {
        target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    match name.split_once("::") {
        None => name == PLUGIN || TARGETS.iter().any(|(of, _)| *of == name),
        Some((name, module)) => TARGETS
            .iter()
            .any(|(of, modules)| *of == name && modules.iter().any(|target| is_in(target, module))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn sources(dir: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.extend(sources(&path));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
        files
    }

    /// Whether a source, without its tests, writes a record with its module as target.
    fn writes_records(source: &str) -> bool {
        let code = source.split("\n#[cfg(test)]").next().unwrap();
        // `log` names its module for the one record that it makes without a macro.
        code.contains("target: module_path!()")
            || ["trace!(", "debug!(", "info!(", "warn!(", "error!("].iter().any(|call| {
                code.match_indices(call).any(|(at, _)| {
                    !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
                        && !code[at + call.len()..].trim_start().starts_with("target:")
                })
            })
    }

    #[test]
    fn the_targets_are_the_modules_that_write_records() {
        for (dir, name) in [("src", "sockhop"), ("socketio/src", "sockhop_socketio")] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
            let files = sources(&root).into_iter();
            let mut found: Vec<_> = files
                .filter(|file| writes_records(&std::fs::read_to_string(file).unwrap()))
                .map(|file| {
                    let module = file.strip_prefix(&root).unwrap().with_extension("");
                    let names = module.iter().map(|name| name.to_str().unwrap());
                    names.collect::<Vec<_>>().join("::")
                })
                .collect();
            found.sort();
            let (_, targets) = TARGETS.iter().find(|(of, _)| *of == name).unwrap();
            assert_eq!(found, *targets, "{name}");
        }
    }

    #[test]
    fn a_name_is_a_target_only_if_something_is_logged_below_it() {
        for name in
            ["plugin", "sockhop", "sockhop::http", "sockhop::http::slots", "sockhop_socketio"]
        {
            assert!(is_target(name), "{name}");
        }
        for name in ["", "sock", "sockhop::htt", "sockhop::http::verbose", "sockhop::contract"] {
            assert!(!is_target(name), "{name}");
        }
    }
}
