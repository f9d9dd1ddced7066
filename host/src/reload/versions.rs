//! The state of every version that the host knows, by its digest, and which versions of a plugin
//! can serve now.

use std::collections::HashMap;
use std::sync::Arc;

use crate::registry::{ActivePlugin, Generation};

use super::loader::LoadFailure;
use super::slots::Digest;

/// The maximum number of invalid versions that are remembered.
const MAX_INVALID: usize = 64;

/// The versions that the host knows.
#[derive(Default)]
pub(super) struct Versions {
    by_digest: HashMap<Digest, VersionState>,
    /// The number of invalid versions so far, which orders them by age.
    invalid: u64,
}

/// What the host knows of a version.
enum VersionState {
    /// It is loaded, and serves or can be published at once.
    Ready(Arc<ActivePlugin>),
    /// It serves as it was declared under earlier settings. It is loaded once more, and `next` is
    /// the result. `next` replaces it as soon as `next` conflicts with no other plugin.
    Outdated { serving: Arc<ActivePlugin>, next: Option<Arc<ActivePlugin>> },
    /// It is loaded, without instances, and is the version before the one that serves: a rollback
    /// to it needs neither disk nor compiler.
    Standby(Arc<ActivePlugin>),
    /// Its kept content can't be loaded now. It may be tried again after the next scan.
    Unavailable(LoadFailure),
    /// Its content is invalid under the limits of this plugin. It is not tried again under them
    /// before the settings change or an operator asks for it.
    Invalid { plugin: String, failure: LoadFailure, number: u64 },
}

/// The result of earlier loads, by digest: the plugin's name, or the failure.
pub(super) type Known = HashMap<Digest, Result<String, LoadFailure>>;

/// The versions of one plugin that concern the next generation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// The versions that can serve now, the best first.
    pub(super) candidates: Vec<Digest>,
    /// The versions that must be loaded, the best first. If the first candidate serves already, no
    /// version that is worse than it is in this list.
    pub(super) missing: Vec<Digest>,
}

/// Whether a version can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Availability {
    Serving,
    Ready,
    Standby,
    Failed,
    Unknown,
}

impl Versions {
    /// Records a version that was loaded under the settings in force. A version that is ready
    /// stays: it may be serving, and it runs under the same settings
    /// ([`Versions::change_settings`]).
    pub(super) fn loaded(&mut self, active: Arc<ActivePlugin>) {
        match self.by_digest.get_mut(&active.code.digest) {
            Some(VersionState::Ready(_)) => {}
            Some(VersionState::Outdated { next, .. }) => *next = Some(active),
            _ => {
                let digest = active.code.digest.clone();
                self.by_digest.insert(digest, VersionState::Ready(active));
            }
        }
    }

    /// Records that the content of a version is invalid under the limits of `plugin`. Forgets the
    /// oldest of too many.
    pub(super) fn invalid(&mut self, plugin: String, failure: LoadFailure) {
        let Some(digest) = failure.digest.clone() else { return };
        self.invalid += 1;
        self.failed(digest, VersionState::Invalid { plugin, failure, number: self.invalid });
        let invalid = self.by_digest.iter().filter_map(|(digest, state)| match state {
            // The number comes first, so that the smallest pair is the oldest.
            VersionState::Invalid { number, .. } => Some((number, digest)),
            _ => None,
        });
        if invalid.clone().count() > MAX_INVALID
            && let Some(oldest) = invalid.min().map(|(_, digest)| digest.clone())
        {
            self.by_digest.remove(&oldest);
        }
    }

    /// Records that the kept content of a version can't be loaded now.
    pub(super) fn unavailable(&mut self, digest: Digest, failure: LoadFailure) {
        self.failed(digest, VersionState::Unavailable(failure));
    }

    /// A failure never replaces a version that is loaded.
    fn failed(&mut self, digest: Digest, state: VersionState) {
        match self.by_digest.get(&digest) {
            Some(
                VersionState::Ready(_) | VersionState::Outdated { .. } | VersionState::Standby(_),
            ) => {}
            _ => {
                self.by_digest.insert(digest, state);
            }
        }
    }

    /// Lets every unavailable version be tried again.
    pub(super) fn retry_unavailable(&mut self) {
        self.by_digest.retain(|_, state| !matches!(state, VersionState::Unavailable(_)));
    }

