//! The state of a slot, as operators see it. Pure.

use serde::Serialize;

use super::Slot;

/// The state of a slot, as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    /// No version serves, and one is being loaded.
    Loading,
    /// It serves.
    Active,
    /// Its file is gone, and its last events still run.
    Draining,
    /// Its breaker is open: its events are answered with `unavailable`.
    Quarantined,
    /// An operator disabled it: its events are answered with `unavailable`.
    Disabled,
    /// No version of it serves.
    Failed,
}

/// What is known of a slot in addition to [`Slot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions {
    /// A version is in the registry.
    pub is_served: bool,
    /// Its breaker is open or half-open.
    pub is_open: bool,
    /// A version is being loaded.
    pub is_loading: bool,
    /// Events run on a version that was taken out of service.
    pub is_draining: bool,
}

impl SlotState {
    /// Returns the state's name, as in the API and the log.
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

    /// Returns the state of a slot; `None` stands for a file or a draining plugin without a slot.
    pub fn of(slot: Option<&Slot>, conditions: Conditions) -> Self {
        match slot {
            Some(slot) if conditions.is_served && slot.is_serving_disabled() => Self::Disabled,
            Some(_) if conditions.is_served && conditions.is_open => Self::Quarantined,
            Some(_) if conditions.is_served => Self::Active,
            _ if conditions.is_loading => Self::Loading,
            None if conditions.is_draining => Self::Draining,
            _ => Self::Failed,
        }
    }
}
