//! What operators and breakers have decided about a plugin: which version is to serve, and whether
//! it gets events. Pure.

use serde::{Deserialize, Serialize};

use super::Digest;

/// What is decided about a plugin.
///
/// A disable does not end a rollback, and a rollback does not enable the plugin. So a disabled
/// plugin may have a pinned version as well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SavedIntent", into = "SavedIntent")]
pub enum Intent {
    /// The version in the file is to serve.
    #[default]
    Follow,
    /// This version is to serve until the file changes: an operator or a breaker rolled back to it.
    Pinned(Digest),
    /// An operator disabled the plugin: its events are answered with `unavailable`.
    Disabled {
        /// What the file held at that time. Every version is disabled, except one to which the file
        /// has changed since.
        while_file_is: Digest,
        /// The version that is to serve, as in [`Intent::Pinned`].
        pinned: Option<Digest>,
    },
}

impl Intent {
    /// Returns the version to which the plugin was rolled back.
    pub fn pinned(&self) -> Option<&Digest> {
        match self {
            Self::Follow => None,
            Self::Pinned(digest) => Some(digest),
            Self::Disabled { pinned, .. } => pinned.as_ref(),
        }
    }

    /// Whether `version` gets no events while the file holds `in_file`.
    pub fn disables(&self, version: &str, in_file: &str) -> bool {
        match self {
            Self::Follow | Self::Pinned(_) => false,
            Self::Disabled { while_file_is, .. } => version != in_file || while_file_is == in_file,
        }
    }

    /// Pins a version, or follows the file again if `pinned` is `None`.
    pub(super) fn pin(&mut self, pinned: Option<Digest>) {
        *self = Self::new(pinned, self.while_file_is().cloned());
    }

    /// Disables the plugin, whose file holds `in_file`.
    pub(super) fn disable(&mut self, in_file: &str) {
        *self = Self::new(self.pinned().cloned(), Some(in_file.to_owned()));
    }

    /// Ends a disable.
    pub(super) fn enable(&mut self) {
        *self = Self::new(self.pinned().cloned(), None);
    }

    fn new(pinned: Option<Digest>, while_file_is: Option<Digest>) -> Self {
        match (pinned, while_file_is) {
            (pinned, Some(while_file_is)) => Self::Disabled { while_file_is, pinned },
            (Some(pinned), None) => Self::Pinned(pinned),
            (None, None) => Self::Follow,
        }
    }

    fn while_file_is(&self) -> Option<&Digest> {
        match self {
            Self::Follow | Self::Pinned(_) => None,
            Self::Disabled { while_file_is, .. } => Some(while_file_is),
        }
    }
}

/// An intent as two members of a saved slot. Earlier hosts read and write the same members.
#[derive(Clone, Serialize, Deserialize)]
struct SavedIntent {
    #[serde(default)]
    pinned: Option<Digest>,
    #[serde(default)]
    disabled: Option<Digest>,
}

impl From<SavedIntent> for Intent {
    fn from(SavedIntent { pinned, disabled }: SavedIntent) -> Self {
        Self::new(pinned, disabled)
    }
}

impl From<Intent> for SavedIntent {
    fn from(intent: Intent) -> Self {
        Self { pinned: intent.pinned().cloned(), disabled: intent.while_file_is().cloned() }
    }
}
