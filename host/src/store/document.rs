//! The state of a plugin as JSON, for the API and for files of `sockhop state export`.
//!
//! A file has one JSON document in each line: a [`HeaderDocument`], then an [`EntryDocument`] for
//! each entry, in the order of the bytes of their keys.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::content::{ContentPage, ContentSummary, Entry, ImportMode};

/// The number of this form of files.
pub const FILE_FORMAT: u32 = 1;

/// The first line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderDocument {
    /// [`FILE_FORMAT`].
    pub sockhop_state: u32,
    /// The plugin that owns the state.
    pub plugin: String,
    /// What follows, and the sequences.
    #[serde(flatten)]
    pub summary: ContentSummary,
}

/// One entry. Its value is in one of three members, byte by byte.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryDocument {
    /// The key.
    pub key: String,
    /// A value that is JSON without a line break.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some")]
    pub json: Option<Box<RawValue>>,
    /// A value that is other text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Another value, as Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// Some entries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageDocument {
    /// Number of commits when they were read.
    pub commits: u64,
    /// In the order of the bytes of their keys.
    pub entries: Vec<EntryDocument>,
    /// The key to continue after, if there are more.
    pub next: Option<String>,
}

/// Entries and sequences that are to be imported.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct ImportDocument {
    /// What happens to the entries that exist.
    pub mode: ImportMode,
    /// The least next number of each sequence.
    #[serde(default)]
    pub sequences: BTreeMap<String, u64>,
    /// The entries.
    pub entries: Vec<EntryDocument>,
}

/// An entry does not have exactly one value.
#[derive(Debug, thiserror::Error)]
#[error("the entry `{key}` needs exactly one valid value: `json`, `text` or `base64`")]
pub struct ValueError {
    key: String,
}

/// Also reads `null` as a value.
fn some<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Deserialize::deserialize(json).map(Some)
}

impl EntryDocument {
    /// Checks that there is exactly one valid value.
    ///
    /// # Errors
    /// There is no value, more than one, or no valid Base64.
    pub fn check(&self) -> Result<(), ValueError> {
        self.clone().into_entry().map(drop)
    }

    /// The value, and the entry's bytes.
    ///
    /// # Errors
    /// There is no value, more than one, or no valid Base64.
    pub fn into_entry(self) -> Result<Entry, ValueError> {
        let Self { key, json, text, base64 } = self;
        let value = match (json, text, base64) {
            (Some(json), None, None) => Some(json.get().as_bytes().to_vec()),
            (None, Some(text), None) => Some(text.into_bytes()),
            (None, None, Some(base64)) => STANDARD.decode(base64).ok(),
            _ => None,
        };
        match value {
            Some(value) => Ok((key, value)),
            None => Err(ValueError { key }),
        }
    }
}

impl From<Entry> for EntryDocument {
    fn from((key, value): Entry) -> Self {
        let mut document = Self { key, json: None, text: None, base64: None };
        match String::from_utf8(value) {
            Ok(text) => match serde_json::from_str::<Box<RawValue>>(&text) {
                // Other text around the JSON would be lost, and a line break would end the line.
                Ok(json) if json.get() == text && !text.contains(['\n', '\r']) => {
                    document.json = Some(json);
                }
                _ => document.text = Some(text),
            },
            Err(bytes) => document.base64 = Some(STANDARD.encode(bytes.as_bytes())),
        }
        document
    }
}

impl From<ContentPage> for PageDocument {
    fn from(ContentPage { commits, entries, next }: ContentPage) -> Self {
        Self { commits, entries: entries.into_iter().map(EntryDocument::from).collect(), next }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(value: &[u8]) -> String {
        let document = EntryDocument::from(("k".to_owned(), value.to_vec()));
        serde_json::to_string(&document).unwrap()
    }

    #[test]
    fn a_value_is_shown_as_what_it_is() {
        assert_eq!(member(br#"{"a": 1.50}"#), r#"{"key":"k","json":{"a": 1.50}}"#);
        assert_eq!(member(b"null"), r#"{"key":"k","json":null}"#);
        assert_eq!(member(b"1\n"), r#"{"key":"k","text":"1\n"}"#);
        assert_eq!(member(b"[1,\n2]"), r#"{"key":"k","text":"[1,\n2]"}"#);
        assert_eq!(member(b""), r#"{"key":"k","text":""}"#);
        assert_eq!(member(&[0xFF]), r#"{"key":"k","base64":"/w=="}"#);
    }

    #[test]
    fn an_entry_has_exactly_one_value() {
        for wrong in [
            r#"{"key":"k"}"#,
            r#"{"key":"k","text":"a","base64":"YQ=="}"#,
            r#"{"key":"k","base64":"%"}"#,
        ] {
            let document: EntryDocument = serde_json::from_str(wrong).unwrap();
            assert!(document.into_entry().unwrap_err().to_string().contains("`k`"), "{wrong}");
        }
        assert!(serde_json::from_str::<EntryDocument>(r#"{"key":"k","value":1}"#).is_err());
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_written(
            key in ".{1,20}",
            value in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "[ \\[\\]{}\",:0-9a-z\n\r]{0,40}".prop_map(String::into_bytes),
                any::<f64>().prop_map(|number| number.to_string().into_bytes()),
            ],
        ) {
            let line = serde_json::to_string(&EntryDocument::from((key.clone(), value.clone())))
                .unwrap();
            prop_assert!(!line.contains('\n'));
            let read: EntryDocument = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read.into_entry().unwrap(), (key, value));
        }
    }
}
