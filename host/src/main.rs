//! The command line. No other part of the host ends the process or uses `anyhow`.

mod command;

use std::process::ExitCode;

use clap::Parser;

use command::{Cli, output};

/// jemalloc returns memory to the system soon after a burst; the system's own allocator keeps it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc reads these settings at its start. Memory that is free for a second is returned, even
/// if the process allocates nothing more. All threads share one arena, because each arena keeps
/// pages that are hardly used. With the default of four arenas for each processor, memory grew by a
/// fifth in a soak test of ten minutes; with one arena, by a hundredth. Threads have their own
/// caches, so they seldom wait for the arena.
#[allow(
    unsafe_code,
    reason = "a symbol that jemalloc looks for under this name: a pointer to text that ends with a \
              zero"
)]
#[cfg(target_os = "linux")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 70] =
    b"narenas:1,background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    match command::run(cli) {
        Ok(code) => output::end(code),
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}
