//! `sockhop check`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use sockhop::config::Config;
use sockhop::plugin::Engine;
use sockhop::registry::{Routes, Served};
use sockhop::reload::Loader;

use super::output;

/// Checks plugins or a configuration; exit status 0 where all is well, else 1
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Check {
    /// Plugins to load, under the limits of the configuration
    #[arg(value_name = "FILE.wasm", required_unless_present = "config")]
    files: Vec<PathBuf>,
    /// Configuration to check, and to check the plugins with
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints one JSON document instead
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = match super::load(self.config.as_ref()).and_then(readable) {
            Ok(config) => config,
            Err(error) if self.json => {
                output::json(&json!({"ok": false, "config": {"ok": false, "reason": format!("{error:#}")}, "plugins": []}));
                return Ok(ExitCode::FAILURE);
            }
            Err(error) => return Err(error),
        };
        show_what_plugins_say();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let routes = runtime.block_on(load(config, &self.files))?;
        if self.json {
            let mut document = document(&routes);
            if let (Some(file), Some(members)) = (&self.config, document.as_object_mut()) {
                members.insert("config".to_owned(), json!({"ok": true, "file": file}));
            }
            output::json(&document);
        } else {
            self.print(&routes);
        }
        Ok(if routes.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn print(&self, routes: &Routes) {
        if let Some(config) = &self.config {
            output::line(format_args!("{}: ok", config.display()));
        }
        for served in &routes.plugins {
            let registration = &served.plugin.registration;
            output::line(format_args!("{}: ok: {} {}", served.plugin.file.display(), registration.name, registration.version));
            for (event, inbound) in &served.inbound {
                output::line(format_args!("  handles  {event} (access: {})", inbound.access));
            }
            for (event, outbound) in &served.outbound {
                let mut rooms: Vec<_> = outbound.rooms.iter().map(ToString::to_string).collect();
                rooms.extend(outbound.everyone.then(|| "*".to_owned()));
                let rooms = if rooms.is_empty() { "the sender".to_owned() } else { rooms.join(", ") };
                output::line(format_args!("  emits    {event} (to: {rooms})"));
            }
            for (room, access) in &registration.rooms {
                output::line(format_args!("  room     {room} (access: {access})"));
            }
            for event in &registration.listens {
                output::line(format_args!("  listens  {event}"));
            }
        }
        for failed in &routes.failed {
            output::line(format_args!("{}: refused: {}", failed.file.display(), failed.reason));
        }
    }
}

/// Reads what the configuration names and a host would read at its start.
fn readable(config: Config) -> anyhow::Result<Config> {
    config.read_secrets()?;
    Ok(config)
}

/// What a plugin prints or logs while it registers, the message of its panic among it, is what its author needs. What the host itself
/// would log is in the result.
fn show_what_plugins_say() {
    let filter = tracing_subscriber::EnvFilter::new("off,plugin=debug");
    tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
}

/// Loads the files beside each other, as a host would load a directory; what they would store goes to a directory that is thrown away.
async fn load(config: Config, files: &[PathBuf]) -> anyhow::Result<Routes> {
    let mut routes = Routes::default();
    if files.is_empty() {
        return Ok(routes);
    }
    let engine = Arc::new(Engine::new(Arc::new(config.limits.clone()), 1)?);
    let scratch = Scratch::new()?;
    let loader = Loader::new(engine, Arc::new(config), scratch.0.clone());
    for file in files {
        loader.load(file, &mut routes).await;
    }
    Ok(routes)
}

/// A directory that goes with the check.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("sockhop-check-{}", ulid::Ulid::new()));
        std::fs::create_dir(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn document(routes: &Routes) -> Value {
    let row = |served: &Arc<Served>| {
        let registration = &served.plugin.registration;
        json!({"file": served.plugin.file, "ok": true, "name": registration.name, "version": registration.version,
            "digest": served.plugin.digest, "handles": served.inbound.keys().collect::<Vec<_>>(),
            "emits": served.outbound.keys().collect::<Vec<_>>(),
            "rooms": registration.rooms.iter().map(|(room, access)| json!({"room": room.to_string(), "access": access.to_string()})).collect::<Vec<_>>(),
            "listens": registration.listens})
    };
    let failed = |file: &Path, reason: &str| json!({"file": file, "ok": false, "reason": reason});
    let rows: Vec<_> = routes.plugins.iter().map(row).chain(routes.failed.iter().map(|f| failed(&f.file, &f.reason))).collect();
    json!({"ok": routes.failed.is_empty(), "plugins": rows})
}
