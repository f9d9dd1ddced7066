//! The workspace's own commands, behind `cargo xtask`. One command leads from a fresh clone to a
//! running host or to the result of every test.
//!
//! This file owns the commands and the order of their steps. The modules know how to build, find
//! and report each thing. Of the host, this program knows only the command line.

mod artifacts;
mod bench;
mod clients;
mod guests;
mod pgo;
mod report;
mod suite;
mod tools;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fmt};

use artifacts::Workspace;
use pgo::Pgo;
use report::Steps;

/// The text that `cargo xtask help` shows.
const HELP: &str = "\
cargo xtask run [-- ARGS]   do all the set-up and serve on 127.0.0.1:4000 with the bundled plugins
cargo xtask test            do all the set-up and run every test
cargo xtask release         build the release of the host: twice, because the second build is \
                    optimised with a profile of the host under load
cargo xtask bench [-- ARGS] measure the released host beside native, Node and Python servers; `-- \
                    --help` lists its settings
cargo xtask bench --plain [-- ARGS]
                            the same with what `cargo build --release` builds, for work on the host
cargo xtask soak [-- ARGS]  run honest clients for an hour beside every abuse that the host must \
                    withstand; `-- --minutes N` for another time
cargo xtask siege           take every slot of the host with clients that only hold connections, for \
                    some minutes
cargo xtask flood           let one user send 50,000 events a second, beside others
cargo xtask outage          let 200 clients call a service that never answers, beside others
cargo xtask suite DIR       run the official test suite of Engine.IO or Socket.IO in DIR, a \
                    checkout, on the crate's server and on the host
cargo xtask micro [-- ARGS] measure what `cargo build --release` builds part by part; ARGS are \
                    those of Criterion, such as a part's name
cargo xtask plugins         build the bundled plugins and place them in target/plugins
cargo xtask guests          build the plugins in Rust that only tests load
cargo xtask help            show this

ARGS are those of `sockhop serve`, which `cargo xtask run -- --help` lists. `--listen`, \
                    `--plugins` and `--data` replace the values that
`run` passes (127.0.0.1:4000, target/plugins, target/data); with `--config` it passes none of them.

Requirements beside Rust: a C compiler; `test`, `suite` and `bench` also Node.js with npm; `test` \
                    also Chromium; `test` and `bench` also Python 3 with
venv; `release` and `bench` also Linux with taskset and setpriv. Missing programs are reported \
                    before anything is built. `release`, and `bench` without
`--plain`, build for half an hour on two processors the first time, and some 20 minutes after each \
                    change of the host.";

/// The reason why a command failed: a sentence for the user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::failure(&failure);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[OsString]) -> Result<(), Failure> {
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.to_str().unwrap_or_default(), rest),
        None => ("help", arguments),
    };
    match (command, rest) {
        ("run", _) => run(rest),
        ("test", []) => test(),
        ("release", []) => release(),
        ("bench", _) => bench(rest),
        ("soak", _) => judge("soak", rest),
        ("siege", _) => judge("siege", rest),
        ("flood", _) => judge("flood", rest),
        ("outage", _) => judge("outage", rest),
        ("suite", [directory]) => suite(Path::new(directory)),
        ("suite", _) => Err(Failure(format!("`suite` takes the directory of one suite\n\n{HELP}"))),
        ("micro", _) => micro(rest),
        ("plugins", []) => plugins(),
        ("guests", []) => guests(),
        ("help" | "--help" | "-h", _) => {
            report::text(HELP);
            Ok(())
        }
        ("test" | "release" | "plugins" | "guests", [argument, ..]) => Err(Failure(format!(
            "`{command}` takes no argument such as `{}`\n\n{HELP}",
            argument.to_string_lossy()
        ))),
        _ => Err(Failure(format!(
            "unknown command `{}`\n\n{HELP}",
            arguments.first().map(|a| a.to_string_lossy()).unwrap_or_default()
        ))),
    }
}

/// `cargo xtask run`: replaces this process by the host at the end, so that signals reach the host
/// and its exit status is the command's.
fn run(rest: &[OsString]) -> Result<(), Failure> {
    let extra = match rest.split_first() {
        Some((first, extra)) if first == "--" => extra,
        _ => rest,
    };
    tools::require(&[tools::CC])?;
    let workspace = Workspace::find()?;
    let mut steps = Steps::of(3);
    steps.step("WebAssembly target", tools::wasm_target)?;
    steps.step("bundled plugins", || {
        workspace.build_plugins()?;
        workspace.place_plugins(&workspace.plugins_dir())
    })?;
    steps.step("host (the first time takes some minutes)", || workspace.build_host())?;

    let mut serve = Command::new(workspace.host_binary());
    serve.arg("serve");
    let (plugins, data) = (workspace.plugins_dir(), workspace.target.join("data"));
    for (option, value) in [
        ("--listen", OsStr::new("127.0.0.1:4000")),
        ("--plugins", plugins.as_os_str()),
        ("--data", data.as_os_str()),
    ] {
        if !gives(extra, option) && !gives(extra, "--config") {
            serve.arg(option).arg(value);
        }
    }
    become_process(serve.args(extra))
}

