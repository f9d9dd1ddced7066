//! What the host asks of itself: compiling one plugin, in a process that may take so much and no more.

use std::io::{stderr, stdin, stdout};
use std::process::ExitCode;

use clap::Args;
use sockhop::plugin;

/// Compiles a plugin from standard input to standard output; the host runs this itself
#[derive(Debug, Args)]
pub(crate) struct Compile {
    /// Bytes of memory that it may take
    memory: u64,
    /// Seconds that it may run on each processor
    seconds: u64,
}

impl Compile {
    pub(super) fn run(&self) -> ExitCode {
        match plugin::compile(self.memory, self.seconds, stdin().lock(), stdout().lock(), stderr().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        }
    }
}
