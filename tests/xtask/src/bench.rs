//! The benchmark: the peers that Sockhop is measured beside, and the program that measures.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::artifacts::Workspace;
use crate::{Failure, clients, tools};

/// Installs the peer on Node.js beside its source.
///
/// # Errors
///
/// Where npm fails.
pub(crate) fn install_node_peer(workspace: &Workspace) -> Result<(), Failure> {
    clients::node_packages(&peers(workspace).join("node"))
}

/// Installs the peer in Python into an environment of its own under the target directory.
///
/// # Errors
///
/// Where the environment can't be made, or pip fails.
pub(crate) fn install_python_peer(workspace: &Workspace) -> Result<(), Failure> {
    clients::python_packages(&peers(workspace).join("python").join("requirements.txt"), &python_environment(workspace))
}

/// Measures, by the programs that `built` finds by their names.
///
/// # Errors
///
/// Where something was lost on the way.
pub(crate) fn run(workspace: &Workspace, built: impl Fn(&str) -> PathBuf, arguments: &[OsString]) -> Result<(), Failure> {
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

/// Measures an event part by part.
///
/// # Errors
///
/// Where the measurement does not build, or fails.
pub(crate) fn run_parts(workspace: &Workspace, arguments: &[OsString]) -> Result<(), Failure> {
    let mut cargo = workspace.cargo();
    workspace.for_tests(&mut cargo).env("SOCKHOP_BIN", workspace.optimised("sockhop"));
    tools::run(cargo.args(["bench", "--package", "sockhop", "--bench", "event", "--"]).args(arguments))
}
