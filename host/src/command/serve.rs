//! `sockhop serve`: starts the host and its runtime, and stops it on signals.

mod signals;
mod systemd;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use sockhop::config::{Config, ConfigSource, Listen, LogConfig, LogFormat, WrittenSettings};
use sockhop::host::{self, Host};
use sockhop::log;
use sockhop::reload::PluginStatus;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::output::Background;
use signals::Signals;

/// Runs the host
#[derive(Debug, Args)]
#[command(after_help = signals::HELP)]
pub(crate) struct Serve {
    /// Configuration file; without it `sockhop.toml` is read, if it exists
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on: an IP address or a name with a port; `:4000` is all addresses, port 0
    /// takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<Listen>,
    /// Directory whose `.wasm` files are loaded
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Directory for persistent data: the state of the plugins, and the host's own key
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let source = self.source()?;
        let file = source.file();
        let loaded = source.load().map_err(anyhow::Error::from).and_then(with_absolute_paths);
        let settings = match &loaded {
            Ok((config, _)) => config.log.clone(),
            Err(_) => {
                LogConfig { format: Config::log_format(file.as_deref()), ..Default::default() }
            }
        };
        let log = log::start(&settings)?;
        let served = loaded.and_then(|loaded| {
            log_start(&loaded.0, file.as_deref());
            host::warn_of_open_secrets(&loaded.0, file.as_deref());
            serve(loaded, source)
        });
        let code = match (served, settings.format) {
            (Ok(()), _) => Ok(ExitCode::SUCCESS),
            // Text: printed like the error of any other command. JSON: a record of the log.
            (Err(error), LogFormat::Text) => Err(error),
            (Err(error), LogFormat::Json) => {
                tracing::error!(error = format!("{error:#}"), "the host can't start");
                Ok(ExitCode::FAILURE)
            }
        };
        log.finish(FLUSH);
        code
    }

    /// Returns where the configuration is read, at the start and again later.
    fn source(&self) -> anyhow::Result<ConfigSource> {
        let path = |path: &Option<PathBuf>| path.as_deref().map(absolute).transpose();
        // A default file that exists at the start is read again even if it is gone then.
        let file = super::config_file(self.config.as_ref());
        Ok(ConfigSource {
            file: path(&file)?,
            default_file: Some(absolute(Path::new(super::DEFAULT_FILE))?),
            listen: self.listen.clone(),
            plugins: path(&self.plugins)?,
            data: path(&self.data)?,
        })
    }
}

/// A configuration, and its settings as they are written.
type LoadedConfig = (Config, WrittenSettings);

fn with_absolute_paths((mut config, written): LoadedConfig) -> anyhow::Result<LoadedConfig> {
    config.plugins.dir = absolute(&config.plugins.dir)?;
    config.data.dir = absolute(&config.data.dir)?;
    Ok((config, written))
}

/// The longest time that the end of the host waits for a reader of its log.
const FLUSH: Duration = Duration::from_millis(500);

/// Writes the first record of the log: the version, the directories, the limits that are asked for
/// most often, and all limits that are not the defaults.
fn log_start(config: &Config, file: Option<&Path>) {
    let limits = &config.limits;
    let changed_limits = Some(config.changed_limits()).filter(|changed| !changed.is_empty());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        commit = env!("SOCKHOP_COMMIT"),
        config = file.and_then(|file| absolute(file).ok()).map_or_else(|| "none".to_owned(), |file| file.display().to_string()),
        plugins_dir = %config.plugins.dir.display(),
        data_dir = %config.data.dir.display(),
        listen = %config.server.listen,
        connections = limits.connections,
        message_bytes = limits.message_bytes,
        event_cpu_ms = limits.event_cpu_ms.as_millis(),
        event_wall_ms = limits.event_wall_ms.as_millis(),
        instance_memory_bytes = limits.instance_memory_bytes,
        plugin_memory_bytes = limits.plugin_memory_bytes,
        state_bytes = limits.state_bytes,
        log_queue_bytes = config.log.queue_bytes,
        changed_limits,
        "starting"
    );
}

fn serve(loaded: LoadedConfig, source: ConfigSource) -> anyhow::Result<()> {
    let runtime = runtime()?;
    // This thread is the worker of the current-thread runtime.
    host::shorten_time_slice();
    let output = Background::start()?;
    let result = runtime.block_on(async {
        // The handlers are registered before the host is visible to others: from now on, no signal
        // ends the process in the middle of work.
        let taken = StopSignals::take().and_then(|stopping| Ok((stopping, Signals::take()?)));
        let (mut stopping, others) = taken.context("can't register the signal handlers")?;
        let host = tokio::select! {
            started = start(loaded, source, &output) => started?,
            () = stopping.next() => {
                tracing::info!("stopped before the host had started");
                return Ok(());
            }
        };
        output.close();
        run(host, stopping, others).await;
        Ok(())
    });
    // Does not wait for a handler that still runs when everything else has ended.
    runtime.shutdown_background();
    output.finish();
    result
}

/// Builds the runtime, with one worker for each processor.
///
/// On a single processor it is tokio's current-thread runtime: a third less CPU time per event, and
/// a p99 ten times lower. That runtime never runs a task before tasks that have waited longer. The
/// multi-thread runtime does, and so delays the tasks that write to sockets.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match std::thread::available_parallelism().map_or(1, usize::from) {
        1 => {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.event_interval(EVENT_INTERVAL);
            builder
        }
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder
        .enable_all()
        .thread_name("sockhop")
        .thread_keep_alive(KEEP_ALIVE)
        .on_thread_start(host::shorten_time_slice)
        .build()
}

