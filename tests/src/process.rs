//! The built command in its own process, for what only a whole process can show, such as its memory
//! and its death.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sockhop::host::key_file;

use crate::{PATIENCE, ask, binary, compiled, row_of};

/// A running `sockhop serve`.
pub struct HostProcess {
    child: Child,
    /// `http://ADDR`
    pub url: String,
    /// The host's own key.
    pub key: String,
    /// The lines that it printed before it listened.
    pub said: Vec<String>,
}

impl HostProcess {
    /// Starts a host and waits until it listens.
    pub fn start(plugins: &Path, data: &Path) -> Self {
        Self::start_program(&binary(), plugins, data)
    }

    /// Does the same with another copy of the command.
    pub fn start_program(program: &Path, plugins: &Path, data: &Path) -> Self {
        Self::of(serve_by(plugins, data, Command::new(program)), data)
    }

    /// Does the same with settings in the environment.
    pub fn start_with(plugins: &Path, data: &Path, settings: &[(&str, &str)]) -> Self {
        Self::with(plugins, data, |command| {
            command.envs(settings.iter().copied());
        })
    }

    /// Does the same, and lets `change` modify the command, such as its settings or its standard
    /// error.
    pub fn with(plugins: &Path, data: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = serve(plugins, data);
        change(&mut command);
        Self::of(command, data)
    }

    /// Does the same with a log of the level `info` in the file `log`.
    pub fn start_logging(plugins: &Path, data: &Path, log: &Path) -> Self {
        let mut command = serve(plugins, data);
        command.env("SOCKHOP_LOG__FILTER", "info").stderr(File::create(log).expect("a file"));
        Self::of(command, data)
    }

    /// Does the same without the capability to bypass file permissions, which a test that runs as
    /// root would have.
    #[cfg(target_os = "linux")]
    pub fn start_bound_by_permissions(plugins: &Path, data: &Path) -> Self {
        Self::of(bound_by_permissions(plugins, data), data)
    }

    /// Starts a host whose standard output is not a pipe of this test. `url` finds out the address.
    pub fn unheard(
        plugins: &Path,
        data: &Path,
        change: impl FnOnce(&mut Command),
        url: impl FnOnce(&mut Child) -> String,
    ) -> Self {
        let mut command = serve(plugins, data);
        change(&mut command);
        let mut child = command.spawn().expect("the command starts");
        let url = url(&mut child);
        Self { child, url, key: own_key(data), said: Vec::new() }
    }