/// Builds the bundled plugins and copies them to the directory where tests and measurements find
/// them.
fn tested_plugins(workspace: &Workspace) -> Result<(), Failure> {
    workspace.build_plugins()?;
    workspace.place_optional()?;
    workspace.place_plugins_alone(&workspace.tested_plugins_dir())
}

/// `cargo xtask test`
fn test() -> Result<(), Failure> {
    tools::require(&[
        tools::CC,
        tools::NODE,
        tools::NPM,
        tools::BROWSER,
        tools::PYTHON,
        tools::PYTHON_VENV,
    ])?;
    let workspace = Workspace::find()?;
    let mut steps = Steps::of(14);
    steps.step("WebAssembly target", tools::wasm_target)?;
    steps.step("bundled plugins", || tested_plugins(&workspace))?;
    steps.step("plugins that only tests load", || workspace.build_guests())?;
    steps.step("plugins that only tests load, in JavaScript", || {
        guests::build_javascript(&workspace)
    })?;
    steps.step("plugins that only tests load, in Python", || guests::build_python(&workspace))?;
    steps.step("host (the first time takes some minutes)", || {
        workspace.forget_compiled()?;
        workspace.build_host()
    })?;
    steps.step("JavaScript client: packages", || clients::install_javascript(&workspace))?;
    steps.step("Python client: packages", || clients::install_python(&workspace))?;
    steps.step("Rust tests", || clients::test_rust(&workspace))?;
    let [default, other] = clients::IMPLEMENTATIONS;
    steps.step(&format!("Rust tests of what clients see, {other}"), || {
        clients::test_rust_with(&workspace, other)
    })?;
    for implementation in [default, other] {
        steps.step(&format!("JavaScript client: tests, {implementation}"), || {
            clients::test_javascript(&workspace, implementation)
        })?;
        steps.step(&format!("Python client: tests, {implementation}"), || {
            clients::test_python(&workspace, implementation)
        })?;
    }
    report::text("every test passed");
    Ok(())
}

/// `cargo xtask micro`
fn micro(rest: &[OsString]) -> Result<(), Failure> {
    tools::require(&[tools::CC])?;
    let workspace = Workspace::find()?;
    let mut steps = Steps::of(3);
    steps.step("WebAssembly target", tools::wasm_target)?;
    steps.step("bundled plugins", || tested_plugins(&workspace))?;
    steps.step("host, optimised (the first time takes many minutes)", || {
        workspace.build_optimised()
    })?;
    bench::run_parts(&workspace, rest.strip_prefix(&[OsString::from("--")]).unwrap_or(rest))
}

/// `cargo xtask release`
fn release() -> Result<(), Failure> {
    tools::require(&[tools::CC, tools::TASKSET, tools::SETPRIV])?;
    let workspace = Workspace::find()?;
    let pgo = Pgo::new(&workspace)?;
    let mut steps = Steps::of(RELEASE_STEPS);
    build_released(&workspace, &pgo, &mut steps)?;
    report::text(&format!("built {}", pgo.released("sockhop").display()));
    Ok(())
}

/// Number of steps of [`build_plugins`].
const PLUGIN_STEPS: usize = 3;

/// Builds every plugin that the measurements load.
fn build_plugins(workspace: &Workspace, steps: &mut Steps) -> Result<(), Failure> {
    steps.step("WebAssembly target", tools::wasm_target)?;
    steps.step("bundled plugins", || tested_plugins(workspace))?;
    steps.step("plugins that only tests load", || workspace.build_guests())
}

/// Number of steps of [`build_released`].
const RELEASE_STEPS: usize = PLUGIN_STEPS + 4;

/// Builds the host as it is released, the benchmark and its native peer in the same way, and
/// everything that these builds need.
fn build_released(workspace: &Workspace, pgo: &Pgo<'_>, steps: &mut Steps) -> Result<(), Failure> {
    // This step is first, because without it the other steps are useless.
    steps.step("LLVM's tools", || pgo.add_tools())?;
    build_plugins(workspace, steps)?;
    steps.step(
        "host, native peer and load, with counters (the first time takes many minutes)",
        || pgo.build_counting(),
    )?;
    steps.step("a load that they count (its figures mean nothing)", || pgo.record_profile())?;
    steps.step(
        "host, native peer and load, optimised (many minutes, also after each change of the host)",
        || pgo.build_released(),
    )
}

