//! The number of the form in which collections are stored.

use serde::Deserialize;

/// The form of everything that a collection stores, except for the records themselves. A later SDK
/// that changes the form has another number, and this one then refuses.
pub(super) const LAYOUT: u32 = 1;

/// The layout of a stored value, whatever else is in it.
#[derive(Deserialize)]
pub(super) struct Layout {
    pub(super) layout: u32,
}
