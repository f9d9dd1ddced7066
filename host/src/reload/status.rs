//! The status of plugins, as operators see it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::registry::{ActivePlugin, Generation};

use super::draining::Draining;
use super::files::{Files, KnownFile, LoadOutcome, stem};
use super::inventory::Inventory;
use super::journal::Journal;
use super::slots::{Conditions, LastError, Slot, SlotState, Slots};

/// What operators see at one time.
#[derive(Clone, Default, PartialEq)]
pub struct Status {
    /// Every plugin, and every file that is no plugin.
    pub plugins: Arc<Vec<PluginStatus>>,
    /// Every plugin whose file is gone and of which something is remembered.
    pub absent: Arc<Vec<Absent>>,
}

/// A plugin whose file is gone and of which something is remembered.
#[derive(Debug, Clone, PartialEq)]
pub struct Absent {
    /// The plugin's name.
    pub name: String,
    /// What is remembered.
    pub slot: Slot,
    /// When it is forgotten; `None` if that is never.
    pub until: Option<SystemTime>,
}

/// The status of one plugin, or of one file that is no plugin.
#[derive(Clone)]
pub struct PluginStatus {
    /// The plugin's name; if it never registered, the file's name without its extension.
    pub name: String,
    /// The path of the file.
    pub file: PathBuf,
    /// What is known of its versions; `None` if it has no slot, or its file is gone.
    pub slot: Option<Slot>,
    /// The version that serves; `None` if none does.
    pub active: Option<Arc<ActivePlugin>>,
    /// The current generation of the registry; 0 for a plugin whose file is gone.
    pub generation: u64,
    /// The last failure.
    pub last_error: Option<LastError>,
    is_loading: bool,
    /// Whether the breaker was open when this status was published. It is only compared:
    /// [`PluginStatus::state`] asks the breaker.
    was_open: bool,
    /// Number of replaced or removed versions that still run events.
    pub draining: usize,
}

/// Equal if operators see the same, except for counters.
impl PartialEq for PluginStatus {
    fn eq(&self, other: &Self) -> bool {
        let active = |status: &Self| status.active.as_ref().map(Arc::as_ptr);
        self.name == other.name
            && self.file == other.file
            && self.slot == other.slot
            && active(self) == active(other)
            && self.generation == other.generation
            && self.last_error == other.last_error
            && self.is_loading == other.is_loading
            && self.was_open == other.was_open
            && self.draining == other.draining
    }
}

impl PluginStatus {
    /// Creates a status of which only the name and the file are known.
    pub(super) fn of_file(name: String, file: PathBuf, generation: u64) -> Self {
        Self {
            name,
            file,
            slot: None,
            active: None,
            generation,
            last_error: None,
            is_loading: false,
            was_open: false,
            draining: 0,
        }
    }

    /// Returns the status of a plugin whose file is gone.
    pub fn without_file(absent: &Absent) -> Self {
        let last_error = absent.slot.last_error.clone();
        Self { last_error, ..Self::of_file(absent.name.clone(), absent.slot.file.clone(), 0) }
    }

    /// Returns the plugin's current state.
    pub fn state(&self) -> SlotState {
        let conditions = Conditions {
            is_served: self.active.is_some(),
            is_open: self.active.as_ref().is_some_and(|active| active.health.is_open()),
            is_loading: self.is_loading,
            is_draining: self.draining > 0,
        };
        SlotState::of(self.slot.as_ref(), conditions)
    }

    /// Returns why the plugin does not serve, or what failed last. A quarantined or failed plugin
    /// always has a reason.
    pub fn error(&self) -> Option<LastError> {
        match (self.state(), &self.active) {
            (SlotState::Quarantined, Some(active)) => {
                let (failure, at) = active
                    .health
                    .last_failure()
                    .unwrap_or(("unknown".to_owned(), active.code.loaded_at));
                let reason = format!(
                    "failed too often, and is retried soon (at once with `enable`); its last \
                     failure: {failure}"
                );
                Some(LastError {
                    digest: Some(active.code.digest.clone()),
                    reason,
                    at,
                    is_retried: true,
                })
            }
            (SlotState::Failed, _) => Some(self.last_error.clone().unwrap_or_else(|| LastError {
                digest: None,
                reason: "no version of it can be loaded; the host's log says why".to_owned(),
                at: SystemTime::now(),
                is_retried: false,
            })),
            _ => self.last_error.clone(),
        }
    }
}