/// How long an idle thread of the blocking pool, which waits for the disk, is kept. It is less than
/// a second, because the host checks idle state once a second, on these threads in turn. With
/// tokio's default of 10 s, the threads that a burst has started would never end.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// Tasks that the only worker runs, while it is busy, before it polls the system for I/O and
/// timers. An event takes three tasks: with tokio's default of 61, the system is polled every
/// twenty events, which is 3 % of their cost. The number is not larger, because slow handlers that
/// never wait delay timers and new packets for the duration of this many tasks.
const EVENT_INTERVAL: u32 = 128;

/// Starts the host, and prints what it serves and how to use it. With a JSON log, which may share
/// its destination with the standard output, prints only the address, as a JSON object.
async fn start(
    loaded: LoadedConfig,
    source: ConfigSource,
    output: &Background,
) -> anyhow::Result<Host> {
    let config = &loaded.0;
    let (plugins, data) = (config.plugins.dir.clone(), config.data.dir.clone());
    let (scheme, operators_scheme) = (config.scheme(), config.operators_scheme());
    let (configured_keys, is_text) =
        (!config.keys.is_empty(), config.log.format == LogFormat::Text);
    let (reserved_connections, mailboxes_bytes) =
        (config.limits.reserved_connections, config.limits.mailboxes_bytes);
    if is_text {
        output.line(format_args!("plugins  {}", plugins.display()));
        output.line(format_args!("data     {}", data.display()));
    }
    if host::is_empty(&plugins) {
        tracing::warn!(dir = %plugins.display(), "the plugin directory holds no .wasm; put one \
                                        there");
    }
    let host = Host::bind_reloadable(loaded, source, None).await?;
    let (address, of_operators) = (host.local_addr(), host.operator_addr());
    if is_text {
        host.statuses().iter().for_each(|status| print_plugin(output, status));
        if !configured_keys {
            let url = format!("{operators_scheme}://{of_operators}");
            print_key(output, &host::key_file(&data), &url);
        }
        if of_operators != address {
            output.line(format_args!("admin    {operators_scheme}://{of_operators}"));
        }
        output.line(format_args!("listening on {scheme}://{address}"));
    } else {
        let listening = format!("{scheme}://{address}");
        output.line(if of_operators == address {
            json!({"listening": listening})
        } else {
            json!({"listening": listening, "admin": format!("{operators_scheme}://{of_operators}")})
        });
    }
    tracing::info!(listen = %address, admin = %of_operators, connections = host.connections(), reserved_connections, mailboxes_bytes, "listening");
    Ok(host)
}

/// Serves until a signal stops the host.
async fn run(host: Host, stopping: StopSignals, others: Signals) {
    let (stop, at_once) = (CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    let signals = [
        tasks.spawn(wait_for_signals(stopping, stop.clone(), at_once.clone())),
        tasks.spawn(others.follow(host.monitor())),
        tasks.spawn(systemd::watchdog()),
        tasks.spawn({
            let (stop, monitor) = (stop.clone(), host.monitor());
            async move { systemd::stopping(monitor.stopping(&stop).await) }
        }),
    ];
    systemd::ready(host.connections().get());
    host.run(stop, at_once).await;
    signals.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Prints the state of a plugin at the start.
fn print_plugin(output: &Background, status: &PluginStatus) {
    let state = status.state().name();
    match &status.active {
        Some(active) => {
            let registration = &active.code.registration;
            let events: Vec<_> = active.inbound.keys().map(String::as_str).collect();
            output.line(format_args!(
                "{state:<8} {} {}: {}",
                registration.name,
                registration.version,
                events.join(", ")
            ));
            if let Some(error) = status.error() {
                output.line(format_args!("error    {}: {}", status.file.display(), error.reason));
            }
        }
        None => {
            let reason = status.error().map(|error| error.reason).unwrap_or_default();
            output.line(format_args!("{state:<8} {}: {reason}", status.file.display()));
        }
    }
}

/// Prints where the host's own key is and how to use it. The key itself is printed to a terminal
/// only.
fn print_key(output: &Background, file: &Path, url: &str) {
    output.line(format_args!("key      {}", file.display()));
    if std::io::stdout().is_terminal()
        && let Ok(secret) = std::fs::read_to_string(file)
    {
        output.line(format_args!("         {}", secret.trim()));
    }
    output.line(format_args!(
        "try      curl -H \"Authorization: Bearer $(cat '{}')\" {url}/api/plugins",
        file.display()
    ));
}

/// Waits for the signals that stop the host: the first stops it in order, the second at once.
async fn wait_for_signals(
    mut stopping: StopSignals,
    stop: CancellationToken,
    at_once: CancellationToken,
) {
    stopping.next().await;
    stop.cancel();
    stopping.next().await;
    at_once.cancel();
}

/// The signals that stop the host.
#[cfg(unix)]
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl StopSignals {
    fn take() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct StopSignals;

#[cfg(not(unix))]
impl StopSignals {
    fn take() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path)
        .with_context(|| format!("can't make {} an absolute path", path.display()))
}
