//! The contract: what the served plugins and the host promise to clients now, as plain data. It is
//! made of declarations, without I/O. `GET /api/events` and `sockhop check` show it.

use serde_json::{Value, json};

use sockhop_core::arguments::Arguments;
use sockhop_core::declarations::{DeclaredSchedule, Registration};
use sockhop_core::route::Route;

use crate::rooms::ERROR;
use crate::rule::{Access, RoomPattern, RoomRule};

/// The contract of one generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Contract {
    /// The number of the generation.
    pub generation: u64,
    /// The plugins in the order in which they were admitted.
    pub plugins: Vec<PluginContract>,
    /// The rooms that clients can be in, each once.
    pub rooms: Vec<RoomRule>,
    /// The events that the host itself sends to a client.
    pub host_outbound: Vec<OutboundContract>,
    /// The events that business systems may emit because the operator declares them, sorted by
    /// name.
    pub operator_outbound: Vec<OutboundContract>,
}

/// The part of the contract that one plugin declares.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginContract {
    /// The plugin's name.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// The events that clients may send to it, sorted by name.
    pub inbound: Vec<InboundContract>,
    /// The events that it emits, sorted by name.
    pub outbound: Vec<OutboundContract>,
    /// The rooms that it declares.
    pub rooms: Vec<RoomRule>,
    /// The host events that it listens for.
    pub listens: Vec<&'static str>,
    /// The HTTP routes of its events, in the order of their declarations.
    pub routes: Vec<Route>,
    /// The names of the acks by which its handlers get the answers of clients.
    pub acks: Vec<String>,
    /// The names of the timers that its handlers set. Clients do not see them.
    pub timers: Vec<String>,
    /// The timers that the host sets. Clients do not see them.
    pub schedules: Vec<DeclaredSchedule>,
}

/// An event that clients may send.
#[derive(Debug, Clone, PartialEq)]
pub struct InboundContract {
    /// The event's name.
    pub event: String,
    /// JSON Schema of its argument, or of the array of its arguments.
    pub data: Value,
    /// How many arguments it has.
    pub arguments: Arguments,
    /// JSON Schema of a successful ack: of its argument, or of the array of its arguments. `None`
    /// if the ack is `null`.
    pub reply: Option<Value>,
    /// How many arguments a successful ack has. One of a rejection has one.
    pub reply_arguments: Arguments,
    /// Who may send it.
    pub access: Access,
}

/// An event that clients may receive.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboundContract {
    /// The event's name.
    pub event: String,
    /// JSON Schema of its argument, or of the array of its arguments.
    pub data: Value,
    /// How many arguments it has.
    pub arguments: Arguments,
    /// The rooms that it may go to. It may always go to one connection.
    pub rooms: Vec<RoomPattern>,
    /// Whether it may go to every connection.
    pub everyone: bool,
}

impl Contract {
    /// Makes the contract of a generation from the declarations of its plugins and from its rooms.
    pub fn new<'plugin>(
        generation: u64,
        plugins: impl IntoIterator<Item = &'plugin Registration>,
        rooms: &[RoomRule],
    ) -> Self {
        Self {
            generation,
            plugins: plugins.into_iter().map(PluginContract::from).collect(),
            rooms: rooms.to_vec(),
            host_outbound: vec![error_event()],
            operator_outbound: Vec::new(),
        }
    }
}

impl From<&Registration> for PluginContract {
    fn from(registration: &Registration) -> Self {
        let inbound = registration.handles.iter().map(|declared| InboundContract {
            event: declared.event.clone(),
            data: schema(&declared.data),
            arguments: declared.arguments,
            reply: declared.reply.as_deref().map(schema),
            reply_arguments: declared.reply_arguments,
            access: declared.access.clone(),
        });
        let outbound = registration.emits.iter().map(|declared| OutboundContract {
            event: declared.event.clone(),
            data: schema(&declared.data),
            arguments: declared.arguments,
            rooms: declared.rooms.clone(),
            everyone: declared.everyone,
        });
        let rooms = registration.rooms.iter().map(|room| RoomRule::new(room, &registration.name));
        let (mut inbound, mut outbound) = (Vec::from_iter(inbound), Vec::from_iter(outbound));
        inbound.sort_by(|a, b| a.event.cmp(&b.event));
        outbound.sort_by(|a, b| a.event.cmp(&b.event));
        Self {
            name: registration.name.clone(),
            version: registration.version.clone(),
            inbound,
            outbound,
            rooms: rooms.collect(),
            listens: registration.listens.clone(),
            routes: registration.routes.clone(),
            acks: registration.acks.iter().map(|declared| declared.ack.clone()).collect(),
            timers: registration.timers.iter().map(|declared| declared.timer.clone()).collect(),
            schedules: registration.schedules.clone(),
        }
    }
}

impl OutboundContract {
    /// The rooms and templates that it may go to, and `*` if it may go to every connection.
    pub fn targets(&self) -> Vec<String> {
        let everyone = self.everyone.then(|| "*".to_owned());
        self.rooms.iter().map(ToString::to_string).chain(everyone).collect()
    }
}

