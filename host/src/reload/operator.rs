//! The interface for operators: shows them the state of plugins, and takes their commands, which
//! `commands` carries out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::registry::{ActivePlugin, Generation};

use super::Reloader;
use super::draining::Draining;
use super::files::{Files, Outcome};
use super::slots::{Conditions, LastError, OperatorError, Slot, SlotState, Slots};
use super::stem;

/// Capacity of the command channel.
const COMMANDS: usize = 16;

/// A command of an operator, and the channel for its answer.
pub(super) struct SubmittedCommand {
    pub(super) name: String,
    pub(super) command: OperatorCommand,
    pub(super) answer: oneshot::Sender<Result<(), OperatorError>>,
}

/// A command of an operator for one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorCommand {
    /// Roll back to the previous version, or to the version whose digest begins with this prefix.
    RollBack(Option<String>),
    /// Answer its events with `unavailable`.
    Disable,
    /// Serve it again, and close its breaker.
    Enable,
    /// Forget what is remembered of a plugin whose file is gone.
    Forget,
}

/// Shows operators the state of plugins, and takes their commands.
pub struct Operator {
    rows: ArcSwap<Vec<PluginStatus>>,
    absent: ArcSwap<Vec<Absent>>,
    commands: mpsc::Sender<SubmittedCommand>,
    /// Notified when the directory is to be scanned now.
    scan: Notify,
}

/// A plugin whose file is gone and of which something is remembered.
#[derive(Debug, Clone)]
pub struct Absent {
    /// The plugin's name.
    pub name: String,
    /// What is remembered.
    pub slot: Slot,
    /// When it is forgotten; `None` if that is never.
    pub until: Option<SystemTime>,
}

/// The state of one plugin, or of one file that is no plugin.
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
    /// Number of replaced or removed versions that still run events.
    pub draining: usize,
}

impl PluginStatus {
    /// Creates a row of which only the name and the file are known.
    fn plain(name: String, file: PathBuf, generation: u64) -> Self {
        Self {
            name,
            file,
            slot: None,
            active: None,
            generation,
            last_error: None,
            is_loading: false,
            draining: 0,
        }
    }

    /// Returns the row of a plugin whose file is gone.
    pub fn without_file(absent: &Absent) -> Self {
        let last_error = absent.slot.last_error.clone();
        Self { last_error, ..Self::plain(absent.name.clone(), absent.slot.file.clone(), 0) }
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
                    "failed too often, and is retried soon (at once with `enable`); its last failure: {failure}"
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

impl Operator {
    /// Creates an interface that shows nothing yet, and the receiver of its commands.
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<SubmittedCommand>) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        (
            Arc::new(Self {
                rows: ArcSwap::default(),
                absent: ArcSwap::default(),
                commands: sender,
                scan: Notify::new(),
            }),
            commands,
        )
    }

    /// Replaces the state that operators see.
    fn publish_status(&self, rows: Vec<PluginStatus>, absent: Vec<Absent>) {
        self.rows.store(Arc::new(rows));
        self.absent.store(Arc::new(absent));
    }

    /// Requests a scan of the directory now, and a retry of failures that the surroundings caused.
    pub fn request_scan(&self) {
        self.scan.notify_one();
    }

    /// Waits until [`request_scan`](Self::request_scan) is called.
    pub(super) async fn scan_requested(&self) {
        self.scan.notified().await;
    }

    /// Returns every plugin whose file is gone and of which something is remembered.
    pub fn absent(&self) -> Arc<Vec<Absent>> {
        self.absent.load_full()
    }

    /// Returns a row for every plugin, and for every file that is no plugin.
    pub fn rows(&self) -> Arc<Vec<PluginStatus>> {
        self.rows.load_full()
    }

