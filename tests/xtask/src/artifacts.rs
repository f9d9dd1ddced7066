//! Builds the artifacts that the commands need and knows their paths: plugins, test-only plugins,
//! the host.
//!
//! Everything that runs natively is built as one selection (the whole workspace, one profile), in
//! `run` as in `test`. Cargo unifies the features of the packages that it builds together. Another
//! selection would build wasmtime a second time, which takes most of the time of the first build.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io, process};

use crate::tools::{self, WASM_TARGET};
use crate::{Failure, report};

/// The bundled plugins, by package name, which is also the name of the file.
const PLUGINS: [&str; 4] = ["connection", "subscription", "memory_logs", "mental_notes"];

/// The bundled plugins of which an operator decides: a host refuses `forward` without its settings,
/// and `reminders` needs some for its webhook. So they are built, but placed only among the plugins
/// that tests load.
const OPTIONAL: [&str; 2] = ["forward", "reminders"];

/// The paths of this workspace and of cargo's output.
pub(crate) struct Workspace {
    /// The directory of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, as set by the environment or by a configuration file.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks `cargo metadata` for the paths.
    ///
    /// # Errors
    ///
    /// Returns an error if cargo fails or does not report both paths.
    pub(crate) fn find() -> Result<Self, Failure> {
        let metadata =
            tools::output(tools::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        let path = |key: &str| {
            let path = member(&metadata, key).map(PathBuf::from);
            path.ok_or_else(|| Failure(format!("`cargo metadata` names no {key}")))
        };
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")? })
    }

    /// The directory from which `run` serves plugins. Files that a user has put there are kept.
    pub(crate) fn plugins_dir(&self) -> PathBuf {
        self.target.join("plugins")
    }

    /// A directory with only the bundled plugins, for tests.
    pub(crate) fn tested_plugins_dir(&self) -> PathBuf {
        self.target.join("tested-plugins")
    }

    fn wasm_dir(&self) -> PathBuf {
        self.target.join(WASM_TARGET).join("plugin")
    }

    /// The directory of the plugins that only tests load.
    pub(crate) fn guests_dir(&self) -> PathBuf {
        self.wasm_dir().join("examples")
    }

    /// The directory of the compiled code of plugins that the hosts of all tests share.
    fn compiled_dir(&self) -> PathBuf {
        self.target.join("tested-compiled")
    }

    /// Removes the code that the hosts of an earlier run have compiled.
    ///
    /// # Errors
    ///
    /// Returns an error if the directory can't be removed.
    pub(crate) fn forget_compiled(&self) -> Result<(), Failure> {
        match fs::remove_dir_all(self.compiled_dir()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure(format!("can't remove {}: {error}", self.compiled_dir().display())))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The path of the built `sockhop`.
    pub(crate) fn host_binary(&self) -> PathBuf {
        self.target.join("debug").join(format!("sockhop{}", env::consts::EXE_SUFFIX))
    }

    /// The path of a built example of `sockhop-socketio`.
    pub(crate) fn example(&self, name: &str) -> PathBuf {
        self.target
            .join("debug")
            .join("examples")
            .join(format!("{name}{}", env::consts::EXE_SUFFIX))
    }

    /// Returns a cargo command that runs in this workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = tools::cargo();
        // A relative CARGO_TARGET_DIR is relative to the user's directory, which need not be the
        // root.
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        cargo
    }

    fn cargo_build_wasm(&self) -> Command {
        let mut cargo = self.cargo();
        cargo.args(["build", "--profile", "plugin", "--target", WASM_TARGET]);
        cargo
    }

    /// Builds the bundled plugins.
    ///
    /// # Errors
    ///
    /// Returns an error if the build fails.
    pub(crate) fn build_plugins(&self) -> Result<(), Failure> {
        let packages = PLUGINS.iter().chain(&OPTIONAL).flat_map(|name| ["--package", name]);
        tools::run(self.cargo_build_wasm().args(packages))
    }

    /// Builds the plugins that only tests load.
    ///
    /// # Errors
    ///
    /// Returns an error if the build fails.
    pub(crate) fn build_guests(&self) -> Result<(), Failure> {
        tools::run(self.cargo_build_wasm().args(["--package", "sockhop-guests", "--examples"]))?;
        // Cargo does not create the directory if it has nothing to put into it.
        create(&self.guests_dir())
    }

    /// Builds the host and everything else that runs natively. The module documentation gives the
    /// reason.
    ///
    /// # Errors
    ///
    /// Returns an error if the build fails.
    pub(crate) fn build_host(&self) -> Result<(), Failure> {
        tools::run(self.cargo().args(["build", "--workspace"]))
    }

    /// Builds the host, the benchmark and its native peer, optimised but without the profile of
    /// [`Pgo`](crate::pgo::Pgo).
    ///
    /// # Errors
    ///
    /// Returns an error if the build fails.
    pub(crate) fn build_optimised(&self) -> Result<(), Failure> {
        let mut cargo = self.cargo();
        tools::run(cargo.args([
            "build",
            "--release",
            "--package",
            "sockhop",
            "--package",
            "sockhop-bench",
            "--bins",
        ]))
    }

    /// The path of a program that [`Workspace::build_optimised`] has built.
    pub(crate) fn optimised(&self, name: &str) -> PathBuf {
        self.target.join("release").join(format!("{name}{}", env::consts::EXE_SUFFIX))
    }

    /// Sets the environment variables that tell `command` where the tested host and plugins are.
    pub(crate) fn for_tests<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("SOCKHOP_BIN", self.host_binary())
            .env("SOCKHOP_PLUGINS_DIR", self.tested_plugins_dir())
            .env("SOCKHOP_GUESTS_DIR", self.guests_dir())
            .env("SOCKHOP_COMPILED_DIR", self.compiled_dir())
    }

