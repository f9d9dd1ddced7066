//! Carries out the commands of operators: changes the slot at once, and answers when the result of
//! the command is known.

use tokio::sync::oneshot;

use super::Reloader;
use super::loads::LoadJob;
use super::operator::{OperatorCommand, SubmittedCommand};
use super::slots::{Digest, OperatorError, Slot};

/// An accepted command whose answer waits for its result.
pub(super) struct PendingCommand {
    name: String,
    /// The version that is to serve, if the command is a rollback.
    target: Option<Digest>,
    /// The slot before the command.
    before: Option<Slot>,
    answer: oneshot::Sender<Result<(), OperatorError>>,
}

impl Reloader {
    /// Starts to carry out an operator command.
    pub(super) fn apply(&mut self, SubmittedCommand { name, command, answer }: SubmittedCommand) {
        let before = self.slots.get(&name).cloned();
        let followed = match &command {
            OperatorCommand::RollBack(to) => self.slots.roll_back(&name, to.as_deref()).map(Some),
            OperatorCommand::Disable => self.slots.set_disabled(&name, true).map(|()| None),
            OperatorCommand::Enable => self.slots.set_disabled(&name, false).map(|()| None),
            OperatorCommand::Forget => self.slots.forget(&name).map(|()| None),
        };
        let target = match followed {
            Ok(target) => target,
            Err(error) => {
                // The send fails only if the caller no longer waits for the answer.
                let _ = answer.send(Err(error));
                return;
            }
        };
        tracing::debug!(plugin = name, command = ?command, "operator command begins");
        if command == OperatorCommand::Enable
            && let Some(active) =
                self.registry.snapshot().plugins.iter().find(|active| active.code.name() == name)
        {
            active.health.reset();
        }
        if let Some(target) = &target {
            self.lost.remove(target);
        }
        self.waiting.push(PendingCommand { name, target, before, answer });
        self.publish();
    }

    /// Answers operator commands that are complete or have failed. A rollback that has failed is
    /// undone.
    pub(super) fn answer_waiting(&mut self) {
        let generation = self.registry.snapshot();
        let mut undone = false;
        let is_remembered = self.slots == self.saved;
        for PendingCommand { name, target, before, answer } in std::mem::take(&mut self.waiting) {
            let serves = |digest: &Digest| {
                generation.plugins.iter().any(|s| s.code.name() == name && s.code.digest == *digest)
            };
            match target {
                Some(target)
                    if self.loads.is_loading(&LoadJob::Kept(name.clone(), target.clone())) =>
                {
                    self.waiting.push(PendingCommand {
                        name,
                        target: Some(target),
                        before,
                        answer,
                    });
                }
                Some(target) if !serves(&target) => {
                    self.slots.undo_roll_back(&name, &target, before.as_ref());
                    undone = true;
                    let error = self.slots.get(&name).and_then(|slot| slot.last_error.as_ref());
                    let reason = self
                        .lost
                        .get(&target)
                        .map(|failure| failure.reason.clone())
                        .or(error.map(|error| error.reason.clone()));
                    let _ = answer.send(Err(OperatorError::NotServed {
                        name,
                        digest: target,
                        reason: reason.unwrap_or_default(),
                    }));
                }
                // A version that serves from memory must also be on the disk for the next start.
                target
                    if is_remembered
                        && target
                            .as_ref()
                            .is_none_or(|target| self.versions.file(target).exists()) =>
                {
                    let _ = answer.send(Ok(()));
                }
                _ => {
                    let _ = answer.send(Err(OperatorError::NotRemembered));
                }
            }
        }
        if undone {
            self.publish();
        }
    }
}
