//! The interface for operators: shows them the status of plugins, reports its changes, and takes
//! their commands.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::registry::OperatorSettings;

use super::slots::OperatorError;
use super::status::{Absent, PluginStatus, Status};

/// Capacity of the command channel. An operator whose command finds it full waits.
const COMMANDS: usize = 16;

/// What an operator submits to the reload path.
pub(super) enum Submitted {
    Command(SubmittedCommand),
    /// New declarations of the operator; the settings of plugins may have changed too. The channel
    /// tells when they apply.
    Settings(Box<OperatorSettings>, oneshot::Sender<()>),
}

/// A command of an operator, and the channel for its answer.
pub(super) struct SubmittedCommand {
    pub(super) name: String,
    pub(super) command: OperatorCommand,
    pub(super) answer: ResultSender,
}

/// The channel for the answer to a command.
pub(super) type ResultSender = oneshot::Sender<Result<(), OperatorError>>;

/// Results that are known and not sent yet.
pub(super) type CommandResults = Vec<(ResultSender, Result<(), OperatorError>)>;

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

/// Shows operators the status of plugins, and takes their commands.
pub struct Operator {
    status: watch::Sender<Status>,
    commands: mpsc::Sender<Submitted>,
    /// Notified when the directory is to be scanned now.
    scan: Notify,
}

impl Operator {
    /// Creates an interface that shows no plugins yet, and the receiver of its commands.
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<Submitted>) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let (status, scan) = (watch::Sender::default(), Notify::new());
        (Arc::new(Self { status, commands: sender, scan }), commands)
    }

    /// Replaces the status that operators see, then sends `answers`: an operator who gets an answer
    /// sees the effect of the command.
    pub(super) fn publish_status(&self, status: Status, answers: CommandResults) {
        self.status.send_if_modified(|published| {
            let is_changed = *published != status;
            if is_changed {
                *published = status;
            }
            is_changed
        });
        for (answer, result) in answers {
            // The send fails only if the operator no longer waits for the answer.
            let _ = answer.send(result);
        }
    }

    /// Returns a receiver of the status and its changes. A status refers to the live counters and
    /// the live breaker of its plugin: when only these change, the receiver is not notified.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Returns every plugin whose file is gone and of which something is remembered.
    pub fn absent(&self) -> Arc<Vec<Absent>> {
        Arc::clone(&self.status.borrow().absent)
    }

    /// Returns the status of every plugin, and of every file that is no plugin.
    pub fn statuses(&self) -> Arc<Vec<PluginStatus>> {
        Arc::clone(&self.status.borrow().plugins)
    }

    /// Requests a scan of the directory now, and a retry of failures that the environment caused.
    pub fn request_scan(&self) {
        self.scan.notify_one();
    }

    /// Waits until [`request_scan`](Self::request_scan) is called.
    pub(super) async fn scan_requested(&self) {
        self.scan.notified().await;
    }

    /// Replaces what the configuration says of rules, events and plugins. Returns `true` when all
    /// new events run under it, or `false` if the reloader has stopped.
    pub(crate) async fn apply_settings(&self, settings: OperatorSettings) -> bool {
        let (done, is_done) = oneshot::channel();
        let submitted = Submitted::Settings(Box::new(settings), done);
        self.commands.send(submitted).await.is_ok() && is_done.await.is_ok()
    }

    /// Sends the command `command` for the plugin `name`, and waits until it is carried out.
    ///
    /// # Errors
    /// Why it can't be carried out; `OperatorError::Unknown` also if the reloader has stopped.
    pub async fn submit(&self, name: &str, command: OperatorCommand) -> Result<(), OperatorError> {
        let (answer, answered) = oneshot::channel();
        let command = SubmittedCommand { name: name.to_owned(), command, answer };
        let gone = || OperatorError::Unknown(name.to_owned());
        self.commands.send(Submitted::Command(command)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn status(name: &str) -> Status {
        let plugin = PluginStatus::of_file(name.to_owned(), PathBuf::from("a.wasm"), 1);
        Status { plugins: Arc::new(vec![plugin]), absent: Arc::default() }
    }

    #[tokio::test]
    async fn a_reader_of_the_status_is_woken_by_each_change_and_by_nothing_else() {
        let (operator, _commands) = Operator::new();
        let mut reader = operator.subscribe();
        operator.publish_status(Status::default(), CommandResults::new());
        assert!(!reader.has_changed().unwrap());
        let woken = async {
            reader.changed().await.unwrap();
            reader.borrow_and_update().plugins[0].name.clone()
        };
        let publishes = async { operator.publish_status(status("a"), CommandResults::new()) };
        assert_eq!(tokio::join!(woken, publishes).0, "a");
        operator.publish_status(status("a"), CommandResults::new());
        assert!(!reader.has_changed().unwrap(), "the status is the same");
        operator.publish_status(status("b"), CommandResults::new());
        assert!(reader.has_changed().unwrap());
    }

    #[tokio::test]
    async fn an_operator_who_gets_an_answer_sees_the_effect_of_the_command() {
        let (operator, mut commands) = Operator::new();
        let submits = async {
            let result = operator.submit("a", OperatorCommand::Disable).await;
            (result, operator.statuses()[0].name.clone())
        };
        let obeys = async {
            let Some(Submitted::Command(SubmittedCommand { answer, .. })) = commands.recv().await
            else {
                panic!("no command")
            };
            operator.publish_status(status("a"), vec![(answer, Ok(()))]);
        };
        assert_eq!(tokio::join!(submits, obeys).0, (Ok(()), "a".to_owned()));
    }
}