    /// Copies the bundled plugins into `directory`.
    ///
    /// # Errors
    ///
    /// Returns an error if a file can't be read or written.
    pub(crate) fn place_plugins(&self, directory: &Path) -> Result<(), Failure> {
        create(directory)?;
        for name in PLUGINS {
            let file = format!("{name}.wasm");
            if place(&self.wasm_dir().join(&file), &directory.join(&file))? {
                report::text(&format!("placed {}", directory.join(&file).display()));
            }
        }
        Ok(())
    }

    /// Copies the bundled plugins that only tests load to the others of these.
    ///
    /// # Errors
    ///
    /// Returns an error if a file can't be read or written.
    pub(crate) fn place_optional(&self) -> Result<(), Failure> {
        create(&self.guests_dir())?;
        for name in OPTIONAL {
            let file = format!("{name}.wasm");
            place(&self.wasm_dir().join(&file), &self.guests_dir().join(&file))?;
        }
        Ok(())
    }

    /// Copies the bundled plugins into `directory` and removes every other file from it.
    ///
    /// # Errors
    ///
    /// Returns an error if a file can't be read, written or removed.
    pub(crate) fn place_plugins_alone(&self, directory: &Path) -> Result<(), Failure> {
        create(directory)?;
        let entries = fs::read_dir(directory).map_err(|error| cannot("read", directory, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| cannot("read", directory, &error))?.path();
            if !PLUGINS.iter().any(|name| {
                path.file_name().is_some_and(|file| file == format!("{name}.wasm").as_str())
            }) {
                fs::remove_file(&path).map_err(|error| cannot("remove", &path, &error))?;
            }
        }
        self.place_plugins(directory)
    }
}

/// Copies `source` to `destination` atomically, so that a host that watches the directory never
/// sees a partial plugin. Returns whether it wrote the file: a file with the same bytes is left
/// alone.
///
/// # Errors
///
/// Returns an error if a file can't be read or written.
fn place(source: &Path, destination: &Path) -> Result<bool, Failure> {
    let bytes = fs::read(source).map_err(|error| cannot("read", source, &error))?;
    if fs::read(destination).is_ok_and(|there| there == bytes) {
        return Ok(false);
    }
    let name = destination.file_name().unwrap_or_default().to_string_lossy();
    // The temporary file is in the same directory, because a rename is atomic only within one file
    // system. Readers ignore it because of its dot and its suffix.
    let unfinished = destination.with_file_name(format!(".{name}.{}", process::id()));
    fs::write(&unfinished, bytes).map_err(|error| cannot("write", &unfinished, &error))?;
    fs::rename(&unfinished, destination).map_err(|error| cannot("write", destination, &error))?;
    Ok(true)
}

/// Creates `directory` if it is missing.
///
/// # Errors
///
/// Returns an error if it can't be created.
pub(crate) fn create(directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory).map_err(|error| cannot("make", directory, &error))
}

/// Returns a file system error that names the file.
pub(crate) fn cannot(verb: &str, path: &Path, error: &io::Error) -> Failure {
    Failure(format!("can't {verb} {}: {error}", path.display()))
}

/// Returns the string value of `key` in compact JSON. The search finds only keys: inside of another
/// string, the quotes of the key would be escaped. Of several keys with the same name, the last one
/// counts. In cargo's output that is the outermost one.
fn member(json: &str, key: &str) -> Option<String> {
    let (_, rest) = json.rsplit_once(&format!("\"{key}\":\""))?;
    let mut text = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => match characters.next()? {
                plain @ ('"' | '\\' | '/') => text.push(plain),
                // A path with a control character is not supported.
                _ => return None,
            },
            plain => text.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_and_its_escapes_are_undone() {
        let json = r#"{"packages":[{"description":"\"target_directory\":\"no\""}],"target_directory":"C:\\a \"b\"","x":1}"#;
        assert_eq!(member(json, "target_directory").as_deref(), Some(r#"C:\a "b""#));
        assert_eq!(member(json, "workspace_root"), None);
        assert_eq!(member(r#"{"x":"cut"#, "x"), None);
    }

    #[test]
    fn placing_a_file_twice_writes_it_once_and_leaves_nothing_else() {
        let directory = env::temp_dir().join(format!("sockhop-xtask-{}", process::id()));
        create(&directory).unwrap();
        let (source, destination) = (directory.join("built.wasm"), directory.join("placed.wasm"));
        fs::write(&source, b"one").unwrap();
        assert_eq!(
            (place(&source, &destination), place(&source, &destination)),
            (Ok(true), Ok(false))
        );
        fs::write(&source, b"two").unwrap();
        assert_eq!(place(&source, &destination), Ok(true));
        assert_eq!(fs::read(&destination).unwrap(), b"two");
        let mut names: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["built.wasm", "placed.wasm"]);
        fs::remove_dir_all(&directory).unwrap();
    }
}
