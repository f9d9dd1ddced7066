//! Loads a file: the result is a version that could serve, or the reason why not.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::config::LiveConfig;
use crate::error_chain::ErrorChain;
use crate::metrics::Metrics;
use crate::plugin::{self, Compiler, Engine, Retry, Source};
use crate::registry::ActivePlugin;

use super::slots::{Digest, LastError};
use super::stores::StateStores;

/// Loads plugins, and holds the state stores that they use.
pub struct Loader {
    engine: Arc<Engine>,
    config: Arc<LiveConfig>,
    compiler: Compiler,
    stores: StateStores,
    /// Notified when the breaker of a plugin opens.
    alarm: Arc<Notify>,
    metrics: Arc<Metrics>,
}

/// Why a file does not serve.
#[derive(Debug, Clone)]
pub struct LoadFailure {
    /// The registered name, if the load got that far.
    pub name: Option<String>,
    /// The digest of its content, if it could be read.
    pub digest: Option<Digest>,
    /// The full reason.
    pub reason: String,
    /// When another attempt may succeed.
    pub retry: Retry,
}

impl LoadFailure {
    /// Whether its content is invalid: then another attempt is useless.
    pub fn is_invalid_content(&self) -> bool {
        self.retry == Retry::Never
    }

    /// Returns the failure as operators see it, with the current time.
    pub fn as_last_error(&self) -> LastError {
        let is_retried = !self.is_invalid_content();
        LastError {
            digest: self.digest.clone(),
            reason: self.reason.clone(),
            at: SystemTime::now(),
            is_retried,
        }
    }
}

impl Loader {
    /// Creates a loader. `compiler` compiles its plugins, which keep their state in the data
    /// directory of `config`.
    pub fn new(
        engine: Arc<Engine>,
        config: Arc<LiveConfig>,
        compiler: Compiler,
        alarm: Arc<Notify>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let stores = StateStores::new(Arc::clone(&config));
        Self { engine, config, compiler, stores, alarm, metrics }
    }

    /// Reads a file that is expected to hold the plugin `name`, whose limits apply until the plugin
    /// has registered. Blocks on disk I/O.
    ///
    /// # Errors
    /// If the file can't be read, or is larger than the limit `plugin_file_bytes`.
    pub fn read(&self, file: &Path, name: &str) -> Result<Source, LoadFailure> {
        let failed = |error: plugin::LoadError| LoadFailure {
            name: None,
            digest: None,
            reason: ErrorChain(&error).to_string(),
            retry: error.retry(),
        };
        plugin::read(file, self.config.get().of_plugin(name).limits.plugin_file_bytes.get())
            .map_err(failed)
    }

    /// Compiles `source` under the limits of the plugin `name`, runs its registration, and makes it
    /// ready to serve.
    ///
    /// # Errors
    /// If the plugin can't be compiled, fails to register, breaks a rule for declarations, or its
    /// state can't be opened.
    pub async fn load(&self, source: Source, name: &str) -> Result<Arc<ActivePlugin>, LoadFailure> {
        let config = self.config.get();
        let limits = Arc::new(config.of_plugin(name).limits);
        let digest = Some(source.digest.clone());
        let failed = |name: Option<&str>, error: &dyn std::error::Error, retry| LoadFailure {
            name: name.map(str::to_owned),
            digest: digest.clone(),
            reason: ErrorChain(error).to_string(),
            retry,
        };
        let candidate = plugin::load(&self.engine, &self.compiler, source, &limits, &config).await;
        let candidate = candidate.map_err(|error| failed(None, &error, error.retry()))?;
        let name = candidate.registration.name.clone();
        // Not those in force now: the plugin has registered with these.
        let settings = config.of_plugin(&name);
        let state = self
            .stores
            .open(&name)
            .map_err(|error| failed(Some(&name), error.as_ref(), Retry::Soon))?;
        ActivePlugin::new(candidate, &settings, state, Arc::clone(&self.alarm), &self.metrics)
            .map_err(|error| failed(Some(&name), &error, Retry::Never))
    }

    /// Whether `active` has to register again to run under the settings in force.
    pub(super) fn is_outdated(&self, active: &ActivePlugin) -> bool {
        active.is_outdated(&self.config.get().of_plugin(active.code.name()))
    }

    /// Returns `active` as it runs under the settings in force.
    pub(super) fn under_settings(&self, active: &Arc<ActivePlugin>) -> Arc<ActivePlugin> {
        active.under(&self.config.get().of_plugin(active.code.name()))
    }

    /// Closes the state of every plugin that has no version left, neither serving nor draining.
    pub(super) fn forget_unused(&self) {
        self.stores.forget_unused();
    }

    /// Releases resources that the state of idle plugins does not need. Call it about once a
    /// second; blocks on disk I/O.
    pub fn tend(&self) {
        self.stores.tend();
    }

    /// Closes all state.
    pub fn close(&self) {
        self.stores.close();
    }

    /// Lets compilations that start from now on yield to events, because plugins now serve.
    pub(super) fn yield_to_events(&self) {
        self.compiler.yield_to_events();
    }

    /// Deletes the cached compiled code of all other versions.
    pub(super) fn keep_only(&self, digests: &HashSet<Digest>) {
        self.compiler.keep_only(&self.engine, digests);
    }
}
