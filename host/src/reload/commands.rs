//! The commands of operators: changes the slot at once, and decides the answer when the result of
//! the command is known.

use crate::registry::Generation;

use super::inventory::Inventory;
use super::loads::LoadJob;
use super::operator::{CommandResults, OperatorCommand, ResultSender, SubmittedCommand};
use super::slots::{Digest, OperatorError, Slot, Slots};
use super::versions::Versions;

/// The accepted commands whose answers wait for their results.
#[derive(Default)]
pub(super) struct PendingCommands(Vec<PendingCommand>);

struct PendingCommand {
    name: String,
    /// The version that is to serve, if the command is a rollback.
    target: Option<Digest>,
    /// The slot before the command.
    before: Option<Slot>,
    answer: ResultSender,
}

/// What decides the answers to commands.
pub(super) struct Facts<'a> {
    /// The generation that serves.
    pub(super) generation: &'a Generation,
    pub(super) inventory: &'a Inventory,
    /// Whether the slots are saved for the next start.
    pub(super) is_saved: bool,
}

/// How far a command is carried out.
enum CommandProgress {
    /// Its version is being loaded.
    Loading,
    Done,
    /// Done, and not saved for the next start.
    NotSaved,
    /// Its version can't serve.
    Failed,
}

impl PendingCommands {
    /// Changes the slot as the command says, and lets its answer wait for the result. Returns the
    /// target if the command is a rollback.
    ///
    /// # Errors
    /// Why the command is refused; then nothing has changed.
    pub(super) fn begin(
        &mut self,
        slots: &mut Slots,
        SubmittedCommand { name, command, answer }: SubmittedCommand,
    ) -> Result<Option<Digest>, (ResultSender, OperatorError)> {
        let before = slots.get(&name).cloned();
        let changed = match &command {
            OperatorCommand::RollBack(to) => slots.roll_back(&name, to.as_deref()).map(Some),
            OperatorCommand::Disable => slots.set_disabled(&name, true).map(|()| None),
            OperatorCommand::Enable => slots.set_disabled(&name, false).map(|()| None),
            OperatorCommand::Forget => slots.forget(&name).map(|()| None),
        };
        match changed {
            Ok(target) => {
                tracing::debug!(plugin = name, command = ?command, "operator command begins");
                self.0.push(PendingCommand { name, target: target.clone(), before, answer });
                Ok(target)
            }
            Err(error) => Err((answer, error)),
        }
    }

    /// Whether an operator's rollback of the plugin is neither carried out nor undone yet.
    pub(super) fn is_rolling_back(&self, plugin: &str) -> bool {
        self.0.iter().any(|command| command.name == plugin && command.target.is_some())
    }

    /// Returns the answers to the commands whose result is known. Undoes rollbacks that have
    /// failed; the second value is whether there are any.
    pub(super) fn finish(
        &mut self,
        slots: &mut Slots,
        facts: &Facts<'_>,
    ) -> (CommandResults, bool) {
        let (mut answers, mut is_undone) = (CommandResults::new(), false);
        for command in std::mem::take(&mut self.0) {
            let result = match command.progress(facts) {
                CommandProgress::Loading => {
                    self.0.push(command);
                    continue;
                }
                CommandProgress::Done => Ok(()),
                CommandProgress::NotSaved => Err(OperatorError::NotRemembered),
                CommandProgress::Failed => {
                    is_undone = true;
                    Err(command.undo(slots, &facts.inventory.versions))
                }
            };
            answers.push((command.answer, result));
        }
        (answers, is_undone)
    }
}

impl PendingCommand {
    fn progress(&self, facts: &Facts<'_>) -> CommandProgress {
        let Some(target) = &self.target else {
            return if facts.is_saved { CommandProgress::Done } else { CommandProgress::NotSaved };
        };
        let serves = facts
            .generation
            .plugins
            .iter()
            .any(|active| active.code.name() == self.name && active.code.digest == *target);
        if facts.inventory.loads.is_loading(&LoadJob::Kept(self.name.clone(), target.clone())) {
            CommandProgress::Loading
        } else if !serves {
            CommandProgress::Failed
        } else if facts.is_saved && facts.inventory.blobs.contains(target) {
            CommandProgress::Done
        } else {
            // A version that serves from memory must also be on the disk for the next start.
            CommandProgress::NotSaved
        }
    }

    /// Undoes a rollback that has failed. Returns why it has.
    fn undo(&self, slots: &mut Slots, versions: &Versions) -> OperatorError {
        let digest = self.target.clone().unwrap_or_default();
        slots.undo_roll_back(&self.name, &digest, self.before.as_ref());
        let last_error = slots.get(&self.name).and_then(|slot| slot.last_error.as_ref());
        let reason = versions
            .failure(&digest)
            .map(|failure| &failure.reason)
            .or(last_error.map(|error| &error.reason));
        let reason = reason.cloned().unwrap_or_default();
        OperatorError::NotServed { name: self.name.clone(), digest, reason }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::SystemTime;

    use tokio::sync::oneshot;

    use super::super::slots::Claim;
    use super::*;

    #[test]
    fn a_rollback_is_pending_until_it_is_answered_and_no_other_command_counts() {
        let (mut slots, file) = (Slots::default(), Path::new("a.wasm"));
        for version in ["1", "2"] {
            let now = SystemTime::UNIX_EPOCH;
            slots.claim(&[Claim { file, content: Some(("a", version)) }], false, now);
            slots.record_serving("a", version, now);
        }
        let mut commands = PendingCommands::default();
        let mut begin = |commands: &mut PendingCommands, command| {
            let (answer, _) = oneshot::channel();
            let command = SubmittedCommand { name: "a".to_owned(), command, answer };
            assert!(commands.begin(&mut slots, command).is_ok());
        };
        begin(&mut commands, OperatorCommand::Disable);
        assert!(!commands.is_rolling_back("a"));
        begin(&mut commands, OperatorCommand::RollBack(None));
        assert!(commands.is_rolling_back("a") && !commands.is_rolling_back("b"));
        commands.0.clear();
        assert!(!commands.is_rolling_back("a"));
    }
}
