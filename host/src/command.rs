//! The command line: its commands, and how they find the configuration.

mod call;
mod check;
mod client;
mod compile;
mod data;
mod deliveries;
mod deploy;
mod drain;
mod emit;
mod interrupts;
pub(crate) mod output;
mod plugins;
mod reload;
mod rows;
mod serve;
mod state;
mod test;
mod timers;
mod token;
mod workplace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sockhop::config::Config;
use sockhop::plugin::COMPILE_COMMAND;

/// A Socket.IO server whose events are handled by WebAssembly plugins.
#[derive(Debug, Parser)]
#[command(name = "sockhop", version, about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the host: loads the plugins of a directory and serves their events
    Serve(serve::Serve),
    /// Loads plugins as the host would and says what they register or why they are refused; or
    /// checks a configuration
    Check(check::Check),
    /// Lets a plugin handle one event, and prints the answer and the effects
    Call(call::Call),
    /// Tests plugins by scenarios: virtual clients, and what must come of what they send
    Test(test::Test),
    /// Emits an event through a running host, as `POST /api/emit` does
    Emit(emit::Emit),
    /// Shows and manages the plugins of a running host
    Plugins(plugins::Plugins),
    /// Shows the timers of a plugin, and retries or drops dead timers
    Timers(timers::Timers),
    /// Shows the deliveries of a plugin, and retries or drops dead deliveries
    Deliveries(deliveries::Deliveries),
    /// Checks a plugin, puts it into the plugin directory in one step, and waits until it serves
    Deploy(deploy::Deploy),
    /// Stops a running host, and closes the connections of its clients over a longer time
    Drain(drain::Drain),
    /// Makes a running host read its configuration again
    Reload(reload::Reload),
    /// Creates a token for experiments, or says why the host accepts or refuses a token
    Token(token::Token),
    /// Reads, exports and imports the stored state of a plugin
    State(state::State),
    /// Checks the state of plugins, and accepts the loss of state
    Data(data::Data),
    #[command(name = COMPILE_COMMAND, hide = true)]
    Compile(compile::Compile),
}

/// Runs the command.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
        Command::Call(call) => call.run(),
        Command::Test(test) => test.run(),
        Command::Emit(emit) => emit.run(),
        Command::Plugins(plugins) => plugins.run(),
        Command::Timers(timers) => timers.run(),
        Command::Deliveries(deliveries) => deliveries.run(),
        Command::Deploy(deploy) => deploy.run(),
        Command::Drain(drain) => drain.run(),
        Command::Reload(reload) => reload.run(),
        Command::Token(token) => token.run(),
        Command::State(state) => state.run(),
        Command::Data(data) => data.run(),
        Command::Compile(compile) => Ok(compile.run()),
    }
}

/// The configuration file that is read if none is named and this one exists.
const DEFAULT_FILE: &str = "sockhop.toml";

/// Returns the named file, else the default file if it exists.
fn config_file(file: Option<&PathBuf>) -> Option<PathBuf> {
    let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.is_file());
    file.cloned().or_else(default)
}

/// Reads the configuration file, if there is one, and the environment.
fn load(file: Option<&PathBuf>) -> anyhow::Result<Config> {
    Ok(Config::load(config_file(file).as_deref())?)
}
