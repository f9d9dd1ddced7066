//! How far a version of a plugin is with `$load`, as operators see it.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sockhop_core::load::Progress;

/// How far a version is. The dispatcher's caller sets it; operators and metrics read it.
#[derive(Debug, Default)]
pub struct LoadStatus(Mutex<LoadState>);

/// What is known of a version's `$load`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadState {
    /// What becomes of it.
    pub phase: LoadPhase,
    /// What the handler has replied last.
    pub progress: Progress,
}

/// What becomes of a version's `$load`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LoadPhase {
    /// The plugin is not called now: it is disabled, its breaker is open, or it has just been
    /// loaded.
    #[default]
    Waiting,
    /// The handler is called again and again.
    Running,
    /// The last calls have failed.
    Failed {
        /// Why the last one has.
        error: String,
        /// How many have failed in a row.
        attempts: u32,
        /// When the handler is called again.
        next: SystemTime,
    },
    /// The handler has finished, at this time.
    Finished(SystemTime),
}

impl LoadStatus {
    /// Returns what is known now.
    pub fn get(&self) -> LoadState {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets what becomes of it.
    pub(crate) fn set_phase(&self, phase: LoadPhase) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).phase = phase;
    }

    /// Sets what the handler has replied last.
    pub(crate) fn set_progress(&self, progress: Progress) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).progress = progress;
    }
}