    /// Lets every version that could not be loaded be tried again.
    pub(super) fn retry_failed(&mut self) {
        self.by_digest.retain(|_, state| {
            !matches!(state, VersionState::Unavailable(_) | VersionState::Invalid { .. })
        });
    }

    /// Replaces each loaded version by what `under_settings` returns: the same version if its
    /// settings have not changed, and otherwise a copy without instances. The copy serves from the
    /// next publication on.
    ///
    /// A version that `is_outdated` was declared under other values of its settings. It keeps
    /// serving as it was declared if it serves in `before`, and is dropped otherwise. Returns those
    /// that keep serving, to be loaded once more: the name of the plugin, and the digest. An
    /// earlier successor is dropped in both cases.
    pub(super) fn change_settings(
        &mut self,
        under_settings: impl Fn(&Arc<ActivePlugin>) -> Arc<ActivePlugin>,
        is_outdated: impl Fn(&ActivePlugin) -> bool,
        before: &Generation,
    ) -> Vec<(String, Digest)> {
        let mut outdated = Vec::new();
        self.by_digest.retain(|digest, state| {
            let active = match state {
                VersionState::Ready(active)
                | VersionState::Standby(active)
                | VersionState::Outdated { serving: active, .. } => Arc::clone(active),
                VersionState::Unavailable(_) | VersionState::Invalid { .. } => return true,
            };
            if !is_outdated(&active) {
                *state = match state {
                    VersionState::Standby(_) => VersionState::Standby(under_settings(&active)),
                    // Also one that was outdated, if its settings have changed back.
                    _ => VersionState::Ready(under_settings(&active)),
                };
                return true;
            }
            let serves = before.serves(&active);
            if serves {
                outdated.push((active.code.name().to_owned(), digest.clone()));
                *state = VersionState::Outdated { serving: under_settings(&active), next: None };
            }
            serves
        });
        outdated
    }

    /// Whether the version is loaded.
    pub(super) fn is_loaded(&self, digest: &str) -> bool {
        matches!(
            self.by_digest.get(digest),
            Some(VersionState::Ready(_) | VersionState::Outdated { .. } | VersionState::Standby(_))
        )
    }

    /// Lets a version be tried again, whatever made it fail: an operator asks for it.
    pub(super) fn retry(&mut self, digest: &str) {
        if self.failure(digest).is_some() {
            self.by_digest.remove(digest);
        }
    }

    /// Returns why a version can't be loaded.
    pub(super) fn failure(&self, digest: &str) -> Option<&LoadFailure> {
        match self.by_digest.get(digest)? {
            VersionState::Unavailable(failure) | VersionState::Invalid { failure, .. } => {
                Some(failure)
            }
            VersionState::Ready(_) | VersionState::Outdated { .. } | VersionState::Standby(_) => {
                None
            }
        }
    }

    /// Returns the results that a load under the limits of `plugin` need not repeat.
    pub(super) fn known(&self, plugin: &str) -> Known {
        let known = self.by_digest.iter().filter_map(|(digest, state)| {
            let result = match state {
                VersionState::Ready(active)
                | VersionState::Standby(active)
                | VersionState::Outdated { serving: active, .. } => {
                    Ok(active.code.name().to_owned())
                }
                VersionState::Invalid { plugin: limited, failure, .. } if limited == plugin => {
                    Err(failure.clone())
                }
                VersionState::Unavailable(_) | VersionState::Invalid { .. } => return None,
            };
            Some((digest.clone(), result))
        });
        known.collect()
    }

    /// Selects from the `wanted` versions of `plugin`, which are the best first. `before` is the
    /// generation that serves now.
    pub(super) fn select(&self, plugin: &str, wanted: &[Digest], before: &Generation) -> Selection {
        let serving = before.plugin(plugin).map(|active| active.code.digest.as_str());
        select(wanted, |digest| match self.by_digest.get(digest) {
            // Also a copy under new settings, which is not published yet.
            Some(VersionState::Ready(_) | VersionState::Outdated { .. })
                if serving == Some(digest.as_str()) =>
            {
                Availability::Serving
            }
            Some(VersionState::Ready(_) | VersionState::Outdated { .. }) => Availability::Ready,
            Some(VersionState::Standby(_)) => Availability::Standby,
            Some(VersionState::Unavailable(_)) => Availability::Failed,
            Some(VersionState::Invalid { plugin: limited, .. }) if limited == plugin => {
                Availability::Failed
            }
            Some(VersionState::Invalid { .. }) | None => Availability::Unknown,
        })
    }

