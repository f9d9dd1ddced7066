//! `sockhop check`: checks plugins and configurations without a running host.

mod state;

use std::fs::DirBuilder;
#[cfg(unix)]
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use sockhop::auth::Authenticator;
use sockhop::config::{Config, LiveConfig};
use sockhop::contract::PluginContract;
use sockhop::host;
use sockhop::log;
use sockhop::outbound;
use sockhop::plugin::{Engine, this_program};
use sockhop::registry::{ActivePlugin, Generation, OperatorSettings, Warning, lint};
use sockhop::rule::RoomRule;
use sockhop::tls;
use sockhop_core::arguments::Arguments;
use sockhop_core::declarations::DeclaredSchedule;
use sockhop_core::route::Route;

use super::client::{ReachArgs, RequestBody};
use super::interrupts::{INTERRUPTED, Interrupts};
use super::output;
use super::reload::print_changes;
use state::{Source, StateReport};

/// Checks plugins or a configuration; exit status 0 if all are accepted, else 1
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Check {
    /// Plugins to load, under the limits of the configuration
    #[arg(value_name = "FILE.wasm", required_unless_present = "config")]
    files: Vec<PathBuf>,
    /// Configuration to check, and to check the plugins with
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Also shows what a running host would change if this were its configuration file, and which
    /// settings need a restart; the host is found by the options below, else by this configuration
    #[arg(long, requires = "config")]
    against_running: bool,
    /// Also runs the plugins on a copy of the state in this data directory, of a running or a
    /// stopped host, and reports what they can't read; nothing is sent to anyone
    #[arg(long, value_name = "DIR", requires = "files")]
    state: Option<PathBuf>,
    /// How many seconds the calls of one plugin on the copy of its state may take in all
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "state")]
    timeout: u64,
    /// Prints one JSON document instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: ReachArgs,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (config, certificate) = match super::load(self.config.as_ref()).and_then(readable) {
            Ok(checked) => checked,
            Err(error) if self.json => {
                output::json(
                    &json!({"ok": false, "config": {"ok": false, "reason": format!("{error:#}")}, "plugins": []}),
                );
                return Ok(ExitCode::FAILURE);
            }
            Err(error) => return Err(error),
        };
        let changes = self.changes(&config)?;
        // The log shows what a plugin prints or logs while it registers, such as the message of its
        // panic: its author needs it. What the host itself would log is in the result.
        let log = log::start_for_command()?;
        let source = self.state.as_deref().map(Source::find).transpose()?.map(Arc::new);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let entered = runtime.enter();
        let mut interrupts = Interrupts::take()?;
        drop(entered);
        let scratch = Scratch::new()?;
        let found = runtime.block_on(async {
            tokio::select! {
                found = self.check_all(&config, &scratch, source.as_ref()) => Some(found),
                () = interrupts.next() => None,
            }
        });
        log.finish(FLUSH);
        let Some(found) = found else {
            // The directories for temporary files are removed, and a copy is not waited for.
            runtime.shutdown_background();
            return Ok(ExitCode::from(INTERRUPTED));
        };
        let (checked, states) = found?;
        let mut tables = match &self.config {
            Some(_) => tables_without_plugin(&config, &checked),
            None => Vec::new(),
        };
        tables.extend(certificate);
        if self.json {
            let mut document = document(&checked, states.as_deref());
            if let (Some(file), Some(members)) = (&self.config, document.as_object_mut()) {
                let mut config =
                    json!({"ok": true, "file": file.to_string_lossy(), "warnings": tables});
                if let (Some(config), Some(changes)) = (config.as_object_mut(), changes) {
                    let changes = changes.get("changes").cloned().unwrap_or_default();
                    config.insert("changes".to_owned(), changes);
                }
                members.insert("config".to_owned(), config);
            }
            output::json(&document);
        } else {
            self.print(&checked, states.as_deref(), &tables, changes.as_ref());
        }
        Ok(if all_ok(&checked, states.as_deref()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Loads the plugins, and then runs each that is accepted on a copy of its state, if that is
    /// asked for. The reports are in the order of the plugins.
    async fn check_all(
        &self,
        config: &Config,
        scratch: &Scratch,
        source: Option<&Arc<Source>>,
    ) -> anyhow::Result<(Vec<Checked>, Option<Vec<StateReport>>)> {
        let checked = check(config.clone(), &self.files, scratch, None).await?;
        let Some(source) = source else { return Ok((checked, None)) };
        let mut states = Vec::new();
        for (file, result) in &checked {
            states.push(match result {
                Ok(active) => {
                    let (name, cache) = (active.code.name(), host::cache_dir(&scratch.0));
                    let timeout = Duration::from_secs(self.timeout);
                    state::try_state(config.clone(), file, name, source, cache, timeout).await
                }
                Err(_) => StateReport::None,
            });
        }
        Ok((checked, Some(states)))
    }

    /// Asks the running host what would change, if that is asked for.
    fn changes(&self, config: &Config) -> anyhow::Result<Option<Value>> {
        let Some(file) = self.config.as_ref().filter(|_| self.against_running) else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("can't read {}", file.display()))?;
        let body = Some(RequestBody::Text(&text));
        self.host.ask(config, "/api/reload/preview", body)?.success().map(Some)
    }

    fn print(
        &self,
        checked: &[Checked],
        states: Option<&[StateReport]>,
        tables: &[String],
        changes: Option<&Value>,
    ) {
        if let Some(config) = &self.config {
            output::line(format_args!("{}: ok", config.display()));
            for warning in tables {
                output::line(format_args!("  warning: {warning}"));
            }
            if let Some(changes) = changes {
                print_changes(changes, "with a reload");
            }
        }
        let warnings = warnings(checked);
        for (number, (file, result)) in checked.iter().enumerate() {
            match result {
                Ok(active) => {
                    print_plugin(file, active);
                    let state = states.and_then(|states| states.get(number));
                    if let (Some(state), Some(dir)) = (state, &self.state) {
                        state.print(dir);
                    }
                    for warning in warnings_of(active, &warnings) {
                        output::line(format_args!("  warning: {warning}"));
                    }
                }
                Err(reason) => output::line(format_args!("{}: refused: {reason}", file.display())),
            }
        }
    }
}

