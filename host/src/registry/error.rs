//! Why a plugin can't serve.

use std::path::PathBuf;

use sockhop_core::route::RouteTaken;

use crate::events::EventsError;
use crate::rule::RoomTaken;

/// Why a plugin can't serve together with the others, or at all.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// A schema of its events is not allowed.
    #[error(transparent)]
    Events(#[from] EventsError),
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
        "event `{event}` is emitted by plugin `{by}` too, with another schema, or not with a list \
         of arguments in both; both must be identical"
    )]
    SchemaDiffers {
        /// The event.
        event: String,
        /// The other plugin.
        by: String,
    },
    /// Another plugin declares an overlapping room with another pattern or access rule.
    #[error(transparent)]
    RoomTaken(#[from] RoomTaken),
    /// Another plugin declares a route for the same requests.
    #[error(transparent)]
    RouteTaken(#[from] RouteTaken),
    /// Another file contains a plugin of this name.
    #[error("plugin `{name}` is served from {} already; a directory holds one file of each \
             plugin", file.display())]
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
            | Self::RoomTaken(RoomTaken { by, .. })
            | Self::RouteTaken(RouteTaken { by, .. }) => Some(by),
            Self::NameTaken { name, .. } => Some(name),
            Self::Events(_) => None,
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
            Self::RoomTaken(RoomTaken { room, as_room, .. }) => {
                RoomTaken { room: as_room, as_room: room, by }.into()
            }
            Self::RouteTaken(RouteTaken { route, as_route, .. }) => {
                RouteTaken { route: as_route, as_route: route, by }.into()
            }
            other => other,
        }
    }
}
