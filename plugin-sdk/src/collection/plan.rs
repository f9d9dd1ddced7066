//! The writes by which a record takes the place of another one, or of none. It decides and does not
//! write: all writes of a plan belong together.

use super::envelope::Envelope;
use super::names::Names;
use super::properties::Properties;
use crate::json::encode;
use crate::refusal::Result;

/// A key, and its new value as JSON. `None` removes the key.
pub(super) type Write = (String, Option<String>);

/// Returns the writes that replace `old` by `new`, without the count. The first is that of the
/// record.
///
/// `properties` are those of the collection.
pub(super) fn replace(
    names: Names,
    properties: &Properties,
    id: &str,
    old: Option<&Envelope<'_>>,
    new: Option<&Envelope<'_>>,
) -> Result<Vec<Write>> {
    let mut writes = vec![(names.record(id), new.map(encode).transpose()?)];
    let (before, after) = (entries(names, id, old), entries(names, id, new));
    let is_in = |entries: &[String], entry: &String| entries.binary_search(entry).is_ok();
    for entry in before.iter().filter(|entry| !is_in(&after, entry)) {
        writes.push((entry.clone(), None));
    }
    for entry in after.iter().filter(|entry| !is_in(&before, entry)) {
        writes.push((entry.clone(), Some(encode(id)?)));
    }
    writes.extend(marks(names, properties, id, old, new));
    Ok(writes)
}

/// Returns the keys of all entries of a record, sorted.
fn entries(names: Names, id: &str, record: Option<&Envelope<'_>>) -> Vec<String> {
    let Some(record) = record else { return Vec::new() };
    let of_indexes = record
        .keys
        .iter()
        .flat_map(|(index, keys)| keys.iter().map(move |key| names.entry(index, key, id)));
    let expiry = record.expires_at.map(|time| names.expiry(time, id));
    let mut entries: Vec<String> = of_indexes.chain(expiry).collect();
    entries.sort_unstable();
    entries
}

/// Returns the writes that mark `new` as an exception, or remove the marks of `old`.
///
/// A record that lacks a property which holds is marked. While a property is being built, the marks
/// of records that have it meanwhile stay, and the end of the migration removes them: to remove
/// each mark that could exist would cost the migration as many writes as the record itself.
pub(super) fn marks(
    names: Names,
    properties: &Properties,
    id: &str,
    old: Option<&Envelope<'_>>,
    new: Option<&Envelope<'_>>,
) -> Vec<Write> {
    let (mut writes, mut is_marked) = (Vec::new(), false);
    for property in properties.marked() {
        let was_marked =
            properties.holds.contains(property) && old.is_some_and(|old| !old.has(property));
        if new.is_some_and(|new| !new.has(property)) {
            writes.push((names.exception(property, id), Some("true".to_owned())));
            is_marked = true;
        } else if was_marked {
            writes.push((names.exception(property, id), None));
        }
    }
    if is_marked {
        writes.push((names.marked(), Some("true".to_owned())));
    }
    writes
}
