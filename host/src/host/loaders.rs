//! Loaders of plugins: one for a host that serves, and one for commands that check plugins.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::config::LiveConfig;
use crate::metrics::Metrics;
use crate::plugin::{Compiler, Engine};
use crate::reload::Loader;

use super::directories::cache_dir;

/// Returns a loader that keeps the plugins' state and compiled code in the data directory of
/// `config`.
pub fn loader(
    config: &Arc<LiveConfig>,
    compiler: &Path,
    engine: Arc<Engine>,
    alarm: Arc<Notify>,
    metrics: Arc<Metrics>,
) -> Loader {
    let cache = cache_dir(&config.get().data.dir);
    let compiler = Compiler::new(compiler.to_owned(), cache);
    Loader::new(engine, Arc::clone(config), compiler, alarm, metrics)
}

/// Returns a loader for checking plugins: like [`loader`], with compiled code in `cache`. The cache
/// may be that of a host that serves events.
pub fn checking_loader(
    config: &Arc<LiveConfig>,
    compiler: &Path,
    engine: Arc<Engine>,
    cache: PathBuf,
) -> Loader {
    let compiler = Compiler::new(compiler.to_owned(), cache);
    compiler.yield_to_events();
    Loader::new(engine, Arc::clone(config), compiler, Arc::default(), Arc::default())
}
