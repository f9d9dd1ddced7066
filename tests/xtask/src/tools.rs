//! The external programs that the commands run: checks them, installs what can be installed, and
//! reports failures.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, str, thread};

use crate::{Failure, report};

/// The target of every plugin.
pub(crate) const WASM_TARGET: &str = "wasm32-wasip2";

/// A program that must be installed before the work begins, because no command here can install it.
pub(crate) struct Tool {
    /// The name that is shown to the user.
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    /// The oldest version that is supported. If it is set, the program's first output must be its
    /// version.
    at_least: Option<(u32, u32)>,
    debian: &'static str,
    macos: &'static str,
}

/// Builds SQLite and the allocator, which are written in C.
pub(crate) const CC: Tool = Tool {
    name: "a C compiler",
    program: "cc",
    arguments: &["--version"],
    at_least: None,
    debian: "apt-get install build-essential",
    macos: "xcode-select --install",
};

/// Runs the JavaScript client's tests. Earlier test runners do not wait for the `before` of a file.
pub(crate) const NODE: Tool = Tool {
    name: "Node.js 18.19 or newer",
    program: "node",
    arguments: &["--version"],
    at_least: Some((18, 19)),
    debian: "apt-get install nodejs",
    macos: "brew install node",
};

/// Installs the JavaScript client.
pub(crate) const NPM: Tool = Tool {
    name: "npm",
    program: NPM_PROGRAM,
    arguments: &["--version"],
    at_least: None,
    debian: "apt-get install npm",
    macos: "brew install node",
};

/// Runs the JavaScript client's tests in pages.
pub(crate) const BROWSER: Tool = Tool {
    name: "Chromium (Google Chrome on macOS)",
    program: BROWSER_PROGRAM,
    arguments: &["--version"],
    at_least: None,
    debian: "apt-get install chromium",
    macos: "brew install --cask google-chrome",
};

/// Runs the Python client's tests. The pinned packages require 3.10.
pub(crate) const PYTHON: Tool = Tool {
    name: "Python 3.10 or newer",
    program: "python3",
    arguments: &["-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
    at_least: Some((3, 10)),
    debian: "apt-get install python3",
    macos: "brew install python3",
};

/// Debian packages this module separately from Python.
pub(crate) const PYTHON_VENV: Tool = Tool {
    name: "Python's venv module",
    program: "python3",
    arguments: &["-c", "import ensurepip, venv"],
    at_least: None,
    debian: "apt-get install python3-venv",
    macos: "brew install python3",
};

/// Runs the Python peer of the benchmark. Its pinned packages and its source require 3.11.
pub(crate) const NEWER_PYTHON: Tool =
    Tool { name: "Python 3.11 or newer", at_least: Some((3, 11)), ..PYTHON };

/// Pins the servers and the driver of the benchmark to different processors.
pub(crate) const TASKSET: Tool = Tool {
    name: "taskset",
    program: "taskset",
    arguments: &["--version"],
    at_least: None,
    debian: "apt-get install util-linux",
    macos: "the benchmark reads what only Linux tells",
};

/// Ends the servers of the benchmark when the benchmark ends.
pub(crate) const SETPRIV: Tool = Tool { name: "setpriv", program: "setpriv", ..TASKSET };

/// On Windows npm is a script, which is not found without its suffix.
pub(crate) const NPM_PROGRAM: &str = if cfg!(windows) { "npm.cmd" } else { "npm" };

/// On macOS a browser is an application, which is not found by its name.
pub(crate) const BROWSER_PROGRAM: &str = if cfg!(target_os = "macos") {
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
} else {
    "chromium"
};

impl Tool {
    fn is_there(&self) -> bool {
        let output = Command::new(self.program)
            .args(self.arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let Ok(output) = output else { return false };
        let reported = str::from_utf8(&output.stdout).ok().and_then(version);
        output.status.success()
            && self.at_least.is_none_or(|least| reported.is_some_and(|version| version >= least))
    }

    const fn install(&self) -> &'static str {
        if cfg!(target_os = "macos") { self.macos } else { self.debian }
    }
}

/// Parses the major and minor version, such as of `v20.11.1` or `3.11`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Checks that `tools` are installed, before any long step begins.
///
/// # Errors
///
/// Returns an error that names all missing tools, each with the command that installs it.
pub(crate) fn require(tools: &[Tool]) -> Result<(), Failure> {
    let missing: Vec<String> = tools
        .iter()
        .filter(|tool| !tool.is_there())
        .map(|tool| format!("  {}: {}", tool.name, tool.install()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure(format!(
        "these are missing here, or too old; each with the command that installs it:\n{}",
        missing.join("\n")
    )))
}

/// Adds the target of the plugins to the toolchain if it is missing. It asks the compiler first,
/// because that needs no rustup, and rustup is slow.
///
/// # Errors
///
/// Returns an error with the command to run if there is no rustup, or if it failed.
pub(crate) fn wasm_target() -> Result<(), Failure> {
    let directory = output(rustc().args(["--print", "target-libdir", "--target", WASM_TARGET]))?;
    if Path::new(directory.trim()).is_dir() {
        return Ok(());
    }
    report::text(&format!("adding {WASM_TARGET} to the toolchain"));
    run(Command::new("rustup").args(["target", "add", WASM_TARGET])).map_err(|failure| {
        Failure(format!(
            "{failure}\nthe toolchain needs its target {WASM_TARGET}: install rustup \
                         (https://rustup.rs), then run `rustup target add {WASM_TARGET}`"
        ))
    })
}

/// What the commands need to know about the compiler.
pub(crate) struct Toolchain {
    /// The target triple of this machine.
    pub(crate) host: String,
    /// The directory of the programs of the toolchain's component `llvm-tools`, once it is
    /// installed.
    bin: PathBuf,
}

impl Toolchain {
    /// Asks the compiler for its target and its paths.
    ///
    /// # Errors
    ///
    /// Returns an error if the compiler fails or does not report its target.
    pub(crate) fn find() -> Result<Self, Failure> {
        let version = output(rustc().arg("--version").arg("--verbose"))?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host
            .ok_or_else(|| Failure("`rustc --version --verbose` names no host".to_owned()))?
            .to_owned();
        let libraries = output(rustc().args(["--print", "target-libdir"]))?;
        Ok(Self { host, bin: Path::new(libraries.trim()).with_file_name("bin") })
    }

    /// The path of `llvm-profdata`, which merges the counts of the programs.
    pub(crate) fn profdata(&self) -> PathBuf {
        self.bin.join(format!("llvm-profdata{}", env::consts::EXE_SUFFIX))
    }

    /// Adds LLVM's tools to the toolchain if they are missing. Only the toolchain's own tools can
    /// read the counts of its programs.
    ///
    /// # Errors
    ///
    /// Returns an error with the command to run if there is no rustup, or if it failed.
    pub(crate) fn add_llvm_tools(&self) -> Result<(), Failure> {
        if self.profdata().is_file() {
            return Ok(());
        }
        report::text("adding llvm-tools to the toolchain");
        run(Command::new("rustup").args(["component", "add", "llvm-tools"])).map_err(|failure| {
            Failure(format!(
                "{failure}\nthe toolchain needs its component llvm-tools: install \
                             rustup (https://rustup.rs), then run `rustup component add \
                             llvm-tools`"
            ))
        })
    }
}

fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")))
}

/// Returns a command of the cargo that runs this program.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// Runs `command`, which inherits the output of this process.
///
/// # Errors
///
/// Returns an error that names the command, and how it ended or why it did not start.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let status = command
        .status()
        .map_err(|error| Failure(format!("`{}` did not start: {error}", shown(command))))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure(format!("`{}` ended with {status}", shown(command))))
    }
}