/// Parses a schema. The registry has compiled it before, so it is JSON.
fn schema(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// The event `error`: why an event without an ack was rejected. An ack contains the same object as
/// its member `error`.
fn error_event() -> OutboundContract {
    let detail = json!({
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "rule": {"type": "string"},
            "message": {"type": "string"},
        },
        "required": ["path", "rule", "message"],
    });
    let data = json!({
        "type": "object",
        "properties": {
            "code": {"enum": CODES},
            "message": {"type": "string"},
            "event": {"type": "string"},
            "id": {"type": "string"},
            "reason": {"type": "string"},
            "retry": {"enum": ["safe", "unsafe", "never"]},
            "origin": {"enum": ["host", "handler"]},
            "retry_after_ms": {"type": "integer", "minimum": 1},
            "details": {"type": "array", "items": detail},
        },
        "required": ["code", "message", "id", "retry", "origin"],
    });
    OutboundContract {
        event: ERROR.to_owned(),
        data,
        arguments: Arguments::One,
        rooms: Vec::new(),
        everyone: false,
    }
}

/// The codes of rejections.
const CODES: [&str; 11] = [
    "invalid_payload",
    "unknown_event",
    "unauthorized",
    "forbidden",
    "refused",
    "rate_limited",
    "busy",
    "too_large",
    "plugin_failed",
    "timed_out",
    "unavailable",
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sockhop_core::declarations::{DeclaredTimer, InboundEvent, OutboundEvent};

    use super::*;
    use crate::event::host_event;
    use crate::rejection::{Detail, Refusal, Rejection};
    use crate::rule::DeclaredRoom;
    use crate::schema::Schema;

    fn pattern(text: &str) -> RoomPattern {
        text.parse().unwrap()
    }

    fn inbound(event: &str, reply: Option<&str>, access: Access) -> InboundEvent {
        let reply = reply.map(str::to_owned);
        InboundEvent {
            event: event.to_owned(),
            data: "{}".to_owned(),
            reply,
            access,
            arguments: Arguments::One,
            reply_arguments: Arguments::One,
        }
    }

    #[test]
    fn the_contract_has_the_declarations_of_each_plugin_sorted_by_event() {
        let notes = Registration {
            name: "notes".to_owned(),
            version: "1.2.0".to_owned(),
            description: "for operators".to_owned(),
            handles: vec![
                inbound("write", Some(r#"{"type":"null"}"#), Access::Authenticated),
                inbound("read", None, Access::Anyone),
            ],
            emits: vec![OutboundEvent {
                event: "written".to_owned(),
                data: r#"{"type":"object"}"#.to_owned(),
                arguments: Arguments::List,
                rooms: vec![pattern("user_{user}")],
                everyone: true,
            }],
            rooms: vec![DeclaredRoom { pattern: pattern("user_{user}"), access: Access::Owner }],
            listens: vec![host_event::CONNECT],
            routes: Vec::new(),
            acks: Vec::new(),
            timers: vec![DeclaredTimer { timer: "late".to_owned(), data: "true".to_owned() }],
            schedules: Vec::new(),
            handshake: false,
        };
        let rule = RoomRule {
            pattern: pattern("user_{user}"),
            access: Access::Owner,
            owner: "notes".to_owned(),
        };
        let written = OutboundContract {
            event: "written".to_owned(),
            data: json!({"type": "object"}),
            arguments: Arguments::List,
            rooms: vec![pattern("user_{user}")],
            everyone: true,
        };
        assert_eq!(written.targets(), ["user_{user}", "*"]);
        let contract = Contract::new(7, [&notes], std::slice::from_ref(&rule));
        assert_eq!((contract.generation, &contract.rooms), (7, &vec![rule.clone()]));
        assert_eq!(
            contract.plugins,
            [PluginContract {
                name: "notes".to_owned(),
                version: "1.2.0".to_owned(),
                inbound: vec![
                    InboundContract {
                        event: "read".to_owned(),
                        data: json!({}),
                        arguments: Arguments::One,
                        reply: None,
                        reply_arguments: Arguments::One,
                        access: Access::Anyone,
                    },
                    InboundContract {
                        event: "write".to_owned(),
                        data: json!({}),
                        arguments: Arguments::One,
                        reply: Some(json!({"type": "null"})),
                        reply_arguments: Arguments::One,
                        access: Access::Authenticated,
                    },
                ],
                outbound: vec![written],
                rooms: vec![rule],
                listens: vec!["$connect"],
                routes: Vec::new(),
                timers: vec!["late".to_owned()],
                acks: Vec::new(),
                schedules: Vec::new(),
            }]
        );
    }

    #[test]
    fn every_rejection_fits_the_schema_of_the_event_error() {
        let contract = Contract::new(1, [], &[]);
        let [error] = contract.host_outbound.as_slice() else { panic!("one event") };
        let schema = Schema::compile(&error.data.to_string(), 4096).unwrap();
        let text = || "text".to_owned();
        let detail = Detail { path: text(), rule: text(), message: text() };
        let retry_after = Duration::from_secs(1);
        let rejections = [
            Rejection::against_schema(vec![detail]),
            Rejection::UnknownEvent,
            Rejection::Unauthorized(text()),
            Rejection::Forbidden(text()),
            Rejection::Refused(Refusal::new("not_found", "text")),
            Rejection::RateLimited { message: text(), retry_after },
            Rejection::Busy(text()),
            Rejection::TooLarge(text()),
            Rejection::PluginFailed,
            Rejection::TimedOut,
            Rejection::Unavailable(text()),
        ];
        assert_eq!(rejections.each_ref().map(Rejection::code), CODES);
        for rejection in rejections {
            schema.check(&rejection.document(Some("event"), "01JD")).unwrap();
            // About no event, such as that a token has expired.
            schema.check(&rejection.document(None, "01JD")).unwrap();
        }
    }
}
