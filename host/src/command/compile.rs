//! The hidden command with which the host compiles one plugin in a process that has limits.

use std::io::{stderr, stdin, stdout};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use sockhop::plugin::{self, CompileBounds};

/// Compiles a plugin from standard input to standard output; the host runs this itself
#[derive(Debug, Args)]
pub(crate) struct Compile {
    /// Bytes of memory that it may take
    memory: u64,
    /// Milliseconds of CPU time that it may take
    cpu_ms: u64,
    /// How far it yields to other processes
    niceness: i32,
}

impl Compile {
    pub(super) fn run(&self) -> ExitCode {
        let bounds = CompileBounds {
            memory: self.memory,
            cpu: Duration::from_millis(self.cpu_ms),
            niceness: self.niceness,
        };
        let exit: fn(i32) = |status| std::process::exit(status);
        match plugin::compile(bounds, exit, stdin().lock(), stdout().lock(), stderr().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        }
    }
}
