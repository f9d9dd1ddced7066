//! From a directory to what is served: scans it, loads what it holds, publishes the result. A file that fails changes nothing for the
//! others, and is shown with its reason.

pub mod scan;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::Config;
use crate::plugin::{self, Engine};
use crate::registry::{FailedFile, Registry, Routes, State};
use crate::store::{Store, StoreLimits};

/// Loads plugins, and decides which serve.
pub struct Loader {
    engine: Arc<Engine>,
    config: Arc<Config>,
    /// Where plugins keep their state: a file for each.
    state_dir: PathBuf,
}

impl Loader {
    /// A loader whose plugins keep their state in `state_dir`.
    pub fn new(engine: Arc<Engine>, config: Arc<Config>, state_dir: PathBuf) -> Self {
        Self { engine, config, state_dir }
    }

    /// Loads every plugin of `dir`, in the order of the files' names, and publishes them together.
    ///
    /// # Errors
    /// Where the directory can't be read; a file in it that fails is no error, but shown.
    pub async fn load_all(&self, dir: &Path, registry: &Registry) -> Result<(), std::io::Error> {
        let mut routes = Routes::after(&registry.snapshot());
        for file in scan::scan(dir)? {
            self.load(&file, &mut routes).await;
        }
        registry.publish(routes);
        Ok(())
    }

    /// Loads one file beside those that `routes` has, or notes there why it does not serve.
    pub async fn load(&self, file: &Path, routes: &mut Routes) {
        let source = match plugin::read(&self.engine, file).await {
            Err(error) => return fail(file, None, None, &error, routes),
            Ok(source) => source,
        };
        let digest = Some(source.digest.clone());
        match plugin::load(&self.engine, source).await {
            Err(error) => fail(file, None, digest, &error, routes),
            Ok(candidate) => {
                let name = candidate.registration.name.clone();
                let policy = self.config.plugins.by_name.get(&name).map(|settings| settings.instance_policy).unwrap_or_default();
                match routes.admit(candidate, policy, &self.config.limits, |name| self.open(name)) {
                    Ok(served) => {
                        let plugin = &served.plugin;
                        tracing::info!(plugin = plugin.name(), version = plugin.registration.version, digest = plugin.digest,
                            file = %file.display(), "plugin active");
                    }
                    Err(error) => fail(file, Some(name), digest, &error, routes),
                }
            }
        }
    }

    fn open(&self, name: &str) -> Result<State, Box<dyn std::error::Error + Send + Sync>> {
        let limits = &self.config.limits;
        std::fs::create_dir_all(&self.state_dir)?;
        let limits = StoreLimits {
            quota: limits.state_bytes.get(),
            key: limits.state_key_bytes.get(),
            value: limits.state_value_bytes.get(),
            scan: limits.host_call_bytes.get(),
        };
        let store = Store::open(&self.state_dir.join(format!("{name}.sqlite")), limits)?;
        Ok(State { store: Arc::new(store), commit: Arc::default() })
    }
}

/// Notes why a file does not serve, and tells the log.
fn fail(file: &Path, name: Option<String>, digest: Option<String>, error: &dyn std::error::Error, routes: &mut Routes) {
    let reason = chain(error);
    tracing::error!(file = %file.display(), plugin = name, digest, reason, "plugin failed");
    routes.failed.push(FailedFile { file: file.to_owned(), name, digest, reason, at: SystemTime::now() });
}

/// An error with all its causes in one line, each once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