/// Returns a warning for each table `[plugins.NAME]` that is for none of the checked plugins, and
/// for no file of the plugin directory by its name: a misspelt name has no effect.
fn tables_without_plugin(config: &Config, checked: &[Checked]) -> Vec<String> {
    let in_directory = host::plugin_files(&config.plugins.dir);
    let files = checked.iter().map(|(file, _)| file).chain(&in_directory);
    let stems = files.filter_map(|file| file.file_stem()?.to_str());
    let plugins = checked.iter().filter_map(|(_, result)| result.as_ref().ok());
    let names: Vec<_> = plugins.map(|active| active.code.name()).chain(stems).collect();
    let tables = config.tables_without_plugin(&names);
    tables
        .into_iter()
        .map(|(table, nearest)| {
            let hint = nearest.map(|name| format!("; did you mean `{name}`?"));
            format!("[plugins.{table}] names no plugin{}", hint.unwrap_or_default())
        })
        .collect()
}

fn print_plugin(file: &Path, active: &ActivePlugin) {
    let contract = PluginContract::from(&active.code.registration);
    output::line(format_args!("{}: ok: {} {}", file.display(), contract.name, contract.version));
    for inbound in &contract.inbound {
        let (event, access) = (&inbound.event, &inbound.access);
        let lists = match (inbound.arguments, inbound.reply_arguments) {
            (Arguments::One, Arguments::One) => "",
            (Arguments::List, Arguments::One) => ", a list of arguments",
            (Arguments::One, Arguments::List) => ", a list of arguments in the ack",
            (Arguments::List, Arguments::List) => ", a list of arguments, also in the ack",
        };
        output::line(format_args!("  handles  {event} (access: {access}{lists})"));
    }
    for outbound in &contract.outbound {
        let targets = outbound.targets();
        let to = if targets.is_empty() { "the sender".to_owned() } else { targets.join(", ") };
        let list = if outbound.arguments.are_list() { "; a list of arguments" } else { "" };
        output::line(format_args!("  emits    {} (to: {to}{list})", outbound.event));
    }
    for room in &contract.rooms {
        output::line(format_args!("  room     {} (access: {})", room.pattern, room.access));
    }
    for route in &contract.routes {
        output::line(format_args!("  route    {route} (event: {})", route.event));
    }
    for event in &contract.listens {
        output::line(format_args!("  listens  {event}"));
    }
    for ack in &contract.acks {
        output::line(format_args!("  ack      {ack}"));
    }
    for timer in &contract.timers {
        output::line(format_args!("  timer    {timer}"));
    }
    for DeclaredSchedule { timer, cron, zone } in &contract.schedules {
        output::line(format_args!("  every    {timer} ({cron}, {zone})"));
    }
}

/// The warnings about the accepted plugins, which would serve together.
fn warnings(checked: &[Checked]) -> Vec<Warning> {
    let serving: Vec<_> =
        checked.iter().filter_map(|(_, result)| result.as_ref().ok().cloned()).collect();
    lint(&serving)
}

fn warnings_of(active: &ActivePlugin, warnings: &[Warning]) -> impl Iterator<Item = String> {
    warnings.iter().filter(|warning| warning.plugin == active.code.name()).map(ToString::to_string)
}