    /// Makes every write to a file beyond `bytes` fail from now on, as on a full disk. `None` ends
    /// that.
    #[cfg(target_os = "linux")]
    pub fn limit_files(&self, bytes: Option<u64>) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        let soft = bytes.unwrap_or(rlimit::INFINITY);
        rlimit::prlimit(pid, rlimit::Resource::FSIZE, Some((soft, rlimit::INFINITY)), None)
            .expect("a limit");
    }

    /// Starts the process of `command` with this data directory, and waits until it listens.
    pub fn of(mut command: Command, data: &Path) -> Self {
        let plugins = plugins_of(&command);
        if let Some(plugins) = &plugins {
            compiled::lend(plugins, data);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the command starts");
        let output = child.stdout.take().expect("its output");
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let url = loop {
            let line = lines.next().expect("a line that says where it listens");
            let json = serde_json::from_str::<Value>(&line).unwrap_or_default();
            match line.strip_prefix("listening on ").or_else(|| json["listening"].as_str()) {
                Some(url) => break url.to_owned(),
                None => said.push(line),
            }
        };
        if let Some(plugins) = &plugins {
            compiled::keep(plugins, data);
        }
        Self { child, url, key: own_key(data), said }
    }

    /// Returns the row of the plugin `name` in the operators' list, or null if the host does not
    /// list it.
    pub fn row(&self, name: &str) -> Value {
        row_of(&ask(&self.url, "/api/plugins", None, Some(&self.key)).1, name)
    }

    /// Waits until `is` accepts the row of `name`, and returns that row.
    pub fn until(&self, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let row = self.row(name);
            if is(&row) {
                return row;
            }
            assert!(Instant::now() < until, "{name} never became what it should: {row:#}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends an HTTP request with the host's own key. Returns the status and the document.
    pub fn http(&self, path: &str, body: Option<Value>) -> (u16, Value) {
        ask(&self.url, path, body, Some(&self.key))
    }

    /// Returns the standard error, if the test has configured it as a pipe.
    pub fn take_stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("a pipe")
    }

    /// Sends SIGTERM and waits until the process has ended. Returns its exit status and how long it
    /// took.
    pub fn terminate(&mut self) -> (ExitStatus, Duration) {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("a process that runs");
    }

    /// Waits until the process has ended. Returns its exit status and how long it took.
    pub fn ended(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a process to wait for") {
                return (status, began.elapsed());
            }
            assert!(began.elapsed() < PATIENCE, "the host does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time that the process has used, over all its threads.
    pub fn cpu_time(&self) -> Duration {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("its figures");
        let (_, figures) = stat.rsplit_once(')').expect("its name");
        // The fields 14 and 15, in hundredths of a second.
        let ticks = figures
            .split_ascii_whitespace()
            .skip(11)
            .take(2)
            .map(|figure| figure.parse::<u64>().expect("a number"));
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// Resident memory in bytes, as the system counts it.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The part of [`resident`](Self::resident) in bytes that the process has allocated.
    /// File-backed pages are not included, because the system maps and reclaims them as it likes.
    pub fn allocated(&self) -> u64 {
        self.memory("RssAnon:") + self.memory("RssShmem:")
    }

    fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("its status");
        let value =
            status.lines().find_map(|line| line.strip_prefix(key)).expect("a figure of its memory");
        value.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// Returns the KiB of memory, the threads and the file descriptors of the process.
    pub fn footprint(&self) -> (u64, usize, usize) {
        let count = |of: &str| {
            std::fs::read_dir(format!("/proc/{}/{of}", self.pid())).expect("its entries").count()
        };
        (self.resident() / 1024, count("task"), count("fd"))
    }

    /// The threads by name, each with its nice value.
    pub fn niceness(&self) -> Vec<(String, i32)> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("its threads");
        let stats = threads.filter_map(|thread| {
            std::fs::read_to_string(thread.expect("an entry").path().join("stat")).ok()
        });
        let parse = |stat: String| {
            let (name, figures) = stat.split_once('(')?.1.rsplit_once(')')?;
            // Field 19, which is the 17th after the name.
            Some((name.to_owned(), figures.split_ascii_whitespace().nth(16)?.parse().ok()?))
        };
        stats.filter_map(parse).collect()
    }

    /// Kills the process, as `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().expect("a process to kill");
        self.child.wait().expect("its end");
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The plugin directory that a command is given.
fn plugins_of(command: &Command) -> Option<PathBuf> {
    let mut arguments = command.get_args();
    arguments.find(|argument| *argument == "--plugins")?;
    arguments.next().map(PathBuf::from)
}

/// Reads the host's own key. It is empty if a test has configured other keys.
fn own_key(data: &Path) -> String {
    std::fs::read_to_string(key_file(data)).unwrap_or_default().trim().to_owned()
}

/// Returns the command `sockhop serve` on these directories.
pub fn serve(plugins: &Path, data: &Path) -> Command {
    serve_by(plugins, data, Command::new(binary()))
}

/// Does the same with another program.
fn serve_by(plugins: &Path, data: &Path, mut program: Command) -> Command {
    program
        .args(["serve", "--listen", "127.0.0.1:0"])
        .arg("--plugins")
        .arg(plugins)
        .arg("--data")
        .arg(data);
    program.env("SOCKHOP_LOG__FILTER", "warn");
    if let Ok(name) = std::env::var(crate::SOCKETIO) {
        program.env("SOCKHOP_SERVER__SOCKETIO", name);
    }
    // Tests have no load balancer.
    program.env("SOCKHOP_LIMITS__SHUTDOWN_UNREADY_MS", "1");
    program.env("SOCKHOP_LIMITS__SHUTDOWN_CLOSE_MS", "1");
    program
}

/// Returns the command `sockhop serve` without the capability to bypass file permissions, whichever
/// user runs the test.
#[cfg(target_os = "linux")]
pub fn bound_by_permissions(plugins: &Path, data: &Path) -> Command {
    // `setpriv` is part of util-linux, which every distribution has.
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-dac_override,-dac_read_search").arg(binary());
    serve_by(plugins, data, command)
}
