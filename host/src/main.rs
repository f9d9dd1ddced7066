//! The command line. The only place that ends the process, and the only one that knows `anyhow`.

mod command;

use std::process::ExitCode;

use clap::Parser;

use command::{Cli, output};

/// Gives memory back to the system soon after a burst; the system's own allocator keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match command::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}
