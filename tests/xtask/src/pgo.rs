//! Profile-guided optimisation: the programs as they are released. They are built twice: first with counters, which a short load fills and
//! which say what an event goes through; then optimised by what was counted.
//!
//! The load is the benchmark's own, and what is counted of the host, the native peer and the driver goes into one profile: they share most of
//! their crates.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;
use std::{env, fs};

use crate::artifacts::{Workspace, cannot, create};
use crate::{Failure, tools};

/// What the counters see: above all events, one by one and many at once, and one message to many. What is rare must stay so: the compiler takes
/// for cold what is little of all that was counted.
const LOAD: [&str; 7] =
    ["--only=ping,fanout,reload", "--servers=sockhop,native", "--rounds=1", "--seconds=4", "--reloads=4", "--connections=100", "--json"];

/// The two builds, and the profile between them.
pub(crate) struct Pgo<'w> {
    workspace: &'w Workspace,
    toolchain: tools::Toolchain,
}

impl<'w> Pgo<'w> {
    /// For the machine that this runs on.
    ///
    /// # Errors
    ///
    /// Where the compiler does not say which that is.
    pub(crate) fn new(workspace: &'w Workspace) -> Result<Self, Failure> {
        Ok(Self { workspace, toolchain: tools::Toolchain::find()? })
    }

    /// Adds to the toolchain what reads the counts, where it is missing.
    ///
    /// # Errors
    ///
    /// Names the command to run where it can't be added.
    pub(crate) fn add_tools(&self) -> Result<(), Failure> {
        self.toolchain.add_llvm_tools()
    }

    /// Builds the programs that count.
    ///
    /// # Errors
    ///
    /// Where they don't build.
    pub(crate) fn build_counting(&self) -> Result<(), Failure> {
        self.build(&self.counting_target(), flag("-Cprofile-generate=", &self.counts()))
    }

    /// Lets them count, unless that was done since they were built.
    ///
    /// # Errors
    ///
    /// Where the load fails, or LLVM's tool.
    pub(crate) fn count(&self) -> Result<(), Failure> {
        let (host, native) = (self.counting("sockhop"), self.counting("native_peer"));
        if is_newer(&self.profile(), &[&host, &native]) {
            return Ok(());
        }
        let counts = self.counts();
        // Those of programs that are no more would count as well.
        if counts.exists() {
            fs::remove_dir_all(&counts).map_err(|error| cannot("remove", &counts, &error))?;
        }
        create(&counts)?;
        let mut load = Command::new(self.counting("bench"));
        self.workspace.for_tests(&mut load).env("SOCKHOP_BIN", host);
        // Its figures are those of programs that count: nobody is to read them.
        tools::run(load.args(LOAD).stdout(Stdio::null()))?;
        // Beside its place first: half a profile must not be taken for one.
        let unfinished = self.profile().with_extension("unfinished");
        tools::run(Command::new(self.toolchain.profdata()).arg("merge").arg("--output").arg(&unfinished).arg(&counts))?;
        fs::rename(&unfinished, self.profile()).map_err(|error| cannot("write", &self.profile(), &error))
    }

    /// Builds the programs as they are released.
    ///
    /// # Errors
    ///
    /// Where they don't build.
    pub(crate) fn build_released(&self) -> Result<(), Failure> {
        self.build(&self.workspace.target, flag("-Cprofile-use=", &self.profile()))
    }

    /// A program that [`Pgo::build_released`] has built.
    pub(crate) fn released(&self, name: &str) -> PathBuf {
        self.program(&self.workspace.target, name)
    }

    /// Both builds have cargo's same profile: it is part of every symbol, and what was counted is found by its symbol. Names the target although
    /// it is the machine's own: only then do flags go to the programs alone, and not to what builds them as well.
    fn build(&self, target: &Path, flag: OsString) -> Result<(), Failure> {
        let mut cargo = self.workspace.cargo();
        cargo.env("CARGO_TARGET_DIR", target).args(["build", "--release", "--target", &self.toolchain.host]);
        cargo.args(["--package", "sockhop", "--package", "sockhop-tests", "--bins"]);
        let given = env::var("RUSTFLAGS").unwrap_or_default();
        let flags = given.split_ascii_whitespace().map(OsString::from).chain([flag]);
        // Cargo's own separator, so that a path may have blanks.
        let flags = flags.collect::<Vec<_>>().join(OsStr::new("\u{1f}"));
        tools::run(cargo.env("CARGO_ENCODED_RUSTFLAGS", flags))
    }

    /// A program that [`Pgo::build_counting`] has built.
    fn counting(&self, name: &str) -> PathBuf {
        self.program(&self.counting_target(), name)
    }

    fn program(&self, target: &Path, name: &str) -> PathBuf {
        target.join(&self.toolchain.host).join("release").join(format!("{name}{}", env::consts::EXE_SUFFIX))
    }

    fn counting_target(&self) -> PathBuf {
        self.workspace.target.join("pgo").join("target")
    }

    /// What each program counted, as it ended.
    fn counts(&self) -> PathBuf {
        self.workspace.target.join("pgo").join("counts")
    }

    /// Always the same name: a new profile compiles the workspace's own crates again, and leaves the others as an earlier one made them.
    fn profile(&self) -> PathBuf {
        self.workspace.target.join("pgo").join("all.profdata")
    }
}

fn flag(name: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(name);
    flag.push(path);
    flag
}

/// Whether `file` is there, and was written after each of `sources`.
fn is_newer(file: &Path, sources: &[&Path]) -> bool {
    let written = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let newest = sources.iter().map(|source| written(source)).max().flatten().unwrap_or(SystemTime::UNIX_EPOCH);
    written(file).is_some_and(|file| file > newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, FileTimes};
    use std::time::Duration;

    #[test]
    fn a_profile_counts_until_one_of_its_programs_is_built_anew() {
        let directory = env::temp_dir().join(format!("sockhop-xtask-pgo-{}", std::process::id()));
        create(&directory).unwrap();
        let write = |name: &str, second| {
            let path = directory.join(name);
            let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
            File::create(&path).and_then(|file| file.set_times(times)).unwrap();
            path
        };
        let (one, two) = (write("one", 10), write("two", 20));
        let programs = [one.as_path(), two.as_path()];
        assert!(!is_newer(&directory.join("profile"), &programs));
        assert!(is_newer(&write("profile", 30), &programs));
        write("one", 40);
        assert!(!is_newer(&directory.join("profile"), &programs));
        fs::remove_dir_all(&directory).unwrap();
    }
}
