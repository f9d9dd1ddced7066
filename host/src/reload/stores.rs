//! Owns the state stores of the loaded plugins: opens each once for all versions of its plugin, and
//! closes it when no version is left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::LiveConfig;
use crate::error_chain::ErrorChain;
use crate::registry::PluginState;
use crate::store::{self, StoreError, StoreLimits};

/// The state of all loaded plugins.
pub(super) struct StateStores {
    config: Arc<LiveConfig>,
    /// The state of each loaded plugin, shared by its versions.
    states: Mutex<HashMap<String, PluginState>>,
}

impl StateStores {
    /// Creates the stores of a host, none of which is open. They are in the data directory of
    /// `config`.
    pub(super) fn new(config: Arc<LiveConfig>) -> Self {
        Self { config, states: Mutex::default() }
    }

    /// Returns the state of the plugin `name`, which its versions share. Opens it if no version of
    /// the plugin is loaded. Blocks on disk I/O.
    ///
    /// # Errors
    /// If the state can't be opened, or was lost.
    pub(super) fn open(
        &self,
        name: &str,
    ) -> Result<PluginState, Box<dyn std::error::Error + Send + Sync>> {
        // A panic under the lock leaves a consistent map, without the new entry.
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = states.get(name) {
            return Ok(state.clone());
        }
        let limits = self.config.get().of_plugin(name).limits;
        let state_dir = self.config.get().data.dir.join("state");
        std::fs::create_dir_all(state_dir)?;
        let limits = StoreLimits::of(&limits);
        let opened = store::open(&self.config.get().data.dir, name, limits);
        let store = opened.map_err(|error| match error {
            StoreError::Lost(fault) => {
                let (kind, reason) = (fault.kind, fault.reason);
                format!(
                    "state was lost: {reason}. If you have a backup, stop the host, restore it and \
                     remove the log beside it. Then, or without \
                     a backup, run `sockhop data accept-loss {name}`: {}",
                    kind.consequence()
                )
                .into()
            }
            error => Box::<dyn std::error::Error + Send + Sync>::from(error),
        })?;
        let state = PluginState {
            store: Arc::new(store),
            numbers: Arc::default(),
            acks: Arc::default(),
            memory: Arc::default(),
        };
        states.insert(name.to_owned(), state.clone());
        Ok(state)
    }

    /// Closes the state of every plugin that has no version left, neither serving nor draining.
    pub(super) fn forget_unused(&self) {
        // References are only handed out under this lock: the state of a plugin without holders
        // can't gain one meanwhile.
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, state) in states.extract_if(|_, state| Arc::strong_count(&state.store) == 1) {
            close(&name, &state);
        }
    }

    /// Releases resources that the state of idle plugins does not need. Call it about once a
    /// second; blocks on disk I/O.
    pub(super) fn tend(&self) {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let stores: Vec<_> = states
            .iter()
            .map(|(name, state)| (name.clone(), Arc::downgrade(&state.store)))
            .collect();
        drop(states);
        for (plugin, store) in stores {
            if let Some(store) = store.upgrade()
                && let Err(error) = store.tend()
            {
                tracing::warn!(
                    plugin,
                    error = %ErrorChain(&error),
                    "the write-ahead log of idle state is not truncated"
                );
            }
        }
    }

    /// Closes all state.
    pub(super) fn close(&self) {
        for (name, state) in self.states.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            close(&name, &state);
        }
    }
}

fn close(plugin: &str, state: &PluginState) {
    if let Err(error) = state.store.close() {
        tracing::warn!(plugin, %error, "state not closed cleanly; it is read again at the next \
                                        start");
    }
}