    /// Sends the command `command` for the plugin `name`, and waits until it is carried out.
    ///
    /// # Errors
    /// Why it can't be carried out; [`OperatorError::Unknown`] also if the reloader has stopped.
    pub async fn submit(&self, name: &str, command: OperatorCommand) -> Result<(), OperatorError> {
        let (answer, answered) = oneshot::channel();
        let command = SubmittedCommand { name: name.to_owned(), command, answer };
        let gone = || OperatorError::Unknown(name.to_owned());
        self.commands.send(command).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Reloader {
    /// Publishes the current state for operators.
    pub(super) fn publish_status(&self) {
        let mut rows = rows(&self.registry.snapshot(), &self.slots, &self.files, &self.draining);
        for row in &mut rows {
            row.is_loading |= self.loads.is_loading_kept(&row.name);
            if let (None, Some(active)) = (&row.last_error, &row.active) {
                row.last_error = self.not_remembered(active);
            }
        }
        self.operator.publish_status(rows, absent(&self.slots, self.forget_after));
    }

    /// Returns why the next start would not serve this version, or `None` if it would. The causes
    /// are a full disk, or a data directory that can't be written.
    fn not_remembered(&self, active: &ActivePlugin) -> Option<LastError> {
        let digest = &active.code.digest;
        let (reason, at) = match &self.unsaved {
            Some((error, since)) => (
                format!("serves, but this can't be saved for the next start of the host: {error}"),
                *since,
            ),
            None if self.versions.file(digest).exists() => return None,
            None => (
                "serves, but its file can't be kept for the next start and for rollbacks"
                    .to_owned(),
                active.code.loaded_at,
            ),
        };
        let reason = format!("{reason}; make the data directory writable");
        Some(LastError { digest: Some(digest.clone()), reason, at, is_retried: false })
    }
}

/// Returns the plugins whose file is gone. Each is forgotten when it has been absent for `after`.
fn absent(slots: &Slots, after: Duration) -> Vec<Absent> {
    let until = |slot: &Slot| slot.absent_since.and_then(|since| since.checked_add(after));
    slots
        .absent()
        .map(|(name, slot)| Absent {
            name: name.to_owned(),
            slot: slot.clone(),
            until: until(slot),
        })
        .collect()
}

/// Returns what operators see: one row for each slot with a file, for each file without a slot, and
/// for each removed plugin that still runs events.
fn rows(
    generation: &Generation,
    slots: &Slots,
    files: &Files,
    draining: &Draining,
) -> Vec<PluginStatus> {
    let number = generation.number;
    let is_loading =
        |path: &PathBuf| files.iter().any(|(file, seen)| file == path && seen.is_loading);
    let of_slots = slots.present().map(|(name, slot)| PluginStatus {
        name: name.to_owned(),
        file: slot.file.clone(),
        slot: Some(slot.clone()),
        active: generation.plugins.iter().find(|active| active.code.name() == name).cloned(),
        generation: number,
        last_error: slot.last_error.clone(),
        is_loading: is_loading(&slot.file),
        draining: draining.count(name),
    });
    let plain = |name: String, file: PathBuf| PluginStatus::plain(name, file, number);
    let of_files =
        files.iter().filter(|(path, _)| slots.of_file(path).is_none()).map(|(path, seen)| {
            match &seen.outcome {
                // Without a conflict, the file has not claimed its slot yet.
                Some(Outcome::Plugin { name, .. }) => PluginStatus {
                    last_error: seen.conflict.clone(),
                    is_loading: seen.conflict.is_none(),
                    ..plain(name.clone(), path.to_owned())
                },
                Some(Outcome::Failed { failure, error, .. }) => PluginStatus {
                    last_error: Some(error.clone()),
                    is_loading: seen.is_loading,
                    ..plain(failure.name.clone().unwrap_or_else(|| stem(path)), path.to_owned())
                },
                None => PluginStatus { is_loading: true, ..plain(stem(path), path.to_owned()) },
            }
        });
    let mut rows: Vec<PluginStatus> = of_slots.chain(of_files).collect();
    for (name, file) in draining.plugins() {
        if !rows.iter().any(|row| row.name == name) {
            rows.push(PluginStatus {
                draining: draining.count(name),
                ..plain(name.to_owned(), file.clone())
            });
        }
    }
    rows
}
