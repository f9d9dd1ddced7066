//! A record as it is stored: JSON with everything that is needed to replace or to remove it. So a
//! version of the plugin that can't read the record itself can remove it too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::properties::{EXPIRES, Shape, format_of, index_of};

/// A stored record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Envelope<'a> {
    pub(super) layout: u32,
    /// The format of the record.
    pub(super) format: u32,
    /// When the record expires, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<u64>,
    /// The texts of its keys in each index that the version had which has stored it. So exactly
    /// these entries are removed later, whatever the code of the other version says.
    #[serde(default)]
    pub(super) keys: BTreeMap<String, Vec<String>>,
    #[serde(borrow)]
    pub(super) record: &'a RawValue,
}

impl Envelope<'_> {
    /// Whether the record is hidden at `now`, because its time to live has ended.
    pub(super) fn is_expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|time| time <= now)
    }

    /// Whether the record has `property`. A property that only a later SDK knows counts as missing.
    pub(super) fn has(&self, property: &str) -> bool {
        if property == EXPIRES {
            return self.expires_at.is_some();
        }
        match (format_of(property), index_of(property)) {
            (Some(format), _) => self.format >= format,
            (None, Some(index)) => self.keys.contains_key(index),
            (None, None) => false,
        }
    }

    /// Whether a version with this shape would store the record in the same way.
    pub(super) fn is_current(&self, shape: &Shape) -> bool {
        self.format == shape.format
            && self.expires_at.is_some() == shape.expires
            && self.keys.keys().eq(&shape.indexes)
    }
}
