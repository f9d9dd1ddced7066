//! Installs the official Socket.IO clients as their lock files say, and runs their tests and the
//! Rust tests against the built host.
//!
//! Installed packages are not installed again, so that a second run works without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::artifacts::{Workspace, cannot, create};
use crate::{Failure, tools};

/// Installs the JavaScript client in the directory of its tests, where Node.js looks for it.
///
/// # Errors
///
/// Returns an error if npm fails.
pub(crate) fn install_javascript(workspace: &Workspace) -> Result<(), Failure> {
    node_packages(&javascript(workspace))
}

/// The implementations of Socket.IO, the default first. The client tests run with each of them.
pub(crate) const IMPLEMENTATIONS: [&str; 2] = ["builtin", "socketioxide"];

/// How long the tests of one client may take. They take less than two minutes. Only a test that
/// fails, and leaves something open, does not end.
const CLIENT_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The environment variable that names the implementation of Socket.IO to the tests.
const IMPLEMENTATION: &str = "SOCKHOP_TEST_SOCKETIO";

/// The modules of the Rust tests that check what clients see.
const CLIENT_TESTS: [&str; 19] = [
    "answers::",
    "attachments::",
    "bounds::",
    "breaker::",
    "delivery::",
    "durability::",
    "edge::",
    "faults::",
    "host_events::",
    "identity::",
    "leaving::",
    "limits::",
    "numbers::",
    "order::",
    "reload::",
    "rooms::",
    "sessions::",
    "stopping::",
    "transactions::",
];

/// Runs the Rust tests. Some of them use the official clients, which must be installed before.
///
/// # Errors
///
/// Returns an error if a test fails.
pub(crate) fn test_rust(workspace: &Workspace) -> Result<(), Failure> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    cargo
        .env("SOCKHOP_JAVASCRIPT_CLIENT", javascript(workspace))
        .env("SOCKHOP_PYTHON", python_program(&python_environment(workspace)));
    tools::run(workspace.for_tests(&mut cargo))
}

/// Runs the Rust tests that check what clients see, with an implementation of Socket.IO that is not
/// the default.
///
/// # Errors
///
/// Returns an error if a test fails.
pub(crate) fn test_rust_with(workspace: &Workspace, implementation: &str) -> Result<(), Failure> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["test", "--workspace", "--test", "it", "--"])
        .args(CLIENT_TESTS)
        .env(IMPLEMENTATION, implementation);
    tools::run(workspace.for_tests(&mut cargo))
}

/// Runs the JavaScript client's tests, in Node.js and in a browser, with an implementation of
/// Socket.IO.
///
/// # Errors
///
/// Returns an error if a test fails.
pub(crate) fn test_javascript(workspace: &Workspace, implementation: &str) -> Result<(), Failure> {
    let mut node = Command::new("node");
    node.current_dir(javascript(workspace))
        .args(["--test", "--test-reporter=spec"])
        .env("SOCKHOP_BROWSER", tools::BROWSER_PROGRAM)
        .env(IMPLEMENTATION, implementation);
    tools::run_within(CLIENT_LIMIT, workspace.for_tests(&mut node))
}

/// Installs the Python client into its own virtual environment under the target directory.
///
/// # Errors
///
/// Returns an error if the environment can't be created or pip fails.
pub(crate) fn install_python(workspace: &Workspace) -> Result<(), Failure> {
    python_packages(&python(workspace).join("requirements.txt"), &python_environment(workspace))
}

/// Runs the Python client's tests with an implementation of Socket.IO.
///
/// # Errors
///
/// Returns an error if a test fails.
pub(crate) fn test_python(workspace: &Workspace, implementation: &str) -> Result<(), Failure> {
    let mut pytest = Command::new(python_program(&python_environment(workspace)));
    // Both options only keep caches out of the source directories.
    pytest
        .current_dir(python(workspace))
        .args(["-m", "pytest", "-p", "no:cacheprovider"])
        .env("PYTHONDONTWRITEBYTECODE", "1");
    pytest.env(IMPLEMENTATION, implementation);
    tools::run_within(CLIENT_LIMIT, workspace.for_tests(&mut pytest))
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

/// The path of the interpreter of a virtual environment.
pub(crate) fn python_program(environment: &Path) -> PathBuf {
    if cfg!(windows) {
        environment.join("Scripts").join("python.exe")
    } else {
        environment.join("bin").join("python")
    }
}

/// Installs the packages of the lock file in `directory` into the same directory.
///
/// # Errors
///
/// Returns an error if npm fails.
pub(crate) fn node_packages(directory: &Path) -> Result<(), Failure> {
    let stamp = directory.join("node_modules").join(".installed");
    once_for(&directory.join("package-lock.json"), &stamp, || {
        let mut npm = Command::new(tools::NPM_PROGRAM);
        tools::run(npm.current_dir(directory).args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ]))
    })
}

/// Installs the packages of `requirements` into their own virtual environment.
///
/// # Errors
///
/// Returns an error if the environment can't be created or pip fails.
pub(crate) fn python_packages(requirements: &Path, environment: &Path) -> Result<(), Failure> {
    once_for(requirements, &environment.join(".installed"), || {
        create(environment)?;
        tools::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
        let mut pip = Command::new(python_program(environment));
        pip.args([
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--quiet",
            "--requirement",
        ]);
        tools::run(pip.arg(requirements))
    })
}

/// Runs `install` unless it has succeeded before for the same content of `lock`. The stamp is
/// written last, so that an interrupted installation is repeated.
fn once_for(
    lock: &Path,
    stamp: &Path,
    install: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let wanted = fs::read(lock).map_err(|error| cannot("read", lock, &error))?;
    once_with(&wanted, stamp, install)
}

/// Runs `install` unless it has succeeded before with this content of the stamp.
///
/// # Errors
///
/// Returns the error of `install`, or an error if the stamp can't be written.
pub(crate) fn once_with(
    wanted: &[u8],
    stamp: &Path,
    install: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
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
        let directory =
            std::env::temp_dir().join(format!("sockhop-xtask-once-{}", std::process::id()));
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
