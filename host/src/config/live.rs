//! The configuration in force, which a reload replaces while the host runs.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Config;

/// The configuration in force.
#[derive(Debug, Default)]
pub struct LiveConfig(ArcSwap<Config>);

impl LiveConfig {
    /// Begins with `config`.
    pub fn new(config: Arc<Config>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(config)))
    }

    /// Returns the configuration in force. Takes no lock; do not keep it while you wait.
    pub fn get(&self) -> impl Deref<Target = Arc<Config>> {
        self.0.load()
    }

    /// Replaces the configuration. Returns the one before.
    pub(crate) fn replace(&self, config: Arc<Config>) -> Arc<Config> {
        self.0.swap(config)
    }
}
