//! Applies a changed configuration to a running host: all of it or nothing. First, each part of the
//! host prepares for it, which may fail. Then all parts take it, which can't.

use std::error::Error;
use std::sync::Arc;

use std::path::Path;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Change, Config, ConfigError, ConfigSource, LiveConfig, WrittenSettings};
use crate::error_chain::ErrorChain;
use crate::log;
use crate::registry::OperatorSettings;
use crate::reload::Operator;

/// Makes a part of the host ready to take a configuration: reads the files that it names.
pub(crate) type Prepare = Box<dyn Fn(&Config) -> Result<Take, Failure> + Send + Sync>;

/// Makes a part of the host take the configuration for which it is prepared.
pub(crate) type Take = Box<dyn FnOnce() + Send>;

/// Logs what in a configuration has no effect, or is not safe. Gets the configuration file too.
pub(crate) type Warn = Box<dyn Fn(&Config, Option<&Path>) + Send + Sync>;

/// Why a part can't take a configuration.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The settings of a running host.
pub(crate) struct Settings {
    /// `None` if the configuration was given by a program.
    source: Option<ConfigSource>,
    config: Arc<LiveConfig>,
    parts: Vec<Prepare>,
    operator: Arc<Operator>,
    warn: Warn,
    tasks: TaskTracker,
    /// Cancelled when the host begins to stop. Then rules and plugins stay as they are.
    stopping: CancellationToken,
    /// The settings in force as they were written. Locked by the reload in progress.
    written: Mutex<WrittenSettings>,
}

/// Why nothing was applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// There is nothing to read again.
    #[error("this host runs inside another program, which gave it its configuration")]
    NoSource,
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The changes can't be applied to this host.
    #[error("{0}")]
    Refused(String),
    /// The host stops.
    #[error("the host stops, and keeps its configuration")]
    Stopping,
}

impl Settings {
    pub(crate) fn new(
        source: Option<ConfigSource>,
        written: WrittenSettings,
        config: Arc<LiveConfig>,
        parts: Vec<Prepare>,
        operator: Arc<Operator>,
        warn: Warn,
        (tasks, stopping): (TaskTracker, CancellationToken),
    ) -> Arc<Self> {
        let written = Mutex::new(written);
        Arc::new(Self { source, config, parts, operator, warn, tasks, stopping, written })
    }

    /// Reads the configuration again, and the files that it names, and applies it. Returns what has
    /// changed in the configuration. When this returns, new events follow the new rules, and
    /// plugins run with their new settings.
    ///
    /// # Errors
    /// Nothing has changed then, unless the host stops.
    pub(crate) async fn reload(self: &Arc<Self>) -> Result<Vec<Change>, ReloadError> {
        let settings = Arc::clone(self);
        // In a task of its own: a caller that hangs up must not end a reload in the middle.
        let reload = self.tasks.spawn(async move {
            let result = settings.read_and_apply().await;
            log_reload(&result);
            result
        });
        reload.await.unwrap_or(Err(ReloadError::Stopping))
    }

    async fn read_and_apply(self: &Arc<Self>) -> Result<Vec<Change>, ReloadError> {
        let mut written = self.written.lock().await;
        let settings = Arc::clone(self);
        // Reads files.
        let prepared = tokio::task::spawn_blocking(move || settings.prepare());
        let (after, parts, rules) = prepared.await.unwrap_or(Err(ReloadError::Stopping))?;
        if self.stopping.is_cancelled() {
            return Err(ReloadError::Stopping);
        }
        parts.into_iter().for_each(|take| take());
        if !self.operator.apply_settings(rules).await {
            return Err(ReloadError::Stopping);
        }
        let changes = written.changes(&after);
        written.apply(after, &changes);
        let file = self.source.as_ref().and_then(|source| source.file.as_deref());
        (self.warn)(&self.config.get(), file);
        Ok(changes)
    }

    /// Reads the configuration, and prepares all parts of the host for it.
    fn prepare(&self) -> Result<(WrittenSettings, Vec<Take>, OperatorSettings), ReloadError> {
        let source = self.source.as_ref().ok_or(ReloadError::NoSource)?;
        let (config, written) = source.load()?;
        let applied = self.applied(&config)?;
        let refused = |error: Failure| ReloadError::Refused(ErrorChain(&*error).to_string());
        let parts = self.parts.iter().map(|prepare| prepare(&applied)).collect::<Result<_, _>>();
        let mut parts: Vec<Take> = parts.map_err(refused)?;
        let rules = OperatorSettings::load(&applied).map_err(|error| refused(error.into()))?;
        let live = Arc::clone(&self.config);
        parts.push(Box::new(move || {
            log::set_filter(&applied.log.filter);
            live.replace(Arc::new(applied));
        }));
        Ok((written, parts, rules))
    }

    /// Returns what a reload would change if the configuration file had the content `text`. Reads
    /// no file.
    ///
    /// # Errors
    /// The reload would be refused.
    pub(crate) async fn preview(&self, text: &str) -> Result<Vec<Change>, ReloadError> {
        let source = self.source.as_ref().ok_or(ReloadError::NoSource)?;
        let (config, after) = source.parse(text)?;
        self.applied(&config)?;
        Ok(self.written.lock().await.changes(&after))
    }

    fn applied(&self, config: &Config) -> Result<Config, ReloadError> {
        config.applied_to(&self.config.get()).map_err(ReloadError::Refused)
    }
}

fn log_reload(result: &Result<Vec<Change>, ReloadError>) {
    let keys = |changes: &[Change], needs_restart: bool| {
        let keys = changes.iter().filter(|change| change.needs_restart == needs_restart);
        keys.map(|change| change.key.as_str()).collect::<Vec<_>>().join(" ")
    };
    match result {
        Ok(changes) => {
            tracing::info!(changed = keys(changes, false), "configuration reloaded");
            let needs_restart = keys(changes, true);
            if !needs_restart.is_empty() {
                tracing::warn!(needs_restart, "some settings change only with a restart");
            }
        }
        Err(error @ ReloadError::Stopping) => {
            tracing::warn!(%error, "configuration not reloaded");
        }
        Err(error) => {
            tracing::error!(error = %ErrorChain(error), "configuration not reloaded: nothing has \
                                                         changed");
        }
    }
}
