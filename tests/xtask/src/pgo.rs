//! Profile-guided optimisation: the programs as they are released. They are built twice: first with counters, which a short load fills and
//! which say what an event goes through; then optimised by what was counted.
//!
//! The load is the benchmark's own, and what is counted of the host, the native peer and the driver goes into one profile: they share most of
//! their crates.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::artifacts::{Workspace, cannot, create};
use crate::{Failure, tools};

/// What the counters see: above all events, one by one and many at once, and one message to many. What is rare must stay so: the compiler takes
/// for cold what is little of all that was counted.
const LOAD: [&str; 7] =
    ["--only=ping,fanout,reload", "--servers=sockhop,native", "--rounds=1", "--seconds=4", "--reloads=4", "--connections=100", "--json"];

/// The programs that are built.
const PROGRAMS: [&str; 3] = ["sockhop", "native_peer", "bench"];

/// The two builds, and the profile between them.
pub(crate) struct Pgo<'w> {
    workspace: &'w Workspace,
    toolchain: tools::Toolchain,
    /// Where all of it is.
    directory: PathBuf,
}

impl<'w> Pgo<'w> {
    /// For the machine that this runs on.
    ///
    /// # Errors
    ///
    /// Where the compiler does not say which that is.
    pub(crate) fn new(workspace: &'w Workspace) -> Result<Self, Failure> {
        Ok(Self { workspace, toolchain: tools::Toolchain::find()?, directory: workspace.target.join("pgo") })
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
        self.build(&self.counting_dir(), "-Cprofile-generate=", &self.counts())
    }

    /// Lets them count, unless these very programs have done so.
    ///
    /// # Errors
    ///
    /// Where the load fails, or LLVM's tool.
    pub(crate) fn count(&self) -> Result<(), Failure> {
        let [host, _, bench] = PROGRAMS.map(|name| self.program(&self.counting_dir(), name));
        let (stamp, counted) = (self.directory.join("counted"), self.identity()?);
        if fs::read_to_string(&stamp).is_ok_and(|before| before == counted) {
            return Ok(());
        }
        // What was built by another profile can't be linked with what this one will make, and other programs' counts are not these programs'.
        for stale in [self.counts(), self.released_dir()] {
            if stale.exists() {
                fs::remove_dir_all(&stale).map_err(|error| cannot("remove", &stale, &error))?;
            }
        }
        create(&self.counts())?;
        let mut load = Command::new(bench);
        self.workspace.for_tests(&mut load).env("SOCKHOP_BIN", host).env_remove("LLVM_PROFILE_FILE");
        // Its figures are those of programs that count: nobody is to read them.
        tools::run(load.args(LOAD).stdout(Stdio::null()))?;
        tools::run(Command::new(self.toolchain.profdata()).arg("merge").arg("--output").arg(self.profile()).arg(self.counts()))?;
        // Last, so that what was interrupted is done again.
        fs::write(&stamp, counted).map_err(|error| cannot("write", &stamp, &error))
    }

    /// Builds the programs as they are released.
    ///
    /// # Errors
    ///
    /// Where they don't build.
    pub(crate) fn build_released(&self) -> Result<(), Failure> {
        self.build(&self.released_dir(), "-Cprofile-use=", &self.profile())
    }

    /// A program that [`Pgo::build_released`] has built.
    pub(crate) fn released(&self, name: &str) -> PathBuf {
        self.program(&self.released_dir(), name)
    }

    /// Both builds use the same cargo profile, `release`: it is part of every symbol, and what was counted is found by its symbol. They name the
    /// target although it is the machine's own: only then do flags go to the programs alone, and not to what builds them as well.
    fn build(&self, target: &Path, flag: &str, path: &Path) -> Result<(), Failure> {
        let mut cargo = self.workspace.cargo();
        cargo.env("CARGO_TARGET_DIR", target).args(["build", "--release", "--target", &self.toolchain.host]);
        cargo.args(["--package", "sockhop", "--package", "sockhop-tests", "--bins"]);
        cargo.env("CARGO_ENCODED_RUSTFLAGS", with_flag(env::var_os("CARGO_ENCODED_RUSTFLAGS"), env::var_os("RUSTFLAGS"), flag, path));
        tools::run(&mut cargo)
    }

    fn program(&self, target: &Path, name: &str) -> PathBuf {
        target.join(&self.toolchain.host).join("release").join(format!("{name}{}", env::consts::EXE_SUFFIX))
    }

    /// What says that the programs which count are the same, and are given the same load.
    fn identity(&self) -> Result<String, Failure> {
        let mut identity = format!("{LOAD:?}\n");
        for name in PROGRAMS {
            let path = self.program(&self.counting_dir(), name);
            let metadata = fs::metadata(&path).map_err(|error| cannot("read", &path, &error))?;
            let modified = metadata.modified().map_err(|error| cannot("read", &path, &error))?;
            identity += &format!("{name} {} {modified:?}\n", metadata.len());
        }
        Ok(identity)
    }

    /// Cargo's directory of the programs that count.
    fn counting_dir(&self) -> PathBuf {
        self.directory.join("counting")
    }

    /// What each program counted, written as it ended.
    fn counts(&self) -> PathBuf {
        self.directory.join("counts")
    }

    /// All of that, for the compiler.
    fn profile(&self) -> PathBuf {
        self.directory.join("all.profdata")
    }

    /// Cargo's directory of the programs that are released.
    fn released_dir(&self) -> PathBuf {
        self.directory.join("released")
    }
}

/// The flags that the environment gives, and one more, with cargo's own separator: a path may have blanks. Flags of cargo's configuration files
/// do not count beside them, as they don't beside any of the environment.
fn with_flag(encoded: Option<OsString>, plain: Option<OsString>, flag: &str, path: &Path) -> OsString {
    let plain = || plain.map(|flags| flags.to_string_lossy().split_ascii_whitespace().collect::<Vec<_>>().join(SEPARATOR).into());
    let mut flags = encoded.or_else(plain).unwrap_or_default();
    if !flags.is_empty() {
        flags.push(SEPARATOR);
    }
    flags.push(flag);
    flags.push(OsStr::new(path));
    flags
}

/// Between the flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\u{1f}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_environment_stay_beside_the_profiles() {
        let with = |encoded: Option<&str>, plain: Option<&str>| {
            let flags = with_flag(encoded.map(Into::into), plain.map(Into::into), "-Cprofile-use=", Path::new("a b"));
            flags.into_string().unwrap()
        };
        assert_eq!(with(None, None), "-Cprofile-use=a b");
        assert_eq!(with(None, Some(" -Ctarget-cpu=native  -v ")), "-Ctarget-cpu=native\u{1f}-v\u{1f}-Cprofile-use=a b");
        assert_eq!(with(Some("-Cx=a b"), Some("-v")), "-Cx=a b\u{1f}-Cprofile-use=a b");
    }
}
