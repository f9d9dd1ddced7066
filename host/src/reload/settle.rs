//! Which versions go together: of every plugin the best that does not claim what another serves. Pure but for the plugins' own schemas.

use std::sync::Arc;

use crate::registry::{AdmitError, Routes, Served};

use super::slots::Digest;

/// A plugin on its way into a generation: its versions that could serve, the best first.
pub(super) struct Choice {
    pub(super) name: String,
    /// With whether an operator has disabled each.
    pub(super) versions: Vec<(bool, Arc<Served>)>,
}

/// What a version was refused for.
pub(super) type Refused = (String, Digest, AdmitError);

/// The generation in which every plugin serves the best of its versions that goes with the others. Where two don't go together, the one that
/// is new here loses: what serves is never pushed out.
pub(super) fn settle(before: &Routes, choices: &mut [Choice]) -> (Routes, Vec<Refused>) {
    let serves = |served: &Arc<Served>| before.plugins.iter().any(|other| Arc::ptr_eq(other, served));
    let mut refused = Vec::new();
    loop {
        let mut routes = Routes::after(before);
        let mut conflict = None;
        for choice in choices.iter() {
            if let Some((is_disabled, version)) = choice.versions.first()
                && let Err(error) = routes.admit(version, *is_disabled)
            {
                let is_new = |name: &str| {
                    let choice = choices.iter().find(|choice| choice.name == name);
                    choice.and_then(|choice| choice.versions.first()).is_some_and(|(_, version)| !serves(version))
                };
                let loser = match error.taken_by() {
                    Some(other) if serves(version) && is_new(other) => other.to_owned(),
                    _ => choice.name.clone(),
                };
                conflict = Some((loser, error));
                break;
            }
        }
        let Some((loser, error)) = conflict else { return (routes, refused) };
        match choices.iter_mut().find(|choice| choice.name == loser) {
            Some(choice) if !choice.versions.is_empty() => {
                let (_, version) = choice.versions.remove(0);
                refused.push((loser, version.plugin.digest.clone(), error));
            }
            // Whoever is in the way is nobody that could step back: an impossible case that must not go in circles.
            _ => return (routes, refused),
        }
    }
}
