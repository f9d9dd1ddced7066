//! Which versions go together: of every plugin the best that does not claim what another serves. Pure but for the plugins' own schemas.

use std::sync::Arc;

use crate::registry::{AdmitError, Routes, Served};

use super::slots::{Digest, Standing};

/// A plugin on its way into a generation: its versions that could serve, the best first.
pub(super) struct Choice {
    pub(super) name: String,
    pub(super) versions: Vec<Version>,
}

/// A version of a plugin on its way into a generation.
pub(super) struct Version {
    pub(super) served: Arc<Served>,
    /// Whether an operator has disabled it.
    pub(super) is_disabled: bool,
    /// How it stands against what another plugin claims.
    pub(super) standing: Standing,
}

/// What a version was refused for.
pub(super) type Refused = (String, Digest, AdmitError);

/// The generation in which every plugin serves the best of its versions that goes with the others. If two don't go together, the one that
/// is new loses, whatever the order of the files: a newcomer never pushes an incumbent out, and what it took while another's file was away it
/// keeps only when it is settled. Each
/// refusal names the winner.
pub(super) fn settle(before: &Routes, choices: &mut [Choice]) -> (Routes, Vec<Refused>) {
    let mut refused = Vec::new();
    loop {
        let mut routes = Routes::after(before);
        let mut conflict = None;
        for choice in choices.iter() {
            if let Some(version) = choice.versions.first()
                && let Err(error) = routes.admit(&version.served, version.is_disabled)
            {
                let is_weaker = |name: &str| {
                    let choice = choices.iter().find(|choice| choice.name == name);
                    choice.and_then(|choice| choice.versions.first()).is_some_and(|other| other.standing < version.standing)
                };
                conflict = Some(match error.taken_by().filter(|other| is_weaker(other)).map(str::to_owned) {
                    Some(loser) => (loser, error.seen_by_the_other(&choice.name)),
                    None => (choice.name.clone(), error),
                });
                break;
            }
        }
        let Some((loser, error)) = conflict else { return (routes, refused) };
        match choices.iter_mut().find(|choice| choice.name == loser) {
            Some(choice) if !choice.versions.is_empty() => {
                let version = choice.versions.remove(0);
                refused.push((loser, version.served.plugin.digest.clone(), error));
            }
            // Whoever is in the way is nobody that could step back: an impossible case that must not go in circles.
            _ => return (routes, refused),
        }
    }
}
