//! The compared servers, each in its own process on its own processor: how they are started and
//! ended, and what the system reports about them. Knows nothing of the events.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::driver::Target;

/// The measured servers. All of them serve the same events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// This repository's host with its bundled plugins
    Sockhop,
    /// The same with the library socketioxide for Socket.IO
    Library,
    /// The same as `sockhop` with tokens, rate limits and a rule that is only tried
    Guarded,
    /// Handlers in Rust on socketioxide, on a current-thread runtime
    Native,
    /// The same on tokio's multi-threaded runtime
    Pool,
    /// `socket.io` on Node.js
    Node,
    /// python-socketio in FastAPI with Pydantic
    Python,
}

impl Kind {
    /// The name in tables and documents.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sockhop => "sockhop",
            Self::Library => "library",
            Self::Guarded => "guarded",
            Self::Native => "native",
            Self::Pool => "pool",
            Self::Node => "node",
            Self::Python => "python",
        }
    }
}

/// A running server. It ends when this value is dropped or this process ends.
pub(crate) struct Server {
    child: Child,
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
    /// The token of its clients, if they need one.
    token: Option<String>,
    /// The time from the start of the process to the line that says that it listens.
    pub(crate) took: Duration,
    /// Kept open until the end, so that later output of the server does not fail.
    _output: BufReader<std::process::ChildStdout>,
}

impl Server {
    /// Where its clients connect, with their token if they need one.
    pub(crate) fn target(&self) -> Target<'_> {
        Target { address: &self.address, token: self.token.as_deref() }
    }

    /// The process id of the server.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory of the server in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("a process that runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("its resident memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Returns the KiB of memory, the threads and the file descriptors of the server.
    pub(crate) fn footprint(&self) -> (u64, usize, usize) {
        let count = |of: &str| {
            std::fs::read_dir(format!("/proc/{}/{of}", self.pid())).expect("its entries").count()
        };
        (self.resident_kib(), count("task"), count("fd"))
    }
}

/// Sends SIGTERM first, because a program with profiling counters writes them when it exits
/// normally.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(process(self.pid()), Signal::SIGTERM);
        let until = Instant::now() + TIME_TO_END;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let has_ended = !matches!(self.child.try_wait(), Ok(None));
        let _ = self.child.kill();
        let _ = self.child.wait();
        assert!(has_ended || std::thread::panicking(), "a server did not end when it was told to");
    }
}

/// How long a server may take to end: longer than the host waits for its clients.
const TIME_TO_END: Duration = Duration::from_secs(30);

fn process(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a process"))
}

/// Returns the processor time that a process has used, in user space and in the kernel.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    // `/proc/PID/stat` is not precise enough: it counts in hundredths of a second.
    let time = clock_getcpuclockid(process(pid))
        .and_then(ClockId::now)
        .unwrap_or_else(|_| panic!("a server has ended by itself"));
    time.into()
}

