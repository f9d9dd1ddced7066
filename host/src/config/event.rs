//! `[[events]]`: events that business systems may emit, beside those that plugins declare.

use std::path::PathBuf;

use serde::Deserialize;
use sockhop_core::name::is_event_name;
use sockhop_core::rule::RoomPattern;

/// `[[events]]`: one event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredEvent {
    /// The event type.
    pub event: String,
    /// A file with the JSON Schema of the data. Without it, a plugin must declare the event.
    pub schema_file: Option<PathBuf>,
    /// The rooms and templates of rooms that the event may go to.
    #[serde(default)]
    pub rooms: Vec<String>,
    /// Whether it may go to every connection.
    #[serde(default)]
    pub everyone: bool,
}

impl DeclaredEvent {
    /// The rooms.
    ///
    /// # Errors
    /// One of them is no valid room.
    pub fn patterns(&self) -> Result<Vec<RoomPattern>, String> {
        self.rooms.iter().map(|room| room.parse()).collect()
    }
}

/// Checks the events of a configuration.
pub(super) fn check(events: &[DeclaredEvent]) -> Result<(), String> {
    for (index, declared) in events.iter().enumerate() {
        let event = &declared.event;
        if !is_event_name(event) {
            return Err(format!("events: `{event}` is not a valid event name"));
        }
        if events.iter().take(index).any(|other| other.event == *event) {
            return Err(format!("events: the event `{event}` is declared twice"));
        }
        declared.patterns().map_err(|problem| format!("events: `{event}`: {problem}"))?;
        if declared.rooms.iter().any(|room| room == "*") {
            return Err(format!("events: `{event}`: write `everyone = true` in place of `*`"));
        }
        if declared.rooms.is_empty() && !declared.everyone {
            return Err(format!("events: `{event}` needs `rooms` or `everyone = true`"));
        }
    }
    Ok(())
}
