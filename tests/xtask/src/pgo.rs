//! Profile-guided optimisation: builds the programs as they are released. They are built twice:
//! first with counters, which a short load fills, then optimised with the recorded profile.
//!
//! The load is a short run of the benchmark. The counts of the host, of the native server and of
//! the benchmark itself go into one profile, because these programs share most of their crates.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::artifacts::{Workspace, cannot, create};
use crate::{Failure, tools};

/// The load for the counters: mainly events, one at a time and many at once, and one message to
/// many receivers. Rare operations must stay rare here, because the compiler treats code with a
/// small share of all counts as cold.
const LOAD: [&str; 7] = [
    "--only=ping,fanout,reload",
    "--servers=sockhop,native",
    "--rounds=1",
    "--seconds=4",
    "--reloads=4",
    "--connections=100",
    "--json",
];

/// The programs that are built: the host, the native server that the benchmark compares it with,
/// and the benchmark.
const PROGRAMS: [&str; 3] = ["sockhop", "native_peer", "bench"];

/// The two builds and the profile that connects them.
pub(crate) struct Pgo<'w> {
    workspace: &'w Workspace,
    toolchain: tools::Toolchain,
    /// The directory of both builds and of the profile.
    directory: PathBuf,
}

impl<'w> Pgo<'w> {
    /// Prepares the builds for the target of this machine.
    ///
    /// # Errors
    ///
    /// Returns an error if the compiler does not report that target.
    pub(crate) fn new(workspace: &'w Workspace) -> Result<Self, Failure> {
        Ok(Self {
            workspace,
            toolchain: tools::Toolchain::find()?,
            directory: workspace.target.join("pgo"),
        })
    }

    /// Adds the LLVM tools that read the counts to the toolchain, if they are missing.
    ///
    /// # Errors
    ///
    /// Returns an error with the command to run if the tools can't be added.
    pub(crate) fn add_tools(&self) -> Result<(), Failure> {
        self.toolchain.add_llvm_tools()
    }

    /// Builds the programs with counters.
    ///
    /// # Errors
    ///
    /// Returns an error if the build fails.
    pub(crate) fn build_counting(&self) -> Result<(), Failure> {
        self.build(&self.counting_dir(), "-Cprofile-generate=", &self.counts())
    }

    /// Runs the load with the programs of [`Pgo::build_counting`] and merges their counts into the
    /// profile, unless this was done before for the same programs and the same load.
    ///
    /// # Errors
    ///
    /// Returns an error if the load or LLVM's tool fails.
    pub(crate) fn record_profile(&self) -> Result<(), Failure> {
        let [host, _, bench] = PROGRAMS.map(|name| self.program(&self.counting_dir(), name));
        let (stamp, counted) = (self.directory.join("counted"), self.identity()?);
        if fs::read_to_string(&stamp).is_ok_and(|before| before == counted) {
            return Ok(());
        }
        // Objects that were built with the counts of another load can't be linked with those of the
        // new one, and counts of other programs are not valid for these programs.
        for stale in [self.counts(), self.released_dir()] {
            if stale.exists() {
                fs::remove_dir_all(&stale).map_err(|error| cannot("remove", &stale, &error))?;
            }
        }
        create(&self.counts())?;
        let mut load = Command::new(bench);
        self.workspace
            .for_tests(&mut load)
            .env("SOCKHOP_BIN", host)
            .env_remove("LLVM_PROFILE_FILE");
        // The figures of programs with counters are meaningless, so nothing shows them.
        tools::run(load.args(LOAD).stdout(Stdio::null()))?;
        tools::run(
            Command::new(self.toolchain.profdata())
                .arg("merge")
                .arg("--output")
                .arg(self.profile())
                .arg(self.counts()),
        )?;
        // The stamp is written last, so that an interrupted run is repeated.
        fs::write(&stamp, counted).map_err(|error| cannot("write", &stamp, &error))
    }

    /// Builds the programs as they are released.
    ///
    /// # Errors
    ///
    /// Returns an error if the build fails.
    pub(crate) fn build_released(&self) -> Result<(), Failure> {
        self.build(&self.released_dir(), "-Cprofile-use=", &self.profile())
    }

    /// The path of a program that [`Pgo::build_released`] has built.
    pub(crate) fn released(&self, name: &str) -> PathBuf {
        self.program(&self.released_dir(), name)
    }

    /// Both builds use the same cargo profile, `release`: it is part of every symbol, and the
    /// counts are found by symbol. Both name the target although it is the machine's own. Only then
    /// do the flags apply to the programs alone, and not to build scripts and procedural macros as
    /// well.
    fn build(&self, target: &Path, flag: &str, path: &Path) -> Result<(), Failure> {
        let mut cargo = self.workspace.cargo();
        cargo.env("CARGO_TARGET_DIR", target).args([
            "build",
            "--release",
            "--target",
            &self.toolchain.host,
        ]);
        cargo.args(["--package", "sockhop", "--package", "sockhop-bench", "--bins"]);
        cargo.env(
            "CARGO_ENCODED_RUSTFLAGS",
            with_flag(env::var_os("CARGO_ENCODED_RUSTFLAGS"), env::var_os("RUSTFLAGS"), flag, path),
        );
        tools::run(&mut cargo)
    }

    fn program(&self, target: &Path, name: &str) -> PathBuf {
        target
            .join(&self.toolchain.host)
            .join("release")
            .join(format!("{name}{}", env::consts::EXE_SUFFIX))
    }

    /// Identifies the programs with counters and the load that they are given.
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

    /// Cargo's target directory for the programs with counters.
    fn counting_dir(&self) -> PathBuf {
        self.directory.join("counting")
    }

    /// The directory of the raw counts. Each program writes its counts when it ends.
    fn counts(&self) -> PathBuf {
        self.directory.join("counts")
    }

    /// The merged counts, as the compiler reads them.
    fn profile(&self) -> PathBuf {
        self.directory.join("all.profdata")
    }

    /// Cargo's target directory for the released programs.
    fn released_dir(&self) -> PathBuf {
        self.directory.join("released")
    }
}

/// Returns the flags of the environment and one more, with cargo's own separator, because a path
/// may contain blanks. Cargo ignores the flags of its configuration files, as always when the
/// environment has flags.
fn with_flag(
    encoded: Option<OsString>,
    plain: Option<OsString>,
    flag: &str,
    path: &Path,
) -> OsString {
    let plain = || {
        plain.map(|flags| {
            flags
                .to_string_lossy()
                .split_ascii_whitespace()
                .collect::<Vec<_>>()
                .join(SEPARATOR)
                .into()
        })
    };
    let mut flags = encoded.or_else(plain).unwrap_or_default();
    if !flags.is_empty() {
        flags.push(SEPARATOR);
    }
    flags.push(flag);
    flags.push(OsStr::new(path));
    flags
}

/// The separator of the flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\u{1f}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_environment_are_kept() {
        let with = |encoded: Option<&str>, plain: Option<&str>| {
            let flags = with_flag(
                encoded.map(Into::into),
                plain.map(Into::into),
                "-Cprofile-use=",
                Path::new("a b"),
            );
            flags.into_string().unwrap()
        };
        assert_eq!(with(None, None), "-Cprofile-use=a b");
        assert_eq!(
            with(None, Some(" -Ctarget-cpu=native  -v ")),
            "-Ctarget-cpu=native\u{1f}-v\u{1f}-Cprofile-use=a b"
        );
        assert_eq!(with(Some("-Cx=a b"), Some("-v")), "-Cx=a b\u{1f}-Cprofile-use=a b");
    }
}