    /// Whether the version serves as it was declared under earlier settings, and is not yet loaded
    /// under those in force.
    pub(super) fn waits_for_successor(&self, digest: &str) -> bool {
        matches!(self.by_digest.get(digest), Some(VersionState::Outdated { next: None, .. }))
    }

    /// Whether `active` is the successor of an outdated version, declared under other settings.
    pub(super) fn is_redeclared(&self, active: &Arc<ActivePlugin>) -> bool {
        matches!(self.by_digest.get(&active.code.digest),
            Some(VersionState::Outdated { next: Some(next), .. }) if Arc::ptr_eq(next, active))
    }

    /// Makes a loaded version ready. Returns what can serve, the best first: the successor, if the
    /// version is outdated and has one, and `with_successor` is true; then the version itself.
    /// Returns none if it is not loaded.
    pub(super) fn activate(
        &mut self,
        digest: &Digest,
        with_successor: bool,
    ) -> Vec<Arc<ActivePlugin>> {
        let Some(state) = self.by_digest.get_mut(digest) else { return Vec::new() };
        let active = match state {
            VersionState::Ready(active) => return vec![Arc::clone(active)],
            VersionState::Outdated { serving, next } => {
                let next = next.iter().filter(|_| with_successor);
                return next.chain([&*serving]).map(Arc::clone).collect();
            }
            // As after a load: with a new breaker, and loaded now.
            VersionState::Standby(standby) => standby.fresh(),
            VersionState::Unavailable(_) | VersionState::Invalid { .. } => return Vec::new(),
        };
        *state = VersionState::Ready(Arc::clone(&active));
        vec![active]
    }

    /// Keeps a version that no longer serves as standby: a fresh copy, because the version itself
    /// must be dropped when its last event has ended.
    pub(super) fn keep_copy_as_standby(&mut self, old: &Arc<ActivePlugin>) {
        let digest = &old.code.digest;
        let state = match self.by_digest.remove(digest) {
            // Its copy under other settings serves in its place.
            Some(VersionState::Ready(active)) if !Arc::ptr_eq(&active, old) => {
                VersionState::Ready(active)
            }
            // The same for a copy that is outdated.
            Some(VersionState::Outdated { serving, next }) if !Arc::ptr_eq(&serving, old) => {
                VersionState::Outdated { serving, next }
            }
            // Its successor serves in its place, or can.
            Some(VersionState::Outdated { next: Some(next), .. }) => VersionState::Ready(next),
            // It has to register again before it serves again.
            Some(VersionState::Outdated { next: None, .. }) => return,
            _ => VersionState::Standby(old.fresh()),
        };
        self.by_digest.insert(digest.clone(), state);
    }

    /// Makes each ready version that is not `is_needed` a standby version, and drops the standby
    /// versions that are not `is_previous`.
    pub(super) fn retain(
        &mut self,
        is_needed: impl Fn(&Digest, &Arc<ActivePlugin>) -> bool,
        is_previous: impl Fn(&Digest) -> bool,
    ) {
        self.by_digest.retain(|digest, state| match state {
            VersionState::Ready(active) if is_needed(digest, active) => true,
            VersionState::Ready(active) => {
                // It has not served, so it needs no fresh copy.
                let standby = Arc::clone(active);
                *state = VersionState::Standby(standby);
                is_previous(digest)
            }
            VersionState::Outdated { serving, .. } => is_needed(digest, serving),
            VersionState::Standby(_) => is_previous(digest),
            VersionState::Unavailable(_) | VersionState::Invalid { .. } => true,
        });
    }
}

