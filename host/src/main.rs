//! The command line. The only place that ends the process, and the only one that knows `anyhow`.

mod command;

use std::process::ExitCode;

use clap::Parser;

use command::{Cli, output};

/// Gives memory back to the system soon after a burst; the system's own allocator keeps it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc reads this as it starts. What is free for a second goes back, also where nobody asks for memory any more. One arena for all threads:
/// each arena keeps pages on which little is in use, so with the default, four for each processor, the memory of a host in a soak grew by a fifth
/// in ten minutes, and with one by a hundredth. Threads have caches of their own, so they seldom meet in the arena.
#[allow(unsafe_code, reason = "a symbol that jemalloc looks for under this name: a pointer to text that ends with a zero")]
#[cfg(target_os = "linux")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 70] = b"narenas:1,background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    match command::run(Cli::parse()) {
        Ok(code) => output::end(code),
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}
