//! The built command as a process of its own: for what only a whole process can show, such as its memory and its death.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::binary;

/// A running `sockhop serve`.
pub struct HostProcess {
    child: Child,
    /// `http://ADDR`
    pub url: String,
}

impl HostProcess {
    /// Starts one and waits until it listens.
    pub fn start(plugins: &Path, data: &Path) -> Self {
        Self::of(serve(plugins, data, Command::new(binary())))
    }

    /// The same without the right to pass over the permissions of files, which a test that runs as root would have.
    #[cfg(target_os = "linux")]
    pub fn start_bound_by_permissions(plugins: &Path, data: &Path) -> Self {
        Self::of(bound_by_permissions(plugins, data))
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the command starts");
        let output = child.stdout.take().expect("its output");
        let mut lines = BufReader::new(output).lines();
        let url = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening on ").map(str::to_owned))
            .expect("a line that says where it listens");
        Self { child, url }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
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

/// `sockhop serve` on these directories, by `program`.
fn serve(plugins: &Path, data: &Path, mut program: Command) -> Command {
    program.args(["serve", "--listen", "127.0.0.1:0"]).arg("--plugins").arg(plugins).arg("--data").arg(data);
    program.env("SOCKHOP_LOG__FILTER", "warn");
    program
}

/// `sockhop serve` as a user whom the permissions of files bind, whoever runs the test.
#[cfg(target_os = "linux")]
pub fn bound_by_permissions(plugins: &Path, data: &Path) -> Command {
    // Of util-linux, which every distribution has.
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-dac_override,-dac_read_search").arg(binary());
    serve(plugins, data, command)
}
