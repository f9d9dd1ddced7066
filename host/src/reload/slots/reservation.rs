//! What a plugin that served keeps from others while no version of it can serve, for example
//! because its state can't be opened at a start: its events, its rooms, its routes, and the schemas
//! of what it emits. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sockhop_core::declarations::{OutboundEvent, Registration};
use sockhop_core::route::{Route, RouteTable};

use crate::registry::AdmitError;
use crate::rule::{DeclaredRoom, RoomRules};

/// The events that a plugin handles and emits, and the rooms and routes that it declares, in the
/// registration that served last. It is saved with the slot, because a plugin that can't be loaded
/// declares nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reservation {
    events: BTreeSet<String>,
    /// The access rule of each room, by its name or template.
    rooms: BTreeMap<String, String>,
    /// The digest of the schema of each emitted event, and whether it has a list of arguments.
    /// Whole schemas would make the saved slots large.
    emits: BTreeMap<String, String>,
    /// The routes, each as method and path.
    routes: BTreeSet<String>,
}

impl Reservation {
    /// Returns what the plugin with these declarations reserves.
    pub fn of(registration: &Registration) -> Self {
        let events = registration.handles.iter().map(|declared| declared.event.clone());
        let rooms = registration.rooms.iter();
        let rooms = rooms.map(|room| (room.pattern.to_string(), room.access.to_string()));
        let emits = registration.emits.iter();
        let emits = emits.map(|declared| (declared.event.clone(), digest(declared)));
        let routes = registration.routes.iter().map(ToString::to_string);
        Self {
            events: events.collect(),
            rooms: rooms.collect(),
            emits: emits.collect(),
            routes: routes.collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self { events, rooms, emits, routes } = self;
        events.is_empty() && rooms.is_empty() && emits.is_empty() && routes.is_empty()
    }

    /// Checks whether a plugin may make the declarations `other` while this is reserved for the
    /// plugin `owner`.
    ///
    /// # Errors
    /// Returns the first conflict.
    pub fn check(&self, owner: &str, other: &Registration) -> Result<(), AdmitError> {
        let mut events = other.handles.iter().map(|declared| &declared.event);
        if let Some(event) = events.find(|event| self.events.contains(*event)) {
            return Err(AdmitError::EventTaken { event: event.clone(), by: owner.to_owned() });
        }
        let mut emits = other.emits.iter();
        let differs = emits.find(|declared| {
            let reserved = self.emits.get(&declared.event);
            reserved.is_some_and(|reserved| *reserved != digest(declared))
        });
        if let Some(declared) = differs {
            let (event, by) = (declared.event.clone(), owner.to_owned());
            return Err(AdmitError::SchemaDiffers { event, by });
        }
        let mut rules = RoomRules::default();
        rules.add(owner, &self.rooms());
        rules.check(&other.name, &other.rooms)?;
        let mut routes = RouteTable::default();
        routes.add(owner, &self.routes());
        Ok(routes.check(&other.name, &other.routes)?)
    }

    /// Returns the reserved routes. One that this version of the host can't parse is skipped.
    fn routes(&self) -> Vec<Route> {
        let routes = self.routes.iter().filter_map(|route| {
            let (method, path) = route.split_once(' ')?;
            Route::new(method, path, "").ok()
        });
        routes.collect()
    }

    /// Returns the reserved rooms. Another version of the host may have saved a room whose pattern
    /// or rule this version can't parse. Such a room is skipped.
    fn rooms(&self) -> Vec<DeclaredRoom> {
        let rooms = self.rooms.iter().filter_map(|(pattern, access)| {
            Some(DeclaredRoom { pattern: pattern.parse().ok()?, access: access.parse().ok()? })
        });
        rooms.collect()
    }
}

/// Returns what two declarations of one emitted event must have in common.
fn digest(declared: &OutboundEvent) -> String {
    let schema = schema_digest(&declared.data);
    if declared.arguments.are_list() { format!("list {schema}") } else { schema }
}

/// Returns the SHA-256 of a schema, whatever its blanks and the order of its members.
fn schema_digest(schema: &str) -> String {
    let canonical = serde_json::from_str::<Value>(schema);
    let canonical = canonical.map_or_else(|_| schema.to_owned(), |schema| schema.to_string());
    Sha256::digest(canonical).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use sockhop_core::arguments::Arguments;
    use sockhop_core::declarations::InboundEvent;

    use super::*;
    use crate::rule::Access;

    fn plugin(name: &str, events: &[&str], rooms: &[(&str, &str)]) -> Registration {
        let event = |event: &&str| InboundEvent {
            event: (*event).to_owned(),
            data: "true".to_owned(),
            reply: None,
            access: Access::Anyone,
            arguments: Arguments::One,
            reply_arguments: Arguments::One,
        };
        let room = |(pattern, access): &(&str, &str)| DeclaredRoom {
            pattern: pattern.parse().unwrap(),
            access: access.parse().unwrap(),
        };
        Registration {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            handles: events.iter().map(event).collect(),
            rooms: rooms.iter().map(room).collect(),
            ..Registration::default()
        }
    }

    #[test]
    fn events_and_rooms_are_reserved_and_the_conflict_names_their_owner() {
        let rooms = [("user_{user}", "owner"), ("news", "role:admin")];
        let reservation = Reservation::of(&plugin("a", &["x", "y"], &rooms));
        // As a host that starts reads it.
        let saved = serde_json::to_string(&reservation).unwrap();
        let reservation: Reservation = serde_json::from_str(&saved).unwrap();
        let b = |events: &[&str], rooms: &[(&str, &str)]| plugin("b", events, rooms);
        let examples = [
            (b(&["z"], &[("other", "anyone")]), None),
            (b(&["z", "y"], &[]), Some("event `y` is taken by plugin `a`")),
            (b(&[], &[("news", "role:admin")]), None),
            (b(&[], &[("news", "anyone")]), Some("room `news` is taken by plugin `a`")),
            (b(&[], &[("user_admin", "anyone")]), Some("room `user_admin` is taken by plugin `a`")),
            (b(&[], &[("user_{user}", "owner")]), None),
        ];
        for (other, expected) in examples {
            let conflict = reservation.check("a", &other).err().map(|error| error.to_string());
            let begins = conflict.as_deref().zip(expected).map(|(text, is)| text.starts_with(is));
            assert!(begins.unwrap_or(conflict.is_none() && expected.is_none()), "{conflict:?}");
        }
    }

    #[test]
    fn the_schemas_of_emitted_events_are_reserved_and_not_the_events() {
        let emitting_as = |name: &str, data: &str, arguments| {
            let (event, data, rooms) = ("x".to_owned(), data.to_owned(), Vec::new());
            let emits = OutboundEvent { event, data, arguments, rooms, everyone: true };
            Registration { emits: vec![emits], ..plugin(name, &[], &[]) }
        };
        let emitting = |name: &str, data: &str| emitting_as(name, data, Arguments::One);
        let reservation = Reservation::of(&emitting("a", r#"{"type":"object","required":["b"]}"#));
        let saved = serde_json::to_string(&reservation).unwrap();
        let reservation: Reservation = serde_json::from_str(&saved).unwrap();
        let check = |schema: &str| {
            reservation.check("a", &emitting("b", schema)).map_err(|error| error.to_string())
        };
        assert_eq!(check(r#"{ "required": ["b"], "type": "object" }"#), Ok(()));
        let differs = check(r#"{"type":"object"}"#).unwrap_err();
        assert!(differs.starts_with("event `x` is emitted by plugin `a` too"), "{differs}");
        assert!(reservation.check("a", &plugin("b", &[], &[])).is_ok());
        let same = r#"{"type":"object","required":["b"]}"#;
        assert!(reservation.check("a", &emitting_as("b", same, Arguments::List)).is_err());
    }

    #[test]
    fn what_a_newer_host_has_saved_in_another_form_is_skipped() {
        let saved = r#"{"events":["x"],"rooms":{"news":"a new rule","b":"anyone"},"more":1}"#;
        let reservation: Reservation = serde_json::from_str(saved).unwrap();
        assert!(reservation.check("a", &plugin("b", &[], &[("news", "anyone")])).is_ok());
        assert!(reservation.check("a", &plugin("b", &[], &[("b", "owner")])).is_err());
    }
}
