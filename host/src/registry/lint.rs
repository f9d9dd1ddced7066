//! Warnings about declarations that the host accepts, but that can't have the effect that their
//! author wants. `check` prints them, and the reload path logs them when the plugins begin to
//! serve. A warning refuses nothing: a handler may still name such rooms itself, and another plugin
//! may declare them later.

use std::fmt;
use std::sync::Arc;

use crate::rule::RoomPattern;

use super::ActivePlugin;

/// A warning about the declarations of one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The plugin that declares them.
    pub plugin: String,
    /// The emitted events that the warning is about, sorted.
    events: Vec<String>,
    /// The room that they may go to.
    room: RoomPattern,
    kind: WarningKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum WarningKind {
    /// No plugin declares such a room.
    NotDeclared,
    /// No event that may go to the template has the property that the template names.
    NotFilled(String),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, room, .. } = self;
        let events = events.iter().map(|event| format!("`{event}`")).collect::<Vec<_>>().join(", ");
        match &self.kind {
            WarningKind::NotDeclared => write!(
                f,
                "{events} may go to `{room}`, but no loaded plugin declares such a room, so nobody \
                 can join it; \
                 declare it with `room`, or load the plugin that does"
            ),
            WarningKind::NotFilled(property) => write!(
                f,
                "the template `{room}` needs a property `{property}`, which the data of {events} \
                 does not have; \
                 `POST /api/emit` can't fill it, and only a handler can name such a room"
            ),
        }
    }
}

/// Returns the warnings for `plugins`, which serve together.
pub fn lint(plugins: &[Arc<ActivePlugin>]) -> Vec<Warning> {
    plugins.iter().flat_map(|active| lint_one(active, plugins)).collect()
}

fn lint_one(active: &ActivePlugin, plugins: &[Arc<ActivePlugin>]) -> Vec<Warning> {
    let mut rooms: Vec<&RoomPattern> = Vec::new();
    for room in active.outbound.values().flat_map(|outbound| &outbound.rooms) {
        if !rooms.contains(&room) {
            rooms.push(room);
        }
    }
    let declared = plugins.iter().flat_map(|active| &active.code.registration.rooms);
    let mut warnings = Vec::new();
    for room in rooms {
        let going: Vec<_> =
            active.outbound.iter().filter(|(_, outbound)| outbound.rooms.contains(room)).collect();
        let mut warn = |kind| {
            let events = going.iter().map(|(event, _)| (*event).clone()).collect();
            warnings.push(Warning {
                plugin: active.code.name().to_owned(),
                events,
                room: room.clone(),
                kind,
            });
        };
        if !declared.clone().any(|declared| declared.pattern.overlaps(room)) {
            warn(WarningKind::NotDeclared);
        }
        // If one event fills the template, the template is spelled as intended. A handler may send
        // other events there itself, for example a deletion that carries only an id.
        if let Some(property) = room.variable()
            && !going.iter().any(|(_, outbound)| outbound.may_have_property(property))
        {
            warn(WarningKind::NotFilled(property.to_owned()));
        }
    }
    warnings
}
