//! The stock Socket.IO clients and their tests: installs each as its lock file says, and runs it against the built host.
//!
//! What is installed already is not installed again, so that a second run works without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::artifacts::{Workspace, cannot, create};
use crate::{Failure, tools};

/// Installs the JavaScript client beside its tests, where Node.js looks for it.
///
/// # Errors
///
/// Where npm fails.
pub(crate) fn install_javascript(workspace: &Workspace) -> Result<(), Failure> {
    node_packages(&javascript(workspace))
}

/// The implementations of Socket.IO, the default first. Scenarios of clients are tested with each.
pub(crate) const IMPLEMENTATIONS: [&str; 2] = ["builtin", "socketioxide"];

/// Names the implementation of Socket.IO to the tests.
const IMPLEMENTATION: &str = "SOCKHOP_TEST_SOCKETIO";

/// The modules of the tests in Rust whose subject is what clients see.
const CLIENT_TESTS: [&str; 14] = [
    "answers::",
    "bounds::",
    "breaker::",
    "delivery::",
    "durability::",
    "edge::",
    "faults::",
    "host_events::",
    "leaving::",
    "numbers::",
    "order::",
    "reload::",
    "rooms::",
    "transactions::",
];

/// Runs the tests in Rust, some of which use the stock clients: what they need is installed.
///
/// # Errors
///
/// Where one fails.
pub(crate) fn test_rust(workspace: &Workspace) -> Result<(), Failure> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    cargo.env("SOCKHOP_JAVASCRIPT_CLIENT", javascript(workspace)).env("SOCKHOP_PYTHON", python_program(&python_environment(workspace)));
    tools::run(workspace.for_tests(&mut cargo))
}

/// Runs those of the tests in Rust whose subject is what clients see, with an implementation of Socket.IO that is not the default.
///
/// # Errors
///
/// Where one fails.
pub(crate) fn test_rust_with(workspace: &Workspace, implementation: &str) -> Result<(), Failure> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--workspace", "--test", "it", "--"]).args(CLIENT_TESTS).env(IMPLEMENTATION, implementation);
    tools::run(workspace.for_tests(&mut cargo))
}

/// Runs the JavaScript client's tests with an implementation of Socket.IO.
///
/// # Errors
///
/// Where one fails.
pub(crate) fn test_javascript(workspace: &Workspace, implementation: &str) -> Result<(), Failure> {
    let mut node = Command::new("node");
    node.current_dir(javascript(workspace)).args(["--test", "--test-reporter=spec"]).env(IMPLEMENTATION, implementation);
    tools::run(workspace.for_tests(&mut node))
}

/// Installs the Python client into an environment of its own under the target directory.
///
/// # Errors
///
/// Where the environment can't be made, or pip fails.
pub(crate) fn install_python(workspace: &Workspace) -> Result<(), Failure> {
    python_packages(&python(workspace).join("requirements.txt"), &python_environment(workspace))
}

/// Runs the Python client's tests with an implementation of Socket.IO.
///
/// # Errors
///
/// Where one fails.
pub(crate) fn test_python(workspace: &Workspace, implementation: &str) -> Result<(), Failure> {
    let mut pytest = Command::new(python_program(&python_environment(workspace)));
    // Neither option is about the tests: they keep caches out of the sources.
    pytest.current_dir(python(workspace)).args(["-m", "pytest", "-p", "no:cacheprovider"]).env("PYTHONDONTWRITEBYTECODE", "1");
    pytest.env(IMPLEMENTATION, implementation);
    tools::run(workspace.for_tests(&mut pytest))
}

fn javascript(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tests").join("clients").join("javascript")
}

fn python(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tests").join("clients").join("python")
}

fn python_environment(workspace: &Workspace) -> PathBuf {
    workspace.target.join("clients").join("python")
}

/// The interpreter of an environment.
pub(crate) fn python_program(environment: &Path) -> PathBuf {
    if cfg!(windows) { environment.join("Scripts").join("python.exe") } else { environment.join("bin").join("python") }
}

/// Installs what the lock file in `directory` names, beside it.
///
/// # Errors
///
/// Where npm fails.
pub(crate) fn node_packages(directory: &Path) -> Result<(), Failure> {
    let stamp = directory.join("node_modules").join(".installed");
    once_for(&directory.join("package-lock.json"), &stamp, || {
        let mut npm = Command::new(tools::NPM_PROGRAM);
        tools::run(npm.current_dir(directory).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))
    })
}

/// Installs what `requirements` name into a Python environment of its own.
///
/// # Errors
///
/// Where the environment can't be made, or pip fails.
pub(crate) fn python_packages(requirements: &Path, environment: &Path) -> Result<(), Failure> {
    once_for(requirements, &environment.join(".installed"), || {
        create(environment)?;
        tools::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
        let mut pip = Command::new(python_program(environment));
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--requirement"]);
        tools::run(pip.arg(requirements))
    })
}

/// Does `install` unless it was done for this very `lock` before. The stamp is written last, so that an interrupted one is done again.
fn once_for(lock: &Path, stamp: &Path, install: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let wanted = fs::read(lock).map_err(|error| cannot("read", lock, &error))?;
    if fs::read(stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    install()?;
    fs::write(stamp, wanted).map_err(|error| cannot("write", stamp, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_is_repeated_only_where_its_lock_changed_or_it_failed() {
        let directory = std::env::temp_dir().join(format!("sockhop-xtask-once-{}", std::process::id()));
        create(&directory).unwrap();
        let (lock, stamp) = (directory.join("lock"), directory.join("stamp"));
        let failed = || Err(Failure("no network".to_owned()));
        fs::write(&lock, "1").unwrap();
        assert_eq!(once_for(&lock, &stamp, failed), failed());
        assert_eq!(once_for(&lock, &stamp, || Ok(())), Ok(()));
        assert_eq!(once_for(&lock, &stamp, failed), Ok(()));
        fs::write(&lock, "2").unwrap();
        assert_eq!(once_for(&lock, &stamp, failed), failed());
        fs::remove_dir_all(&directory).unwrap();
    }
}
