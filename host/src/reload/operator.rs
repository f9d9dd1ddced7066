//! What operators see of plugins, and what they say.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::registry::{Routes, Served};

use super::draining::Draining;
use super::files::{Files, Outcome};
use super::slots::{Digest, LastError, OperatorError, PluginState, Signs, Slot, Slots};
use super::stem;

/// Words of operators that may wait for their turn.
const COMMANDS: usize = 16;

/// An operator's word, and where the answer goes.
pub(super) struct Command {
    pub(super) name: String,
    pub(super) word: Word,
    pub(super) answer: oneshot::Sender<Result<(), OperatorError>>,
}

/// An operator whose word has been taken, and waits to see it followed.
pub(super) struct Waiting {
    pub(super) name: String,
    /// The version that is to serve, where the word is about one.
    pub(super) target: Option<Digest>,
    /// What the slot was before the word.
    pub(super) before: Option<Slot>,
    pub(super) answer: oneshot::Sender<Result<(), OperatorError>>,
}

/// What an operator can say of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Go back to the version before, or to the one whose digest begins so.
    RollBack(Option<String>),
    /// Answer its events `unavailable`.
    Disable,
    /// Serve it again, and take its breaker for closed.
    Enable,
    /// Forget what was decided of a plugin whose file is gone.
    Forget,
}

/// What operators see and say.
pub struct Operator {
    rows: ArcSwap<Vec<Row>>,
    absent: ArcSwap<Vec<Absent>>,
    commands: mpsc::Sender<Command>,
    /// Told when the directory is to be looked at now.
    look: Notify,
}

/// A plugin whose file is gone, and of which something is remembered.
#[derive(Debug, Clone)]
pub struct Absent {
    /// The plugin's name.
    pub name: String,
    /// What is remembered.
    pub slot: Slot,
    /// When it is forgotten.
    pub until: Option<SystemTime>,
}

/// One plugin, or one file that is none.
#[derive(Clone)]
pub struct Row {
    /// The plugin's name; the file's, without its extension, where it never came to say one.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// What is known of its versions.
    pub slot: Option<Slot>,
    /// The version that serves.
    pub served: Option<Arc<Served>>,
    /// The generation that is served.
    pub generation: u64,
    /// What failed last.
    pub last_error: Option<LastError>,
    pub(super) is_loading: bool,
    /// Versions whose last events run.
    pub draining: usize,
}

impl Row {
    /// One of which nothing is known but its name and its file.
    fn plain(name: String, file: PathBuf, generation: u64) -> Self {
        Self { name, file, slot: None, served: None, generation, last_error: None, is_loading: false, draining: 0 }
    }

    /// What is shown of a plugin whose file is gone.
    pub fn without_file(absent: &Absent) -> Self {
        let last_error = absent.slot.last_error.clone();
        Self { last_error, ..Self::plain(absent.name.clone(), absent.slot.file.clone(), 0) }
    }

    /// The plugin's state now.
    pub fn state(&self) -> PluginState {
        let signs = Signs {
            is_served: self.served.is_some(),
            is_open: self.served.as_ref().is_some_and(|served| served.health.is_open()),
            is_loading: self.is_loading,
            is_draining: self.draining > 0,
        };
        PluginState::of(self.slot.as_ref(), signs)
    }

    /// Why it does not serve, or what failed last. A plugin that is quarantined, or has failed, always has a reason.
    pub fn error(&self) -> Option<LastError> {
        match (self.state(), &self.served) {
            (PluginState::Quarantined, Some(served)) => {
                let (failure, at) = served.health.last_failure().unwrap_or(("unknown".to_owned(), served.plugin.loaded_at));
                let reason = format!("failed too often, and is tried again soon (or now: `enable`); its last failure: {failure}");
                Some(LastError { digest: Some(served.plugin.digest.clone()), reason, at, is_retried: true })
            }
            (PluginState::Failed, _) => Some(self.last_error.clone().unwrap_or_else(|| LastError {
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
    /// One who sees nothing yet, and where his words arrive.
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<Command>) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        (Arc::new(Self { rows: ArcSwap::default(), absent: ArcSwap::default(), commands: sender, look: Notify::new() }), commands)
    }

    /// Shows what there is now.
    pub(super) fn show(&self, rows: Vec<Row>, absent: Vec<Absent>) {
        self.rows.store(Arc::new(rows));
        self.absent.store(Arc::new(absent));
    }

    /// Has the directory looked at now, and what failed for its surroundings tried again.
    pub fn look_again(&self) {
        self.look.notify_one();
    }

    /// Waits until [`look_again`](Self::look_again) is called.
    pub(super) async fn look_asked(&self) {
        self.look.notified().await;
    }

    /// Every plugin whose file is gone.
    pub fn absent(&self) -> Arc<Vec<Absent>> {
        self.absent.load_full()
    }

    /// Every plugin, and every file that is none.
    pub fn rows(&self) -> Arc<Vec<Row>> {
        self.rows.load_full()
    }

    /// Says `word` of the plugin `name`, and waits until it has been followed.
    ///
    /// # Errors
    /// Why it is not followed.
    pub async fn say(&self, name: &str, word: Word) -> Result<(), OperatorError> {
        let (answer, answered) = oneshot::channel();
        let command = Command { name: name.to_owned(), word, answer };
        let gone = || OperatorError::Unknown(name.to_owned());
        self.commands.send(command).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// The plugins whose file is gone, each forgotten `after` that time.
pub(super) fn absent(slots: &Slots, after: Duration) -> Vec<Absent> {
    let until = |slot: &Slot| slot.absent_since.and_then(|since| since.checked_add(after));
    slots.absent().map(|(name, slot)| Absent { name: name.to_owned(), slot: slot.clone(), until: until(slot) }).collect()
}

/// What operators see: one row for each slot, for each file that has none, and for what is left of a slot that is gone.
pub(super) fn rows(routes: &Routes, slots: &Slots, files: &Files, draining: &Draining) -> Vec<Row> {
    let generation = routes.generation;
    let is_loading = |path: &PathBuf| files.iter().any(|(file, seen)| file == path && seen.is_loading);
    let of_slots = slots.present().map(|(name, slot)| Row {
        name: name.to_owned(),
        file: slot.file.clone(),
        slot: Some(slot.clone()),
        served: routes.plugins.iter().find(|served| served.plugin.name() == name).cloned(),
        generation,
        last_error: slot.last_error.clone(),
        is_loading: is_loading(&slot.file),
        draining: draining.count(name),
    });
    let plain = |name: String, file: PathBuf| Row::plain(name, file, generation);
    let of_files = files.iter().filter(|(path, _)| slots.of_file(path).is_none()).map(|(path, seen)| match &seen.outcome {
        // Without a conflict it has not claimed its slot yet.
        Some(Outcome::Plugin { name, .. }) => {
            Row { last_error: seen.conflict.clone(), is_loading: seen.conflict.is_none(), ..plain(name.clone(), path.to_owned()) }
        }
        Some(Outcome::Failed { failure, error, .. }) => Row {
            last_error: Some(error.clone()),
            is_loading: seen.is_loading,
            ..plain(failure.name.clone().unwrap_or_else(|| stem(path)), path.to_owned())
        },
        None => Row { is_loading: true, ..plain(stem(path), path.to_owned()) },
    });
    let mut rows: Vec<Row> = of_slots.chain(of_files).collect();
    for (name, file) in draining.plugins() {
        if !rows.iter().any(|row| row.name == name) {
            rows.push(Row { draining: draining.count(name), ..plain(name.to_owned(), file.clone()) });
        }
    }
    rows
}
