//! Builds the plugins in JavaScript and Python that only tests load, with the tools of these
//! languages. `artifacts` builds those in Rust.
//!
//! A plugin is built again only if one of its inputs has changed: its sources, the versions of its
//! tools, or the plugin interface. Building takes 2 s in JavaScript and 10 s in Python.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::artifacts::{Workspace, cannot, create};
use crate::clients::{node_packages, once_with, python_packages, python_program};
use crate::{Failure, tools};

/// Builds the plugin `caller_javascript` from `tests/guests/javascript`.
///
/// # Errors
///
/// Returns an error if npm or the build fails.
pub(crate) fn build_javascript(workspace: &Workspace) -> Result<(), Failure> {
    let sources = workspace.root.join("tests").join("guests").join("javascript");
    let inputs = ["build.mjs", "caller.js", "package-lock.json"].map(|name| sources.join(name));
    build(workspace, "caller_javascript", &inputs, |output| {
        node_packages(&sources)?;
        let mut node = Command::new("node");
        node.arg(sources.join("build.mjs")).arg(interface(workspace)).arg(output);
        tools::run(&mut node)
    })
}

/// Builds the plugin `caller_python` from `tests/guests/python`.
///
/// # Errors
///
/// Returns an error if pip or the build fails.
pub(crate) fn build_python(workspace: &Workspace) -> Result<(), Failure> {
    let sources = workspace.root.join("tests").join("guests").join("python");
    let requirements = sources.join("requirements.txt");
    let inputs = [sources.join("caller.py"), requirements.clone()];
    build(workspace, "caller_python", &inputs, |output| {
        let environment = workspace.target.join("guests").join("python");
        python_packages(&requirements, &environment)?;
        let program = format!("componentize-py{}", std::env::consts::EXE_SUFFIX);
        let mut tool = Command::new(python_program(&environment).with_file_name(program));
        tool.current_dir(&sources)
            .args(["--quiet", "--wit-path"])
            .arg(interface(workspace))
            .args(["--world", "plugin", "componentize", "caller", "--output"])
            .arg(output);
        tools::run(&mut tool)
    })
}

/// The directory of the plugin interface.
fn interface(workspace: &Workspace) -> PathBuf {
    workspace.root.join("wit").join("v0.1")
}

/// Runs `make` for the file of the plugin `name`, unless the file was made of the same inputs.
fn build(
    workspace: &Workspace,
    name: &str,
    inputs: &[PathBuf],
    make: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let interface = interface(workspace);
    let mut inputs = inputs.to_vec();
    let entries = fs::read_dir(&interface).map_err(|error| cannot("read", &interface, &error))?;
    for entry in entries {
        inputs.push(entry.map_err(|error| cannot("read", &interface, &error))?.path());
    }
    inputs.sort();
    let directory = workspace.guests_dir();
    create(&directory)?;
    let output = directory.join(format!("{name}.wasm"));
    made_of(&inputs, &output, &workspace.target.join("guests").join(name), || make(&output))
}

/// Runs `make` unless `output` exists and `stamp` has the content of `inputs`.
fn made_of(
    inputs: &[PathBuf],
    output: &Path,
    stamp: &Path,
    make: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    if let Some(directory) = stamp.parent() {
        create(directory)?;
    }
    if !output.is_file() && stamp.exists() {
        fs::remove_file(stamp).map_err(|error| cannot("remove", stamp, &error))?;
    }
    let mut wanted = Vec::new();
    for input in inputs {
        let content = fs::read(input).map_err(|error| cannot("read", input, &error))?;
        wanted.extend(format!("{} {}\n", input.display(), content.len()).into_bytes());
        wanted.extend(content);
    }
    once_with(&wanted, stamp, make)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_built_again_only_if_an_input_changed_or_its_file_is_missing() {
        let directory =
            std::env::temp_dir().join(format!("sockhop-xtask-made-{}", std::process::id()));
        create(&directory).unwrap();
        let [source, interface, output, stamp] =
            ["source", "interface", "output", "stamp"].map(|name| directory.join(name));
        fs::write(&source, "1").unwrap();
        fs::write(&interface, "1").unwrap();
        let inputs = [source.clone(), interface.clone()];
        let is_made = || {
            let mut is_made = false;
            made_of(&inputs, &output, &stamp, || {
                is_made = true;
                fs::write(&output, "").map_err(|error| cannot("write", &output, &error))
            })
            .unwrap();
            is_made
        };
        assert_eq!([is_made(), is_made()], [true, false]);
        for input in &inputs {
            fs::write(input, "2").unwrap();
            assert_eq!([is_made(), is_made()], [true, false], "{}", input.display());
        }
        fs::remove_file(&output).unwrap();
        assert_eq!([is_made(), is_made()], [true, false]);
        let failed = made_of(&[directory.join("none")], &output, &stamp, || Ok(()));
        assert!(failed.is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
