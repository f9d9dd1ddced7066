//! Installs the peers of the benchmark, which Sockhop is compared with, and runs the benchmark.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::artifacts::Workspace;
use crate::{Failure, clients, tools};

/// Installs the Node.js peer in its source directory.
///
/// # Errors
///
/// Returns an error if npm fails.
pub(crate) fn install_node_peer(workspace: &Workspace) -> Result<(), Failure> {
    clients::node_packages(&peers(workspace).join("node"))
}

/// Installs the Python peer into its own virtual environment under the target directory.
///
/// # Errors
///
/// Returns an error if the environment can't be created or pip fails.
pub(crate) fn install_python_peer(workspace: &Workspace) -> Result<(), Failure> {
    clients::python_packages(
        &peers(workspace).join("python").join("requirements.txt"),
        &python_environment(workspace),
    )
}

/// Runs the benchmark. `built` returns the path of a built program by its name.
///
/// # Errors
///
/// Returns an error if the benchmark fails, such as when messages were lost.
pub(crate) fn run(
    workspace: &Workspace,
    built: impl Fn(&str) -> PathBuf,
    arguments: &[OsString],
) -> Result<(), Failure> {
    let mut bench = Command::new(built("bench"));
    workspace.for_tests(&mut bench).env("SOCKHOP_BIN", built("sockhop"));
    bench.env("SOCKHOP_PEER_PYTHON", clients::python_program(&python_environment(workspace)));
    tools::run(bench.args(arguments))
}

fn peers(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tests").join("peers")
}

fn python_environment(workspace: &Workspace) -> PathBuf {
    workspace.target.join("peers").join("python")
}

/// Runs the micro-benchmark, which measures the parts of an event separately.
///
/// # Errors
///
/// Returns an error if the micro-benchmark does not build or fails.
pub(crate) fn run_parts(workspace: &Workspace, arguments: &[OsString]) -> Result<(), Failure> {
    let mut cargo = workspace.cargo();
    workspace.for_tests(&mut cargo).env("SOCKHOP_BIN", workspace.optimised("sockhop"));
    tools::run(
        cargo.args(["bench", "--package", "sockhop", "--bench", "event", "--"]).args(arguments),
    )
}
