//! `sockhop serve`

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use sockhop::config::{Config, Log, LogFormat};
use sockhop::host::{self, Host};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;

use super::output;

/// Runs the host
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Configuration file; without it `sockhop.toml` is read where there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Directory whose `.wasm` files are loaded
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Directory for what must survive the host: state of the plugins, its key
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut config = super::load(self.config.as_ref())?;
        config.server.listen = self.listen.unwrap_or(config.server.listen);
        config.plugins.dir = absolute(self.plugins.as_deref().unwrap_or(&config.plugins.dir))?;
        config.data.dir = absolute(self.data.as_deref().unwrap_or(&config.data.dir))?;
        log_to_stderr(&config.log)?;
        let runtime = runtime()?;
        // Also a worker, where there is only one.
        host::wake_promptly();
        runtime.block_on(serve(config))?;
        // A handler that is still running when everything else has ended is not waited for.
        runtime.shutdown_background();
        Ok(ExitCode::SUCCESS)
    }
}

/// One worker for each processor. On a single one the scheduler that needs no other threads: it does not hand a task on before those that
/// waited longer, which in the other keeps writers from their sockets (a third less CPU time per event, and a p99 ten times lower).
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match std::thread::available_parallelism().map_or(1, usize::from) {
        1 => {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.event_interval(EVENT_INTERVAL);
            builder
        }
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().thread_name("sockhop").on_thread_start(host::wake_promptly).build()
}

/// Tasks that the only worker runs, while it is busy, before it asks the system for what has come. An event takes three: with tokio's own 61 the
/// system is asked for each twenty events, which is 3 % of what they cost. A handler that is slow without waiting keeps timers and new packets from
/// being noticed for as long as this many tasks take: so not more of them.
const EVENT_INTERVAL: u32 = 128;

async fn serve(config: Config) -> anyhow::Result<()> {
    let (plugins, data) = (config.plugins.dir.clone(), config.data.dir.clone());
    let configured_keys = !config.keys.is_empty();
    output::line(format_args!("plugins  {}", plugins.display()));
    output::line(format_args!("data     {}", data.display()));
    if host::is_empty(&plugins) {
        output::remark("warning: the plugin directory holds no .wasm; put one there");
    }
    let host = Host::bind(config).await?;
    let routes = host.routes();
    for served in &routes.plugins {
        let registration = &served.plugin.registration;
        let events: Vec<_> = served.inbound.keys().map(String::as_str).collect();
        output::line(format_args!("active   {} {}: {}", registration.name, registration.version, events.join(", ")));
    }
    for row in host.rows().iter() {
        if let Some(error) = &row.last_error {
            output::line(format_args!("failed   {}: {}", row.file.display(), error.reason));
        }
    }
    drop(routes);
    let address = host.local_addr();
    if !configured_keys {
        say_key(&host::key_file(&data), address);
    }
    output::line(format_args!("listening on http://{address}"));

    let (stop, at_once) = (CancellationToken::new(), CancellationToken::new());
    let signals = TaskTracker::new().spawn(wait_for_signals(stop.clone(), at_once.clone()));
    host.run(stop, at_once).await;
    signals.abort();
    Ok(())
}

/// Says where the host's own key is and how to use it; the key itself only to a person's eyes.
fn say_key(file: &Path, address: SocketAddr) {
    output::line(format_args!("key      {}", file.display()));
    if std::io::stdout().is_terminal()
        && let Ok(secret) = std::fs::read_to_string(file)
    {
        output::line(format_args!("         {}", secret.trim()));
    }
    output::line(format_args!("try      curl -H \"Authorization: Bearer $(cat '{}')\" http://{address}/api/plugins", file.display()));
}

/// The first signal stops in order, a second at once.
async fn wait_for_signals(stop: CancellationToken, at_once: CancellationToken) {
    signal().await;
    stop.cancel();
    signal().await;
    at_once.cancel();
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("can't tell where {} is", path.display()))
}

/// The log goes to standard error: standard output is for what was asked.
fn log_to_stderr(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.filter)?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}