/// Returns how long the main thread of a process has waited for a processor. With one processor, a
/// server handles events in that thread. The time is long if other processes use the server's
/// processor.
pub(crate) fn wait_time(pid: u32) -> Duration {
    let schedstat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let nanoseconds = schedstat.split_whitespace().nth(1).and_then(|waited| waited.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

/// The paths that the servers need, and the processors that are used.
pub(crate) struct Stage {
    /// The processor of the servers and the processor of the driver.
    pub(crate) cores: (usize, usize),
    /// The directory of the four bundled plugins.
    plugins: PathBuf,
    /// The data of each kind of server, shared by all of its runs. So the host finds its plugins
    /// compiled, as it does after every start but the first.
    data: TempDir,
    native: Vec<OsString>,
}

impl Stage {
    /// Finds the processors and paths, and pins this process to the driver's processor.
    pub(crate) fn new(native: Vec<OsString>) -> Self {
        let allowed = allowed_processors();
        let (&server, &driver) =
            (allowed.first().expect("a processor"), allowed.last().expect("a processor"));
        if server == driver {
            crate::report::note(
                "only one processor: servers and driver share it, so latencies and rates say \
                 little; CPU time still does",
            );
        }
        let pinned = Command::new("taskset")
            .args(["-cp", &driver.to_string(), &std::process::id().to_string()])
            .output();
        assert!(
            pinned.is_ok_and(|output| output.status.success()),
            "taskset failed; it is in util-linux"
        );
        let data = tempfile::tempdir().expect("a directory");
        Self { cores: (server, driver), plugins: crate::files::bundled(), data, native }
    }

    /// Starts a server with the standard events.
    pub(crate) fn start(&self, kind: Kind) -> Server {
        let data = self.data.path().join(kind.name());
        match kind {
            Kind::Sockhop => self.host(&self.plugins, &data, &[]),
            Kind::Library => {
                self.host(&self.plugins, &data, &[("SERVER__SOCKETIO", "socketioxide")])
            }
            Kind::Guarded => {
                std::fs::create_dir_all(&data).expect("a directory");
                let config = data.join("guarded.toml");
                std::fs::write(&config, GUARDED).expect("a file");
                let mut server = self.host_with_config(&self.plugins, &data, &config);
                server.token = Some(token(&config, "7"));
                server
            }
            Kind::Native => self.launch(beside("native_peer"), &self.native, &data),
            Kind::Pool => self.launch(beside("native_peer"), &["--runtime=multi".into()], &data),
            Kind::Node => {
                let script = peers().join("node").join("server.mjs");
                self.launch("node".into(), &[script.into()], &data)
            }
            Kind::Python => {
                let python = std::env::var_os("SOCKHOP_PEER_PYTHON").unwrap_or_else(|| {
                    panic!("SOCKHOP_PEER_PYTHON is not set: use `cargo xtask bench`")
                });
                let script = peers().join("python").join("server.py");
                self.launch(python.into(), &[script.into()], &data)
            }
        }
    }

    /// Starts the host with the given plugins, data and settings (`SECTION__KEY`).
    pub(crate) fn host(&self, plugins: &Path, data: &Path, settings: &[(&str, &str)]) -> Server {
        listening(self.host_command(plugins, data, settings))
    }

    /// Starts the host with the settings of a configuration file.
    pub(crate) fn host_with_config(&self, plugins: &Path, data: &Path, config: &Path) -> Server {
        let mut command = self.host_command(plugins, data, &[]);
        command.arg("--config").arg(config);
        listening(command)
    }

    /// Does the same as [`Stage::host`], and writes the log as JSON to `log`, without collapsing
    /// repeated records.
    pub(crate) fn host_with_log(
        &self,
        plugins: &Path,
        data: &Path,
        settings: &[(&str, &str)],
        log: impl Into<Stdio>,
    ) -> Server {
        let mut command = self.host_command(plugins, data, settings);
        command
            .env("SOCKHOP_LOG__FORMAT", "json")
            .env("SOCKHOP_LOG__COLLAPSE", "false")
            .stderr(log);
        listening(command)
    }

    fn host_command(&self, plugins: &Path, data: &Path, settings: &[(&str, &str)]) -> Command {
        let mut command = self.pinned(&crate::files::binary());
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--plugins"])
            .arg(plugins)
            .arg("--data")
            .arg(data);
        // No load balancer needs time to notice that the host is going to stop.
        command.env("SOCKHOP_LOG__FILTER", "error").env("SOCKHOP_LIMITS__SHUTDOWN_UNREADY_MS", "1");
        for (key, value) in settings {
            command.env(format!("SOCKHOP_{key}"), value);
        }
        command
    }

    fn launch(&self, program: PathBuf, arguments: &[OsString], data: &Path) -> Server {
        let mut command = self.pinned(&program);
        command.args(arguments).args(["--port", "0", "--data"]).arg(data);
        listening(command)
    }

    /// Returns a command that runs `program` on the servers' processor. The program is killed when
    /// this process ends for any reason.
    fn pinned(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "taskset", "-c", &self.cores.0.to_string()])
            .arg(program);
        command
    }
}

/// The settings of [`Kind::Guarded`]: everything that is asked for each event, and nothing that
/// refuses one. One of the two buckets is only tried, because both ways should be measured.
const GUARDED: &str = r#"
[auth]
mode = "jwt"

[[auth.keys]]
algorithm = "HS256"
secret = "a secret of the benchmark, known to all"

[rate.connection]
per_second = 1_000_000_000
observe = true

[rate.user]
per_second = 1_000_000_000

[[rules]]
event = "ping"
access = "authenticated"
observe = true
"#;

/// Returns a token of `user` for a host with this configuration, made by the host's own command.
pub(crate) fn token(config: &Path, user: &str) -> String {
    let made = Command::new(crate::files::binary())
        .args(["token", "--ttl", "24h", "--sub", user, "--config"])
        .arg(config)
        .output()
        .expect("the host's program");
    assert!(made.status.success(), "no token: {}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).expect("text").trim().to_owned()
}

/// Starts the process and waits for the line that says where it listens. The host writes it as JSON
/// beside a JSON log.
fn listening(mut command: Command) -> Server {
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("setpriv and taskset, of util-linux");
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let mut line = String::new();
    let address = loop {
        line.clear();
        let read = output.read_line(&mut line).expect("text");
        assert!(read > 0, "a server ended before it listened: {command:?}");
        let json = serde_json::from_str::<Value>(&line).unwrap_or_default();
        let url = line.trim().strip_prefix("listening on ").or_else(|| json["listening"].as_str());
        if let Some(address) = url.and_then(|url| url.strip_prefix("http://")) {
            break address.to_owned();
        }
    };
    Server { child, address, token: None, took: began.elapsed(), _output: output }
}

/// Returns the path of a program that was built together with this one.
fn beside(name: &str) -> PathBuf {
    std::env::current_exe().expect("this program's path").with_file_name(name)
}

fn peers() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../peers"))
}

/// Returns the processors that this process may use.
fn allowed_processors() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .expect("a list of processors")
        .trim();
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse::<usize>().expect("a number")..=last.parse().expect("a number")
    };
    list.split(',').flat_map(range).collect()
}