/// `cargo xtask bench`
fn bench(rest: &[OsString]) -> Result<(), Failure> {
    let required = [
        tools::CC,
        tools::NODE,
        tools::NPM,
        tools::NEWER_PYTHON,
        tools::PYTHON_VENV,
        tools::TASKSET,
        tools::SETPRIV,
    ];
    tools::require(&required)?;
    let workspace = Workspace::find()?;
    let peers = |steps: &mut Steps| {
        steps.step("Node.js peer: packages", || bench::install_node_peer(&workspace))?;
        steps.step("Python peer: packages", || bench::install_python_peer(&workspace))
    };
    let arguments =
        |rest: &[OsString]| rest.strip_prefix(&[OsString::from("--")]).unwrap_or(rest).to_vec();
    if let Some(rest) = rest.strip_prefix(&[OsString::from("--plain")]) {
        let mut steps = Steps::of(PLUGIN_STEPS + 3);
        build_plugins(&workspace, &mut steps)?;
        steps.step(
            "host, native peer and load, optimised (the first time takes many minutes)",
            || workspace.build_optimised(),
        )?;
        peers(&mut steps)?;
        return bench::run(&workspace, |name| workspace.optimised(name), &arguments(rest));
    }
    let pgo = Pgo::new(&workspace)?;
    let mut steps = Steps::of(RELEASE_STEPS + 2);
    build_released(&workspace, &pgo, &mut steps)?;
    peers(&mut steps)?;
    bench::run(&workspace, |name| pgo.released(name), &arguments(rest))
}

/// `cargo xtask soak`, `siege`, `flood` and `outage`: one part of the benchmark that judges the
/// host.
fn judge(part: &str, rest: &[OsString]) -> Result<(), Failure> {
    tools::require(&[tools::CC, tools::TASKSET, tools::SETPRIV])?;
    let workspace = Workspace::find()?;
    let mut steps = Steps::of(PLUGIN_STEPS + 1);
    build_plugins(&workspace, &mut steps)?;
    steps.step("host and load, optimised (the first time takes many minutes)", || {
        workspace.build_optimised()
    })?;
    let mut arguments: Vec<OsString> = ["--only", part].map(OsString::from).into();
    arguments.extend_from_slice(rest.strip_prefix(&[OsString::from("--")]).unwrap_or(rest));
    bench::run(&workspace, |name| workspace.optimised(name), &arguments)
}

/// `cargo xtask suite`
fn suite(directory: &Path) -> Result<(), Failure> {
    tools::require(&[tools::CC, tools::NODE, tools::NPM])?;
    suite::run(&Workspace::find()?, directory)?;
    report::text("every case passed that this server is meant to pass");
    Ok(())
}

/// `cargo xtask plugins`
fn plugins() -> Result<(), Failure> {
    let workspace = Workspace::find()?;
    let mut steps = Steps::of(2);
    steps.step("WebAssembly target", tools::wasm_target)?;
    steps.step("bundled plugins", || {
        workspace.build_plugins()?;
        workspace.place_plugins(&workspace.plugins_dir())
    })
}

/// `cargo xtask guests`
fn guests() -> Result<(), Failure> {
    let workspace = Workspace::find()?;
    let mut steps = Steps::of(2);
    steps.step("WebAssembly target", tools::wasm_target)?;
    steps.step("plugins that only tests load", || workspace.build_guests())
}

/// Returns whether `arguments` set `option`, as `--option value` or `--option=value`.
fn gives(arguments: &[OsString], option: &str) -> bool {
    arguments.iter().any(|argument| {
        let bytes = argument.as_encoded_bytes();
        bytes
            .strip_prefix(option.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
    })
}

#[cfg(unix)]
fn become_process(command: &mut Command) -> Result<(), Failure> {
    use std::os::unix::process::CommandExt;
    let program = command.get_program().to_string_lossy().into_owned();
    Err(Failure(format!("{program} can't be run: {}", command.exec())))
}

#[cfg(not(unix))]
fn become_process(command: &mut Command) -> Result<(), Failure> {
    tools::run(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_counts_as_given_in_both_of_its_forms() {
        let arguments: Vec<OsString> =
            ["--listen", "127.0.0.1:1", "--data=here", "--config-like"].map(OsString::from).into();
        let given =
            ["--listen", "--data", "--plugins", "--config"].map(|option| gives(&arguments, option));
        assert_eq!(given, [true, true, false, false]);
    }

    #[test]
    fn an_unknown_command_is_named_together_with_the_known_ones() {
        let failure = dispatch(&[OsString::from("tset")]).map_err(|failure| failure.0);
        assert_eq!(failure, Err(format!("unknown command `tset`\n\n{HELP}")));
    }
}
