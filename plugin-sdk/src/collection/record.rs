//! The records of a collection, and what an older version of the plugin has stored.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sockhop_core::key::Key;

use super::store::corrupt;
use crate::refusal::{Refusal, Result};
use crate::state::State;

/// A type whose values are the records of a [`Collection`](super::Collection). It is stored as JSON
/// and must serialize to the JSON from which it deserializes.
///
/// # Formats
///
/// [`FORMAT`](Self::FORMAT) is stored with each record. A record with an older format goes through
/// [`upgrade_from`](Self::upgrade_from) when it is read. A record with a newer format is refused.
///
/// Add 1 to `FORMAT` with each change after which the previous version would read a record wrongly,
/// or would lose something when it stores it again. A new field is such a change, also if it is
/// optional: a version that does not know the field drops it.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use sockhop_sdk::Result;
/// use sockhop_sdk::collection::{Older, Record};
///
/// #[derive(Serialize, Deserialize)]
/// struct Note {
///     id: u64,
///     owner: String,
///     lines: Vec<String>,
/// }
///
/// /// Format 1.
/// #[derive(Deserialize)]
/// struct Note1 {
///     id: u64,
///     owner: String,
///     text: String,
/// }
///
/// impl Record for Note {
///     type Id = u64;
///     const FORMAT: u32 = 2;
///
///     fn id(&self) -> u64 {
///         self.id
///     }
///
///     fn upgrade_from(older: &Older<'_>) -> Result<Self> {
///         match older.format() {
///             1 => {
///                 let Note1 { id, owner, text } = older.read()?;
///                 Ok(Self { id, owner, lines: text.lines().map(str::to_owned).collect() })
///             }
///             _ => Err(older.unknown()),
///         }
///     }
/// }
/// ```
pub trait Record: Serialize + DeserializeOwned + 'static {
    /// The type of the ids. [`Key`] lists the types that are keys.
    type Id: Key;

    /// The format in which this version stores records. The first is 1.
    const FORMAT: u32;

    /// Returns the id. It must not change while the record is stored.
    fn id(&self) -> Self::Id;

    /// Returns the record that `older`, a record with a format below [`FORMAT`](Self::FORMAT),
    /// becomes. The result must depend on `older` alone: it is computed each time that the record
    /// is read, until the record is stored again. The id stays the same.
    ///
    /// # Errors
    /// `corrupt_state`, which [`Older::read`] and [`Older::unknown`] return. By default each older
    /// format is unknown.
    fn upgrade_from(older: &Older<'_>) -> Result<Self> {
        Err(older.unknown())
    }
}

/// A stored record with a format that is older than that of this version.
pub struct Older<'a> {
    pub(super) format: u32,
    /// The record as JSON.
    pub(super) json: &'a str,
    /// The key under which it is stored.
    pub(super) key: &'a str,
    pub(super) state: State<'a>,
}

impl Older<'_> {
    /// Returns the format: at least 1, and less than the [`FORMAT`](Record::FORMAT) of this
    /// version.
    #[must_use]
    pub fn format(&self) -> u32 {
        self.format
    }

    /// Reads the record as a `T`, a type of the older version.
    ///
    /// # Errors
    /// `corrupt_state`: it is not a `T`. The log of the plugin says why.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        self.state.decode(self.key, self.json.as_bytes())
    }

    /// Returns the refusal of a format that this version can't upgrade.
    #[must_use]
    pub fn unknown(&self) -> Refusal {
        corrupt(format!(
            "the record `{}` has format {}, from which this version of the plugin can't upgrade: \
             deploy a version that can, and let it finish its migration",
            self.key, self.format
        ))
    }
}

/// The record can be a secret.
impl fmt::Debug for Older<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Older").field("key", &self.key).field("format", &self.format).finish()
    }
}
