//! What the commands build, and where it ends up: plugins, the plugins that only tests load, the host.
//!
//! Everything that runs natively is built as one selection (the whole workspace, one profile), in `run` as in `test`: cargo unites the
//! features of what it builds together, so that another selection would build wasmtime, most of the first build's time, a second time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

use crate::tools::{self, WASM_TARGET};
use crate::{Failure, report};

/// The bundled plugins, by package and file.
const PLUGINS: [&str; 4] = ["connection", "subscription", "memory_logs", "mental_notes"];

/// Where this workspace is, and where cargo puts what it builds.
pub(crate) struct Workspace {
    /// The directory of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, wherever the environment or a configuration has put it.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    ///
    /// # Errors
    ///
    /// Where cargo fails, or says neither.
    pub(crate) fn find() -> Result<Self, Failure> {
        let metadata = tools::output(tools::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        let path = |key: &str| {
            let path = member(&metadata, key).map(PathBuf::from);
            path.ok_or_else(|| Failure(format!("`cargo metadata` names no {key}")))
        };
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")? })
    }

    /// Where `run` serves plugins from; what somebody else has put there stays.
    pub(crate) fn plugins_dir(&self) -> PathBuf {
        self.target.join("plugins")
    }

    /// The bundled plugins and nothing else, for tests.
    pub(crate) fn tested_plugins_dir(&self) -> PathBuf {
        self.target.join("tested-plugins")
    }

    fn wasm_dir(&self) -> PathBuf {
        self.target.join(WASM_TARGET).join("plugin")
    }

    /// The plugins that only tests load.
    pub(crate) fn guests_dir(&self) -> PathBuf {
        self.wasm_dir().join("examples")
    }

    /// The built `sockhop`.
    pub(crate) fn host_binary(&self) -> PathBuf {
        self.target.join("debug").join(format!("sockhop{}", env::consts::EXE_SUFFIX))
    }

    /// A built example of `sockhop-socketio`.
    pub(crate) fn example(&self, name: &str) -> PathBuf {
        self.target.join("debug").join("examples").join(format!("{name}{}", env::consts::EXE_SUFFIX))
    }

    /// A cargo command in this workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = tools::cargo();
        // A relative CARGO_TARGET_DIR means the directory that the user is in, which need not be the root.
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
    /// Where the build fails.
    pub(crate) fn build_plugins(&self) -> Result<(), Failure> {
        tools::run(self.cargo_build_wasm().args(PLUGINS.iter().flat_map(|name| ["--package", name])))
    }

    /// Builds the plugins that only tests load.
    ///
    /// # Errors
    ///
    /// Where the build fails.
    pub(crate) fn build_guests(&self) -> Result<(), Failure> {
        tools::run(self.cargo_build_wasm().args(["--package", "sockhop-guests", "--examples"]))?;
        // Cargo makes no directory where there is nothing to put into it.
        create(&self.guests_dir())
    }

    /// Builds the host, with everything else that runs natively; see the module.
    ///
    /// # Errors
    ///
    /// Where the build fails.
    pub(crate) fn build_host(&self) -> Result<(), Failure> {
        tools::run(self.cargo().args(["build", "--workspace"]))
    }

    /// Builds the host, the benchmark and its native peer, optimised without the profile of [`Pgo`](crate::pgo::Pgo).
    ///
    /// # Errors
    ///
    /// Where they don't build.
    pub(crate) fn build_optimised(&self) -> Result<(), Failure> {
        let mut cargo = self.cargo();
        tools::run(cargo.args(["build", "--release", "--package", "sockhop", "--package", "sockhop-tests", "--bins"]))
    }

    /// A program that [`Workspace::build_optimised`] has built.
    pub(crate) fn optimised(&self, name: &str) -> PathBuf {
        self.target.join("release").join(format!("{name}{}", env::consts::EXE_SUFFIX))
    }

    /// Tells `command` where the things under test are.
    pub(crate) fn for_tests<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("SOCKHOP_BIN", self.host_binary())
            .env("SOCKHOP_PLUGINS_DIR", self.tested_plugins_dir())
            .env("SOCKHOP_GUESTS_DIR", self.guests_dir())
    }

    /// Puts the bundled plugins into `directory`.
    ///
    /// # Errors
    ///
    /// Where a file can't be read or written.
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

    /// The same, and takes everything else out of it.
    ///
    /// # Errors
    ///
    /// Where a file can't be read, written or removed.
    pub(crate) fn place_plugins_alone(&self, directory: &Path) -> Result<(), Failure> {
        create(directory)?;
        let entries = fs::read_dir(directory).map_err(|error| cannot("read", directory, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| cannot("read", directory, &error))?.path();
            if !PLUGINS.iter().any(|name| path.file_name().is_some_and(|file| file == format!("{name}.wasm").as_str())) {
                fs::remove_file(&path).map_err(|error| cannot("remove", &path, &error))?;
            }
        }
        self.place_plugins(directory)
    }
}

/// Copies `source` to `destination` in one atomic step, so that a host that watches the directory never sees half a plugin. Returns whether
/// there was anything to do: a file with the same bytes is left alone.
///
/// # Errors
///
/// Where a file can't be read or written.
fn place(source: &Path, destination: &Path) -> Result<bool, Failure> {
    let bytes = fs::read(source).map_err(|error| cannot("read", source, &error))?;
    if fs::read(destination).is_ok_and(|there| there == bytes) {
        return Ok(false);
    }
    let name = destination.file_name().unwrap_or_default().to_string_lossy();
    // Beside its destination, since a rename is atomic only within one file system; the dot and the suffix keep every reader off.
    let unfinished = destination.with_file_name(format!(".{name}.{}", process::id()));
    fs::write(&unfinished, bytes).map_err(|error| cannot("write", &unfinished, &error))?;
    fs::rename(&unfinished, destination).map_err(|error| cannot("write", destination, &error))?;
    Ok(true)
}

/// Makes `directory` where it is missing.
///
/// # Errors
///
/// Where it can't be made.
pub(crate) fn create(directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory).map_err(|error| cannot("make", directory, &error))
}

/// A failure of the file system, with the file at fault.
pub(crate) fn cannot(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure(format!("can't {verb} {}: {error}", path.display()))
}

/// The text under `key` in compact JSON. A key inside of another text would have its quotes escaped, so what is found is a key; of keys with
/// the same name the last counts, which is the outermost in what cargo writes.
fn member(json: &str, key: &str) -> Option<String> {
    let (_, rest) = json.rsplit_once(&format!("\"{key}\":\""))?;
    let mut text = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => match characters.next()? {
                plain @ ('"' | '\\' | '/') => text.push(plain),
                // A control character in a path is nobody's wish.
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
        assert_eq!((place(&source, &destination), place(&source, &destination)), (Ok(true), Ok(false)));
        fs::write(&source, b"two").unwrap();
        assert_eq!(place(&source, &destination), Ok(true));
        assert_eq!(fs::read(&destination).unwrap(), b"two");
        let mut names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["built.wasm", "placed.wasm"]);
        fs::remove_dir_all(&directory).unwrap();
    }
}