/// A file, with what it registers or why it is refused.
type Checked = (PathBuf, Result<Arc<ActivePlugin>, String>);

/// Checks that the files of secrets, keys and certificates can be read, as a host does at its
/// start. Returns a warning about the certificate, if there is one.
fn readable(config: Config) -> anyhow::Result<(Config, Option<String>)> {
    config.read_secrets()?;
    Authenticator::load(&config.auth)?;
    OperatorSettings::load(&config)?;
    outbound::check(&config)?;
    let certificate = config.server.tls.as_ref().map(tls::check).transpose()?.flatten();
    Ok((config, certificate))
}

/// The longest time that the end of the command waits for a reader of the log.
const FLUSH: Duration = Duration::from_secs(5);

/// Loads `files` together, as a host loads a directory. Their state is stored in `scratch`, which
/// must outlive the result. Compiled code is stored in `cache`, else in `scratch`.
pub(super) async fn check(
    mut config: Config,
    files: &[PathBuf],
    scratch: &Scratch,
    cache: Option<PathBuf>,
) -> anyhow::Result<Vec<Checked>> {
    let mut checked = Vec::new();
    if files.is_empty() {
        return Ok(checked);
    }
    let engine = Arc::new(Engine::new(config.largest_instance_memory(), 1)?);
    config.data.dir.clone_from(&scratch.0);
    let compiler = this_program()
        .context("can't find the program's own executable, which compiles plugins")?;
    let cache = cache.unwrap_or_else(|| host::cache_dir(&scratch.0));
    let loader =
        host::checking_loader(&LiveConfig::new(Arc::new(config)), &compiler, engine, cache);
    let mut generation = Generation::default();
    for file in files {
        let name =
            file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let loaded = match loader.read(file, &name) {
            Ok(source) => loader.load(source, &name).await,
            Err(failure) => Err(failure),
        };
        let result = match loaded {
            Ok(active) => {
                generation.admit(&active, false).map(|()| active).map_err(|error| error.to_string())
            }
            Err(failure) => Err(failure.reason),
        };
        checked.push((file.clone(), result));
    }
    Ok(checked)
}

/// Whether all plugins are accepted, and nothing of their states speaks against them.
fn all_ok(checked: &[Checked], states: Option<&[StateReport]>) -> bool {
    checked.iter().all(|(_, result)| result.is_ok())
        && states.into_iter().flatten().all(StateReport::is_ok)
}

/// A temporary directory, removed when dropped. A plugin writes its state when it is dropped, so
/// drop all plugins first. Only its owner can use it: it can hold copies of state.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes an empty directory in the system's directory for temporary files.
    pub(super) fn new() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("sockhop-check-{}", ulid::Ulid::new()));
        let mut new = DirBuilder::new();
        #[cfg(unix)]
        new.mode(0o700);
        new.create(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn document(checked: &[Checked], states: Option<&[StateReport]>) -> Value {
    let warnings = warnings(checked);
    let row = |(file, result): &Checked| match result {
        Err(reason) => json!({"file": file.to_string_lossy(), "ok": false, "reason": reason}),
        Ok(active) => {
            let contract = PluginContract::from(&active.code.registration);
            let room = |rule: &RoomRule| json!({"room": rule.pattern.as_str(), "access": rule.access.to_string()});
            let schedule = |schedule: &DeclaredSchedule| json!({"timer": schedule.timer, "cron": schedule.cron, "time_zone": schedule.zone});
            let route = |route: &Route| json!({"method": route.method.name(), "path": route.path.as_str(), "event": route.event});
            json!({"file": file.to_string_lossy(), "ok": true, "name": contract.name, "version": contract.version, "digest": active.code.digest,
                "handles": contract.inbound.iter().map(|inbound| &inbound.event).collect::<Vec<_>>(),
                "emits": contract.outbound.iter().map(|outbound| &outbound.event).collect::<Vec<_>>(),
                "rooms": contract.rooms.iter().map(room).collect::<Vec<_>>(), "listens": contract.listens,
                "routes": contract.routes.iter().map(route).collect::<Vec<_>>(),
                "acks": contract.acks, "timers": contract.timers, "schedules": contract.schedules.iter().map(schedule).collect::<Vec<_>>(),
                "warnings": warnings_of(active, &warnings).collect::<Vec<_>>()})
        }
    };
    let with_state = |(number, checked): (usize, &Checked)| {
        let mut row = row(checked);
        if let (Some(members), Some(states)) = (row.as_object_mut(), states) {
            let state = states.get(number).map(StateReport::document);
            members.insert("state".to_owned(), state.unwrap_or_default());
        }
        row
    };
    json!({"ok": all_ok(checked, states),
        "plugins": checked.iter().enumerate().map(with_state).collect::<Vec<_>>()})
}
