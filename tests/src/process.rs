//! The built command as a process of its own: for what only a whole process can show, such as its memory and its death.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sockhop::host::key_file;

use crate::{PATIENCE, ask, binary, row_of};

/// A running `sockhop serve`.
pub struct HostProcess {
    child: Child,
    /// `http://ADDR`
    pub url: String,
    /// The host's own key.
    key: String,
    /// What it printed before it listened.
    pub said: Vec<String>,
}

impl HostProcess {
    /// Starts one and waits until it listens.
    pub fn start(plugins: &Path, data: &Path) -> Self {
        Self::start_program(&binary(), plugins, data)
    }

    /// The same with another copy of the command.
    pub fn start_program(program: &Path, plugins: &Path, data: &Path) -> Self {
        Self::of(serve_by(plugins, data, Command::new(program)), data)
    }

    /// The same with settings of its own in the environment.
    pub fn start_with(plugins: &Path, data: &Path, settings: &[(&str, &str)]) -> Self {
        Self::with(plugins, data, |command| {
            command.envs(settings.iter().copied());
        })
    }

    /// The same with other settings or another standard error.
    pub fn with(plugins: &Path, data: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = serve(plugins, data);
        change(&mut command);
        Self::of(command, data)
    }

    /// The same with its log, of everything from `info` on, in a file.
    pub fn start_logging(plugins: &Path, data: &Path, log: &Path) -> Self {
        let mut command = serve(plugins, data);
        command.env("SOCKHOP_LOG__FILTER", "info").stderr(File::create(log).expect("a file"));
        Self::of(command, data)
    }

    /// The same without the right to pass over the permissions of files, which a test that runs as root would have.
    #[cfg(target_os = "linux")]
    pub fn start_bound_by_permissions(plugins: &Path, data: &Path) -> Self {
        Self::of(bound_by_permissions(plugins, data), data)
    }

    /// Starts one whose standard output is no pipe of this test; `url` finds out where it listens.
    pub fn unheard(plugins: &Path, data: &Path, change: impl FnOnce(&mut Command), url: impl FnOnce(&mut Child) -> String) -> Self {
        let mut command = serve(plugins, data);
        change(&mut command);
        let mut child = command.spawn().expect("the command starts");
        let url = url(&mut child);
        Self { child, url, key: own_key(data), said: Vec::new() }
    }

    /// Has every write to a file beyond `bytes` fail from now on, as on a full disk; `None` ends that.
    #[cfg(target_os = "linux")]
    pub fn limit_files(&self, bytes: Option<u64>) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        let soft = bytes.unwrap_or(rlimit::INFINITY);
        rlimit::prlimit(pid, rlimit::Resource::FSIZE, Some((soft, rlimit::INFINITY)), None).expect("a limit");
    }

    /// The process that `command` starts with this data directory, once it listens.
    pub fn of(mut command: Command, data: &Path) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the command starts");
        let output = child.stdout.take().expect("its output");
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let url = loop {
            let line = lines.next().expect("a line that says where it listens");
            match line.strip_prefix("listening on ") {
                Some(url) => break url.to_owned(),
                None => said.push(line),
            }
        };
        Self { child, url, key: own_key(data), said }
    }

    /// What operators see of the plugin `name`; null if nothing is known of it.
    pub fn row(&self, name: &str) -> Value {
        row_of(&ask(&self.url, "/api/plugins", None, Some(&self.key)).1, name)
    }

    /// Waits until the row of `name` is as `is` says, and returns it.
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

    /// Asks over HTTP with the host's own key: status and document.
    pub fn http(&self, path: &str, body: Option<Value>) -> (u16, Value) {
        ask(&self.url, path, body, Some(&self.key))
    }

    /// Its standard error, where the test has asked for a pipe.
    pub fn take_stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("a pipe")
    }

    /// Ends it as an operator does, and waits until it has ended; how, and how long that took.
    pub fn terminate(&mut self) -> (ExitStatus, Duration) {
        let (began, pid) = (Instant::now(), i32::try_from(self.pid()).expect("a process id"));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).expect("a process to end");
        loop {
            if let Some(status) = self.child.try_wait().expect("a process to wait for") {
                return (status, began.elapsed());
            }
            assert!(began.elapsed() < PATIENCE, "the host does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time that it has used, over all its threads.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("its figures");
        let (_, figures) = stat.rsplit_once(')').expect("its name");
        // The 14th and 15th of all, in hundredths of a second.
        let ticks = figures.split_ascii_whitespace().skip(11).take(2).map(|figure| figure.parse::<u64>().expect("a number"));
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// Bytes of memory that it holds, as the system counts them.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The bytes of [`resident`](Self::resident) that it asked for: without pages of files, which the system maps and takes back as it likes.
    pub fn allocated(&self) -> u64 {
        self.memory("RssAnon:") + self.memory("RssShmem:")
    }

    fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let value = status.lines().find_map(|line| line.strip_prefix(key)).expect("a figure of its memory");
        value.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// What it holds of the system: KiB of memory, threads, file descriptors.
    pub fn footprint(&self) -> (u64, usize, usize) {
        let count = |of: &str| std::fs::read_dir(format!("/proc/{}/{of}", self.pid())).expect("its entries").count();
        (self.resident() / 1024, count("task"), count("fd"))
    }

    /// Its threads by name, each with its niceness.
    pub fn niceness(&self) -> Vec<(String, i32)> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("its threads");
        let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.expect("an entry").path().join("stat")).ok());
        let parse = |stat: String| {
            let (name, figures) = stat.split_once('(')?.1.rsplit_once(')')?;
            // The 19th of all, which is the 17th after the name.
            Some((name.to_owned(), figures.split_ascii_whitespace().nth(16)?.parse().ok()?))
        };
        stats.filter_map(parse).collect()
    }

    /// Ends it as `kill -9` does.
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

/// The host's own key; there is none where a test has configured others.
fn own_key(data: &Path) -> String {
    std::fs::read_to_string(key_file(data)).unwrap_or_default().trim().to_owned()
}

/// `sockhop serve` on these directories.
pub fn serve(plugins: &Path, data: &Path) -> Command {
    serve_by(plugins, data, Command::new(binary()))
}

/// The same by another program.
fn serve_by(plugins: &Path, data: &Path, mut program: Command) -> Command {
    program.args(["serve", "--listen", "127.0.0.1:0"]).arg("--plugins").arg(plugins).arg("--data").arg(data);
    program.env("SOCKHOP_LOG__FILTER", "warn");
    if let Ok(name) = std::env::var(crate::SOCKETIO) {
        program.env("SOCKHOP_SERVER__SOCKETIO", name);
    }
    // Tests have no load balancer.
    program.env("SOCKHOP_LIMITS__SHUTDOWN_UNREADY_MS", "1");
    program
}

/// `sockhop serve` as a user whom the permissions of files bind, whoever runs the test.
#[cfg(target_os = "linux")]
pub fn bound_by_permissions(plugins: &Path, data: &Path) -> Command {
    // Of util-linux, which every distribution has.
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-dac_override,-dac_read_search").arg(binary());
    serve_by(plugins, data, command)
}