/// Selects from versions, the best first. While a better version has to be loaded, the serving
/// version keeps serving, and no other version replaces it.
///
/// If the serving version is the first candidate, a worse one is not loaded, and a worse one on
/// standby is not made ready. A worse one that is ready costs nothing, so it is a candidate: it
/// serves if the better ones conflict with other plugins.
fn select(wanted: &[Digest], availability: impl Fn(&Digest) -> Availability) -> Selection {
    let mut selection = Selection::default();
    let mut is_first_serving = false;
    for digest in wanted {
        let is_waiting = !selection.missing.is_empty();
        match availability(digest) {
            Availability::Serving => {
                is_first_serving |= selection.candidates.is_empty();
                selection.candidates.push(digest.clone());
            }
            Availability::Ready if !is_waiting => selection.candidates.push(digest.clone()),
            Availability::Standby if !is_waiting && !is_first_serving => {
                selection.candidates.push(digest.clone());
            }
            Availability::Unknown if !is_first_serving => selection.missing.push(digest.clone()),
            _ => {}
        }
    }
    selection
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Retry;

    fn failure(digest: &str) -> LoadFailure {
        LoadFailure {
            name: None,
            digest: Some(digest.to_owned()),
            reason: "bad".to_owned(),
            retry: Retry::Never,
        }
    }

    #[test]
    fn the_serving_version_is_replaced_only_by_a_better_one_that_can_serve() {
        use Availability::{Failed, Ready, Serving, Standby, Unknown};
        // The wanted versions, the best first; then the candidates and those to load, by index.
        let examples: &[(&[Availability], &[usize], &[usize])] = &[
            (&[Serving], &[0], &[]),
            (&[Ready, Serving], &[0, 1], &[]),
            (&[Standby, Serving], &[0, 1], &[]),
            (&[Unknown, Serving], &[1], &[0]),
            (&[Failed, Serving], &[1], &[]),
            (&[Unknown, Ready, Serving], &[2], &[0]),
            (&[Unknown, Standby, Serving], &[2], &[0]),
            (&[Serving, Ready], &[0, 1], &[]),
            (&[Serving, Standby], &[0], &[]),
            (&[Serving, Unknown], &[0], &[]),
            (&[Unknown], &[], &[0]),
            (&[Unknown, Ready], &[], &[0]),
            (&[Unknown, Unknown], &[], &[0, 1]),
            (&[Failed, Unknown], &[], &[1]),
            (&[Failed], &[], &[]),
        ];
        for (availabilities, candidates, missing) in examples {
            let wanted: Vec<Digest> = (0..availabilities.len()).map(|n| n.to_string()).collect();
            let text = |indices: &[usize]| indices.iter().map(ToString::to_string).collect();
            let expected = Selection { candidates: text(candidates), missing: text(missing) };
            let selection =
                select(&wanted, |digest| availabilities[digest.parse::<usize>().unwrap()]);
            assert_eq!(selection, expected, "{availabilities:?}");
        }
    }

    #[test]
    fn an_invalid_version_is_not_tried_again_under_the_same_limits() {
        let mut versions = Versions::default();
        versions.invalid("a".to_owned(), failure("1"));
        assert!(matches!(versions.known("a").get("1"), Some(Err(_))));
        assert!(versions.known("b").is_empty(), "another plugin has other limits");
        let select = |versions: &Versions, plugin| {
            versions.select(plugin, &["1".to_owned()], &Generation::default()).missing
        };
        assert_eq!((select(&versions, "a").len(), select(&versions, "b").len()), (0, 1));
        versions.retry_unavailable();
        assert_eq!(select(&versions, "a").len(), 0);
        versions.retry("1");
        assert_eq!(select(&versions, "a").len(), 1, "an operator may ask for it");
    }

    #[test]
    fn an_unavailable_version_is_tried_again_after_a_scan() {
        let mut versions = Versions::default();
        let wanted = ["1".to_owned()];
        versions.unavailable("1".to_owned(), failure("1"));
        assert!(versions.select("a", &wanted, &Generation::default()).missing.is_empty());
        assert!(versions.known("a").is_empty(), "the same content may be valid in a file");
        versions.retry_unavailable();
        assert_eq!(versions.select("a", &wanted, &Generation::default()).missing, wanted);
    }

    #[test]
    fn invalid_versions_are_bounded_and_the_oldest_is_forgotten_first() {
        let mut versions = Versions::default();
        for number in 0..MAX_INVALID + 2 {
            versions.invalid("a".to_owned(), failure(&number.to_string()));
        }
        let known = versions.known("a");
        assert_eq!(known.len(), MAX_INVALID);
        assert!(!known.contains_key("0") && !known.contains_key("1") && known.contains_key("2"));
    }
}