/// Like [`run`], for a command that must end within `limit`. After that, it is stopped.
///
/// # Errors
///
/// Returns the errors of [`run`], and an error if it had to be stopped.
pub(crate) fn run_within(limit: Duration, command: &mut Command) -> Result<(), Failure> {
    let mut child = command
        .spawn()
        .map_err(|error| Failure(format!("`{}` did not start: {error}", shown(command))))?;
    let began = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if began.elapsed() < limit => thread::sleep(Duration::from_millis(100)),
            Ok(None) | Err(_) => {
                stop(&mut child);
                let minutes = limit.as_secs() / 60;
                let command = shown(command);
                return Err(Failure(format!("`{command}` has not ended within {minutes} minutes")));
            }
        }
    };
    if status.success() {
        Ok(())
    } else {
        Err(Failure(format!("`{}` ended with {status}", shown(command))))
    }
}

/// Asks a process to end, so that it also ends its own processes, and kills it 10 s later.
fn stop(child: &mut Child) {
    let asked = Command::new("kill").arg(child.id().to_string()).status();
    if asked.is_ok_and(|status| status.success()) {
        for _ in 0..100 {
            if let Ok(Some(_)) = child.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Runs `command` and returns its standard output.
///
/// # Errors
///
/// Returns the errors of [`run`], and an error if the output is not UTF-8.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command.stderr(Stdio::inherit()).output();
    let output =
        output.map_err(|error| Failure(format!("`{}` did not start: {error}", shown(command))))?;
    if !output.status.success() {
        return Err(Failure(format!("`{}` ended with {}", shown(command), output.status)));
    }
    String::from_utf8(output.stdout)
        .map_err(|error| Failure(format!("`{}` wrote no text: {error}", shown(command))))
}

/// Formats a command as a user would type it, without the directory of the program.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(name).chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_and_without_their_letter() {
        assert_eq!(
            ["v20.11.1\n", "3.11\n", "unknown", ""].map(version),
            [Some((20, 11)), Some((3, 11)), None, None]
        );
    }

    #[test]
    fn missing_tools_are_all_named_with_the_commands_that_install_them() {
        let absent = |name| Tool { name, program: "sockhop-no-such-program", ..CC };
        let install = CC.install();
        assert_eq!(
            require(&[absent("this"), absent("that")]),
            Err(Failure(format!(
                "these are missing here, or too old; each with the command that installs it:\n  \
                 this: {install}\n  that: {install}"
            )))
        );
    }

    #[test]
    #[cfg(unix)]
    fn a_command_that_does_not_end_in_time_is_stopped_and_named() {
        let stopped = run_within(Duration::from_millis(200), Command::new("sleep").arg("600"));
        let told = "`sleep 600` has not ended within 0 minutes";
        assert_eq!(stopped, Err(Failure(told.to_owned())));
        assert_eq!(run_within(Duration::from_secs(60), &mut Command::new("true")), Ok(()));
    }

    #[test]
    fn a_command_that_does_not_start_is_named_without_its_directory() {
        let failure = run(Command::new("/nowhere/sockhop-no-such-program").arg("--version"))
            .map_err(|failure| failure.0);
        assert!(failure.is_err_and(|text| {
            text.starts_with("`sockhop-no-such-program --version` did not start: ")
        }));
    }
}
