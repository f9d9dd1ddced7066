//! Serializes a path in the saved slots: as text, or as an `OsString` if it is not valid UTF-8.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum SavedPath {
    Text(PathBuf),
    System(OsString),
}

pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => text.serialize(serializer),
        None => path.as_os_str().serialize(serializer),
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    SavedPath::deserialize(deserializer).map(|saved| match saved {
        SavedPath::Text(path) => path,
        SavedPath::System(path) => path.into(),
    })
}
