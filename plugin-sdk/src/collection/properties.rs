//! The properties of a collection: what all of its stored records have in common, whichever version
//! of the plugin has stored them.
//!
//! A property is a format that each record has at least, an index in which each record has its
//! entries, or that each record expires. An index is only read if all records are in it.
//!
//! Two versions of a plugin can serve at the same time, and a rollback brings back an older one. A
//! version that stores a record without a property which the collection has, because it does not
//! know the index, marks this record as an exception. So the property stays true for all others,
//! and the newer version finds the few records that it has to convert.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::layout::LAYOUT;

/// The property that each record expires.
pub(super) const EXPIRES: &str = "expires";

/// The property that each record has at least this format.
fn format_property(format: u32) -> String {
    format!("format.{format}")
}

/// Returns the format in a property.
pub(super) fn format_of(property: &str) -> Option<u32> {
    property.strip_prefix("format.")?.parse().ok()
}

/// The property that each record has its entries in `index`.
pub(super) fn index_property(index: &str) -> String {
    format!("index.{index}")
}

/// Returns the index in a property.
pub(super) fn index_of(property: &str) -> Option<&str> {
    property.strip_prefix("index.")
}

/// How one version of a plugin stores the records of a collection.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) format: u32,
    /// Whether the collection has a time to live.
    pub(super) expires: bool,
    /// The indexes, each by its name and the format since which its keys are valid.
    pub(super) indexes: BTreeSet<String>,
}

impl Shape {
    /// The properties of the records that this version stores.
    pub(super) fn properties(&self) -> BTreeSet<String> {
        let mut properties: BTreeSet<_> =
            self.indexes.iter().map(|index| index_property(index)).collect();
        properties.insert(format_property(self.format));
        if self.expires {
            properties.insert(EXPIRES.to_owned());
        }
        properties
    }
}

/// The stored properties of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Properties {
    layout: u32,
    /// Each record has these properties, or is marked as an exception.
    pub(super) holds: BTreeSet<String>,
    /// A migration has begun to give these properties to the records. A version that does not know
    /// them marks the records that it stores, because the migration does not come back to them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) building: BTreeSet<String>,
}

impl Properties {
    /// All records have exactly these properties.
    pub(super) fn of(holds: BTreeSet<String>) -> Self {
        Self { layout: LAYOUT, holds, building: BTreeSet::new() }
    }

    /// The properties while a migration gives `wanted` to the records. Others are given up now: the
    /// migration removes the entries of their indexes.
    pub(super) fn begin(&self, wanted: &BTreeSet<String>) -> Self {
        Self {
            layout: LAYOUT,
            holds: self.holds.intersection(wanted).cloned().collect(),
            building: wanted.difference(&self.holds).cloned().collect(),
        }
    }

    /// All properties whose exceptions are marked.
    pub(super) fn marked(&self) -> impl Iterator<Item = &String> {
        self.holds.iter().chain(&self.building)
    }
}
