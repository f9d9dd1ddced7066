//! What operators see of plugins, and what they say.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::registry::Served;

use super::slots::{LastError, OperatorError, PluginState, Signs, Slot};

/// Words of operators that may wait for their turn.
const COMMANDS: usize = 16;

/// An operator's word, and where the answer goes.
pub(super) struct Command {
    pub(super) name: String,
    pub(super) word: Word,
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
}

/// What operators see and say.
pub struct Operator {
    rows: ArcSwap<Vec<Row>>,
    commands: mpsc::Sender<Command>,
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
}

impl Operator {
    /// One who sees nothing yet, and where his words arrive.
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<Command>) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        (Arc::new(Self { rows: ArcSwap::default(), commands: sender }), commands)
    }

    /// Shows what there is now.
    pub(super) fn show(&self, rows: Vec<Row>) {
        self.rows.store(Arc::new(rows));
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
