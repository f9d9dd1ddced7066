//! Where commands run plugins without a host: a runtime, temporary files, and the signals that end
//! both.

use std::path::PathBuf;

use anyhow::Context;
use sockhop::config::Config;
use sockhop::host;
use sockhop::plugin::this_program;
use sockhop::trial::TrialFiles;
use tokio::runtime::{Builder, Runtime};

use super::check::Scratch;

/// The exit status after a signal has ended a command, as that of a shell after Ctrl-C.
pub(super) const INTERRUPTED: u8 = 130;

/// A runtime, and a temporary directory that is removed with it. The runtime is declared first, so
/// that it is dropped first: its tasks use the files.
pub(super) struct Workplace {
    runtime: Runtime,
    interrupts: Interrupts,
    scratch: Scratch,
}

impl Workplace {
    /// Signals are taken before there is a file that they could leave behind.
    pub(super) fn new() -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let entered = runtime.enter();
        let interrupts = Interrupts::take()?;
        drop(entered);
        Ok(Self { runtime, interrupts, scratch: Scratch::new()? })
    }

    /// Waits for the work. Returns `None` if the user or a supervisor interrupts it.
    pub(super) fn run<T>(&mut self, work: impl AsyncFnOnce(&Scratch) -> T) -> Option<T> {
        let Self { runtime, interrupts, scratch } = self;
        runtime.block_on(async {
            tokio::select! {
                done = work(scratch) => Some(done),
                () = interrupts.next() => None,
            }
        })
    }
}

/// Where a trial keeps its files: its data in a directory of its own, compiled code in one for all.
/// If the configured host has such a directory, that one is used: some plugins take long to
/// compile.
pub(super) fn place(scratch: &Scratch, name: &str, config: &Config) -> anyhow::Result<TrialFiles> {
    let data: PathBuf = scratch.path().join(name);
    std::fs::create_dir(&data).with_context(|| format!("can't make {}", data.display()))?;
    let compiler = this_program()
        .context("can't find the program's own executable, which compiles plugins")?;
    let cache = Some(host::cache_dir(&config.data.dir)).filter(|cache| cache.is_dir());
    let cache = cache.unwrap_or_else(|| host::cache_dir(scratch.path()));
    Ok(TrialFiles { data, cache, compiler })
}

/// The signals that end a command. Each would end the process and leave its temporary files, which
/// can be copies of state.
#[cfg(unix)]
pub(super) struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// `None` if the parent process ignores it, as `nohup` does: the command goes on then.
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Interrupts {
    /// Takes the signals from now on, within a runtime. Call it before the first temporary file.
    pub(super) fn take() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    /// Returns when one of them has come.
    pub(super) async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether this process has begun with SIGHUP ignored.
#[cfg(unix)]
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Signal 1 is the first bit.
    ignored.is_some_and(|mask| mask & 1 == 1)
}

#[cfg(not(unix))]
pub(super) struct Interrupts;

#[cfg(not(unix))]
impl Interrupts {
    pub(super) fn take() -> std::io::Result<Self> {
        Ok(Self)
    }

    pub(super) async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
