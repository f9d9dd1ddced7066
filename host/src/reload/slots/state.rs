//! A slot's state, as operators see it. Pure.

use serde::Serialize;

use super::Slot;

/// A slot's state, as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginState {
    /// Its first version is being compiled.
    Loading,
    /// It serves.
    Active,
    /// Its file is gone, and its last events run.
    Draining,
    /// Its breaker is open: its events are answered `unavailable`.
    Quarantined,
    /// An operator disabled it: its events are answered `unavailable`.
    Disabled,
    /// Nothing of it serves.
    Failed,
}

/// What is known of a slot beside what [`Slot`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signs {
    /// A version is in the registry.
    pub is_served: bool,
    /// Its breaker is open.
    pub is_open: bool,
    /// A version is being loaded.
    pub is_loading: bool,
    /// Events run on code that was taken out.
    pub is_draining: bool,
}

impl PluginState {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Quarantined => "quarantined",
            Self::Disabled => "disabled",
            Self::Failed => "failed",
        }
    }

    /// The state of a slot, or of what is left of one.
    pub fn of(slot: Option<&Slot>, signs: Signs) -> Self {
        match slot {
            Some(slot) if signs.is_served && slot.is_serving_disabled() => Self::Disabled,
            Some(_) if signs.is_served && signs.is_open => Self::Quarantined,
            Some(_) if signs.is_served => Self::Active,
            _ if signs.is_loading => Self::Loading,
            None if signs.is_draining => Self::Draining,
            _ => Self::Failed,
        }
    }
}