/// Everything from which the status of plugins follows.
pub(super) struct StatusInputs<'a> {
    /// The generation that serves.
    pub(super) generation: &'a Generation,
    pub(super) slots: &'a Slots,
    pub(super) files: &'a Files,
    pub(super) inventory: &'a Inventory,
    pub(super) draining: &'a Draining,
    pub(super) journal: &'a Journal,
    /// How long a plugin is remembered after its file is gone.
    pub(super) forget_after: Duration,
}

impl StatusInputs<'_> {
    /// Returns the status of all plugins: one for each slot with a file, for each file without a
    /// slot, and for each removed plugin that still runs events.
    pub(super) fn status(&self) -> Status {
        let of_slots = self.slots.present().map(|(name, slot)| self.of_slot(name, slot));
        let without_slot = self.files.iter().filter(|(path, _)| self.slots.of_file(path).is_none());
        let of_files = without_slot.map(|(path, known)| self.of_file(path, known));
        let mut plugins: Vec<PluginStatus> = of_slots.chain(of_files).collect();
        for (name, file) in self.draining.plugins() {
            if !plugins.iter().any(|plugin| plugin.name == name) {
                let draining = self.draining.count(name);
                let plain = self.plain(name.to_owned(), file);
                plugins.push(PluginStatus { draining, ..plain });
            }
        }
        for plugin in &mut plugins {
            plugin.is_loading |= self.inventory.loads.is_loading_kept(&plugin.name);
        }
        Status { plugins: Arc::new(plugins), absent: Arc::new(self.absent()) }
    }

    fn of_slot(&self, name: &str, slot: &Slot) -> PluginStatus {
        let active = self.generation.plugins.iter().find(|active| active.code.name() == name);
        let not_saved = || active.and_then(|active| self.not_saved(active));
        PluginStatus {
            slot: Some(slot.clone()),
            active: active.cloned(),
            last_error: slot.last_error.clone().or_else(not_saved),
            is_loading: self
                .files
                .iter()
                .any(|(path, known)| path == slot.file && known.is_loading),
            was_open: active.is_some_and(|active| active.health.is_open()),
            draining: self.draining.count(name),
            ..self.plain(name.to_owned(), &slot.file)
        }
    }

    fn of_file(&self, path: &Path, known: &KnownFile) -> PluginStatus {
        match &known.outcome {
            // Without a conflict, the file has not claimed its slot yet.
            Some(LoadOutcome::Plugin { name, .. }) => PluginStatus {
                last_error: known.conflict.clone(),
                is_loading: known.conflict.is_none(),
                ..self.plain(name.clone(), path)
            },
            Some(LoadOutcome::Failed { failure, error, .. }) => PluginStatus {
                last_error: Some(error.clone()),
                is_loading: known.is_loading,
                ..self.plain(failure.name.clone().unwrap_or_else(|| stem(path)), path)
            },
            None => PluginStatus { is_loading: true, ..self.plain(stem(path), path) },
        }
    }

    fn plain(&self, name: String, file: &Path) -> PluginStatus {
        PluginStatus::of_file(name, file.to_owned(), self.generation.number)
    }

    /// Returns why the next start would not serve this version, or `None` if it would. The causes
    /// are a full disk, or a data directory that can't be written.
    fn not_saved(&self, active: &ActivePlugin) -> Option<LastError> {
        let digest = &active.code.digest;
        let (reason, at) = match self.journal.failure() {
            Some(failure) => (
                format!(
                    "serves, but this can't be saved for the next start of the host: {}",
                    failure.reason
                ),
                failure.since,
            ),
            None if self.inventory.blobs.contains(digest) => return None,
            None => (
                "serves, but its file can't be kept for the next start and for rollbacks"
                    .to_owned(),
                active.code.loaded_at,
            ),
        };
        let reason = format!("{reason}; make the data directory writable");
        Some(LastError { digest: Some(digest.clone()), reason, at, is_retried: false })
    }

    /// Returns the plugins whose file is gone.
    fn absent(&self) -> Vec<Absent> {
        let until =
            |slot: &Slot| slot.absent_since.and_then(|since| since.checked_add(self.forget_after));
        let absent = self.slots.absent().map(|(name, slot)| Absent {
            name: name.to_owned(),
            slot: slot.clone(),
            until: until(slot),
        });
        absent.collect()
    }
}
