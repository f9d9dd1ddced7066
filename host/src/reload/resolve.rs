//! Chooses the versions that serve together: for each plugin, the best version that does not
//! conflict with what another plugin serves. Pure: it compares only registrations and schemas.

use std::sync::Arc;

use crate::registry::{ActivePlugin, AdmitError, Generation, OperatorSettings};

use super::slots::{Digest, Reservation, Standing};

/// A candidate plugin for a generation: its versions that could serve, the best first.
pub(super) struct Candidates {
    pub(super) name: String,
    pub(super) versions: Vec<CandidateVersion>,
}

/// A candidate version for a generation.
pub(super) struct CandidateVersion {
    pub(super) active: Arc<ActivePlugin>,
    /// Whether an operator has disabled it.
    pub(super) is_disabled: bool,
    /// Its precedence against other plugins that claim the same.
    pub(super) standing: Standing,
}

/// What is reserved for a plugin of which no version can serve.
pub(super) struct Reserved {
    pub(super) name: String,
    pub(super) reservation: Reservation,
    /// Its precedence against other plugins that claim the same.
    pub(super) standing: Standing,
}

/// A version that conflicts with another plugin.
pub(super) struct Refused {
    pub(super) name: String,
    pub(super) digest: Digest,
    pub(super) error: AdmitError,
}

/// Returns the generation in which every plugin serves the best of its versions that is compatible
/// with the others. If two conflict, the weaker [`Standing`] loses, whatever the order of the
/// files: a new plugin never displaces a serving one. A plugin keeps claims that it took while
/// another plugin's file was away only if it is settled. What is `reserved` for a plugin that can't
/// serve counts like a claim, but displaces no serving version. Each refusal names the winner.
pub(super) fn resolve_conflicts(
    before: &Generation,
    mut candidates: Vec<Candidates>,
    reserved: &[Reserved],
    operator: &Arc<OperatorSettings>,
) -> (Generation, Vec<Refused>) {
    let mut refused = Vec::new();
    loop {
        let mut generation = Generation::after(before).with_operator(Arc::clone(operator));
        let conflict = claim_of_reserved(before, &candidates, reserved)
            .or_else(|| admit_best(&mut generation, &candidates));
        let Some((loser, error)) = conflict else { return (generation, refused) };
        match candidates.iter_mut().find(|plugin| plugin.name == loser) {
            Some(plugin) if !plugin.versions.is_empty() => {
                let digest = plugin.versions.remove(0).active.code.digest.clone();
                refused.push(Refused { name: loser, digest, error });
            }
            // The loser has no version left to remove. That can't happen, but must not cause an
            // endless loop.
            _ => return (generation, refused),
        }
    }
}

/// Returns the name of the first plugin whose best version claims what is reserved for another
/// plugin, and the conflict.
fn claim_of_reserved(
    before: &Generation,
    candidates: &[Candidates],
    reserved: &[Reserved],
) -> Option<(String, AdmitError)> {
    candidates.iter().find_map(|plugin| {
        let version = plugin.versions.first().filter(|best| !before.serves(&best.active))?;
        let registration = &version.active.code.registration;
        let mut stronger = reserved.iter().filter(|owner| version.standing < owner.standing);
        let error =
            stronger.find_map(|owner| owner.reservation.check(&owner.name, registration).err())?;
        Some((plugin.name.clone(), error))
    })
}

/// Admits the best version of each plugin, up to the first conflict. Returns the name of the plugin
/// that loses this conflict, and the conflict as that plugin sees it.
fn admit_best(
    generation: &mut Generation,
    candidates: &[Candidates],
) -> Option<(String, AdmitError)> {
    for plugin in candidates {
        let Some(version) = plugin.versions.first() else { continue };
        let Err(error) = generation.admit(&version.active, version.is_disabled) else { continue };
        let is_weaker = |name: &str| {
            let other = candidates.iter().find(|other| other.name == name);
            other
                .and_then(|other| other.versions.first())
                .is_some_and(|other| other.standing < version.standing)
        };
        return Some(match error.taken_by().filter(|other| is_weaker(other)).map(str::to_owned) {
            Some(loser) => (loser, error.seen_by_the_other(&plugin.name)),
            None => (plugin.name.clone(), error),
        });
    }
    None
}
