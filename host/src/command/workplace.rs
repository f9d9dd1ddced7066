//! Where commands run plugins without a host: a runtime, temporary files, and an end of both by
//! signals.

use std::path::PathBuf;

use anyhow::Context;
use sockhop::config::Config;
use sockhop::host;
use sockhop::plugin::this_program;
use sockhop::trial::TrialFiles;
use tokio::runtime::{Builder, Runtime};

use super::check::Scratch;
use super::interrupts::Interrupts;

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
