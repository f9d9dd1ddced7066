//! Why a plugin can't serve.

use std::path::PathBuf;

use crate::schema::SchemaError;

/// Maximum number of patterns in all schemas of one plugin. A compiled pattern may take 256 KiB.
pub(super) const MAX_PATTERNS: usize = 500;

/// Why a plugin can't serve together with the others, or at all.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// A schema is refused.
    #[error("event `{event}`: the schema of its {part} is refused")]
    Schema {
        /// The event.
        event: String,
        /// `payload`, `reply` or `data`.
        part: &'static str,
        /// Why it is refused.
        source: SchemaError,
    },
    /// The plugin has more patterns than the host compiles for one plugin.
    #[error("the schemas of the plugin have more than {MAX_PATTERNS} patterns in all")]
    TooManyPatterns,
    /// The schema of a reply allows a top-level property `error`, by which clients recognize a
    /// rejection.
    #[error(
        "event `{event}`: its reply may not have a property `error` at its top level, because clients recognise a rejection by it; rename it"
    )]
    ReplyHasError {
        /// The event.
        event: String,
    },
    /// Another plugin handles the event.
    #[error("event `{event}` is taken by plugin `{by}`; an event has one handler")]
    EventTaken {
        /// The event.
        event: String,
        /// The plugin that handles it.
        by: String,
    },
    /// Another plugin emits the event with a different schema.
    #[error(
        "event `{event}` is emitted by plugin `{by}` too, with another schema; both must be identical"
    )]
    SchemaDiffers {
        /// The event.
        event: String,
        /// The other plugin.
        by: String,
    },
    /// Another plugin declares an overlapping room with another pattern or access rule.
    #[error(
        "room `{room}` is taken by plugin `{by}`, as `{as_room}`; a second declaration must be identical"
    )]
    RoomTaken {
        /// The room in the new declaration.
        room: String,
        /// The room in the earlier declaration.
        as_room: String,
        /// The plugin that declared it earlier.
        by: String,
    },
    /// Another file contains a plugin of this name.
    #[error("plugin `{name}` is served from {} already; a directory holds one file of each plugin", file.display())]
    NameTaken {
        /// The plugin's name.
        name: String,
        /// The other file.
        file: PathBuf,
    },
}

impl AdmitError {
    /// Returns the name of the other plugin in the conflict. `None` if there is no other plugin.
    pub fn taken_by(&self) -> Option<&str> {
        match self {
            Self::EventTaken { by, .. }
            | Self::SchemaDiffers { by, .. }
            | Self::RoomTaken { by, .. } => Some(by),
            Self::NameTaken { name, .. } => Some(name),
            Self::Schema { .. } | Self::TooManyPatterns | Self::ReplyHasError { .. } => None,
        }
    }

    /// Returns the same conflict from the view of the plugin that was admitted first. It names
    /// `winner`, the second plugin, which gets the claim.
    #[must_use]
    pub fn seen_by_the_other(self, winner: &str) -> Self {
        let by = winner.to_owned();
        match self {
            Self::EventTaken { event, .. } => Self::EventTaken { event, by },
            Self::SchemaDiffers { event, .. } => Self::SchemaDiffers { event, by },
            Self::RoomTaken { room, as_room, .. } => {
                Self::RoomTaken { room: as_room, as_room: room, by }
            }
            other => other,
        }
    }
}
