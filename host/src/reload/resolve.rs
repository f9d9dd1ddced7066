//! Chooses the versions that serve together: for each plugin, the best version that does not
//! conflict with what another plugin serves. Pure: it compares only registrations and schemas.

use std::sync::Arc;

use crate::registry::{ActivePlugin, AdmitError, Generation};

use super::slots::{Digest, Standing};

/// A candidate plugin for a generation: its versions that could serve, the best first.
pub(super) struct Candidates {
    pub(super) name: String,
    pub(super) versions: Vec<Version>,
}

/// A candidate version for a generation.
pub(super) struct Version {
    pub(super) active: Arc<ActivePlugin>,
    /// Whether an operator has disabled it.
    pub(super) is_disabled: bool,
    /// Its precedence against other plugins that claim the same.
    pub(super) standing: Standing,
}

/// The plugin and the version that were refused, and the reason.
pub(super) type Refused = (String, Digest, AdmitError);

/// Returns the generation in which every plugin serves the best of its versions that is compatible
/// with the others. If two conflict, the weaker [`Standing`] loses, whatever the order of the
/// files: a new plugin never displaces a serving one. A plugin keeps claims that it took while
/// another plugin's file was away only if it is settled. Each refusal names the winner.
pub(super) fn resolve_conflicts(
    before: &Generation,
    candidates: &mut [Candidates],
) -> (Generation, Vec<Refused>) {
    let mut refused = Vec::new();
    loop {
        let mut generation = Generation::after(before);
        let mut conflict = None;
        for choice in candidates.iter() {
            if let Some(version) = choice.versions.first()
                && let Err(error) = generation.admit(&version.active, version.is_disabled)
            {
                let is_weaker = |name: &str| {
                    let choice = candidates.iter().find(|choice| choice.name == name);
                    choice
                        .and_then(|choice| choice.versions.first())
                        .is_some_and(|other| other.standing < version.standing)
                };
                conflict = Some(
                    match error.taken_by().filter(|other| is_weaker(other)).map(str::to_owned) {
                        Some(loser) => (loser, error.seen_by_the_other(&choice.name)),
                        None => (choice.name.clone(), error),
                    },
                );
                break;
            }
        }
        let Some((loser, error)) = conflict else { return (generation, refused) };
        match candidates.iter_mut().find(|choice| choice.name == loser) {
            Some(choice) if !choice.versions.is_empty() => {
                let version = choice.versions.remove(0);
                refused.push((loser, version.active.code.digest.clone(), error));
            }
            // The loser has no version left to remove. That can't happen, but must not cause an
            // endless loop.
            _ => return (generation, refused),
        }
    }
}
