//! The declared events of one plugin with their compiled schemas, and the checks of payloads,
//! replies and emitted data against them.

mod acks;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::ack;
use crate::arguments::Arguments;
use crate::attachment::placeholders_match;
use crate::declarations::{DeclaredSchedule, Registration};
use crate::effect::Target;
use crate::json::{Json, is_deeper};
use crate::rejection::{Detail, Refusal, Rejection};
use crate::route::Route;
use crate::rule::{Access, RoomPattern};
use crate::schedule::{Schedule, ScheduleError};
use crate::schema::{Schema, SchemaError};
use crate::timer;

pub use acks::{Ack, check_context, declared_ack};

/// Maximum number of patterns in all schemas of one plugin. A compiled pattern may take 256 KiB.
const MAX_PATTERNS: usize = 500;

/// The events of one plugin.
#[derive(Debug)]
pub struct Events {
    /// The events that clients may send, by name.
    pub inbound: BTreeMap<String, Inbound>,
    /// The events that the plugin emits, by name.
    pub outbound: BTreeMap<String, Outbound>,
    /// The answers that clients give to emits with an ack, by the ack's name.
    pub acks: BTreeMap<String, Ack>,
    /// The schemas of the data of the timers that handlers set, by the timer's name.
    pub timers: BTreeMap<String, Arc<Schema>>,
    /// The times of the timers that the host sets, by the timer's name.
    pub schedules: BTreeMap<String, Schedule>,
}

/// An event that clients may send.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// Schema of the payload.
    pub data: Arc<Schema>,
    /// Schema of the ack. `None` if the ack is `null`.
    pub reply: Option<Arc<Schema>>,
    /// Who may send it.
    pub access: Access,
    /// How many arguments it has.
    pub arguments: Arguments,
    /// How many arguments the ack has.
    pub reply_arguments: Arguments,
}

/// An event that a plugin emits.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// Schema of its argument, or of the array of its arguments. If a reply has the same schema,
    /// both are the same [`Arc`]: emitted data need not be checked again when it is the reply.
    pub data: Arc<Schema>,
    /// How many arguments it has.
    pub arguments: Arguments,
    /// The rooms that it may go to.
    pub rooms: Vec<RoomPattern>,
    /// Whether it may go to everyone.
    pub everyone: bool,
}

/// Why the schemas of a plugin are not allowed.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
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
    /// The schedule of a timer is refused.
    #[error("timer `{timer}`: its schedule is refused")]
    Schedule {
        /// The timer.
        timer: String,
        /// Why it is refused.
        source: ScheduleError,
    },
    /// The plugin has more patterns than the host compiles for one plugin.
    #[error("the schemas of the plugin have more than {MAX_PATTERNS} patterns in all")]
    TooManyPatterns,
    /// The schema of a reply allows a top-level property `error`, in its first argument if it has a
    /// list of them, by which clients recognize a rejection.
    #[error(
        "event `{event}`: its reply may not have a property `error` at its top level, or that of \
         its first argument, because clients recognise a rejection by it; rename it"
    )]
    ReplyHasError {
        /// The event.
        event: String,
    },
    /// The variable in the path of a route is no property of its event's payload.
    #[error(
        "route `{route}`: the payload of `{event}` has no property `{variable}`; name the variable \
         of the path as the property"
    )]
    NoSuchProperty {
        /// The route.
        route: String,
        /// Its event.
        event: String,
        /// The variable.
        variable: String,
    },
}

impl Events {
    /// Compiles the schemas of a registration, each of at most `schema_bytes` bytes.
    ///
    /// # Errors
    /// Returns the first schema that is not allowed.
    pub fn compile(registration: &Registration, schema_bytes: usize) -> Result<Self, EventsError> {
        let mut compiler = Compiler { schema_bytes, compiled: HashMap::new(), patterns: 0 };
        let mut inbound = BTreeMap::new();
        for declared in &registration.handles {
            let event = &declared.event;
            let data = compiler.compile(event, "payload", &declared.data)?;
            let reply = declared
                .reply
                .as_deref()
                .map(|reply| compiler.compile(event, "reply", reply))
                .transpose()?;
            let (arguments, reply_arguments) = (declared.arguments, declared.reply_arguments);
            let has_error =
                |reply: &Arc<Schema>| reply.allows_top_level_property(reply_arguments, "error");
            if reply.as_ref().is_some_and(has_error) {
                return Err(EventsError::ReplyHasError { event: event.clone() });
            }
            let access = declared.access.clone();
            let declared = Inbound { data, reply, access, arguments, reply_arguments };
            inbound.insert(event.clone(), declared);
        }
        let mut outbound = BTreeMap::new();
        for declared in &registration.emits {
            let data = compiler.compile(&declared.event, "data", &declared.data)?;
            let (arguments, everyone) = (declared.arguments, declared.everyone);
            let declared_as = Outbound { data, arguments, rooms: declared.rooms.clone(), everyone };
            outbound.insert(declared.event.clone(), declared_as);
        }
        let mut acks = BTreeMap::new();
        for declared in &registration.acks {
            let event = ack::event_name(&declared.ack);
            let data = compiler.compile(&event, "data", &declared.data)?;
            acks.insert(declared.ack.clone(), Ack { data, arguments: declared.arguments });
        }
        let mut timers = BTreeMap::new();
        for declared in &registration.timers {
            let event = timer::event_name(&declared.timer);
            let data = compiler.compile(&event, "data", &declared.data)?;
            timers.insert(declared.timer.clone(), data);
        }
        let mut schedules = BTreeMap::new();
        for DeclaredSchedule { timer, cron, zone } in &registration.schedules {
            let schedule = Schedule::parse(cron, zone)
                .map_err(|source| EventsError::Schedule { timer: timer.clone(), source })?;
            schedules.insert(timer.clone(), schedule);
        }
        let events = Self { inbound, outbound, acks, timers, schedules };
        registration.routes.iter().try_for_each(|route| events.check_route(route))?;
        Ok(events)
    }

    /// Checks that the payload of a route's event can have the variables of the path.
    fn check_route(&self, route: &Route) -> Result<(), EventsError> {
        let Some(inbound) = self.inbound.get(&route.event) else { return Ok(()) };
        let has = |name: &&str| inbound.data.may_have_property(inbound.arguments, name);
        match route.path.variables().find(|name| !has(name)) {
            None => Ok(()),
            Some(variable) => Err(EventsError::NoSuchProperty {
                route: route.to_string(),
                event: route.event.clone(),
                variable: variable.to_owned(),
            }),
        }
    }
}

/// Compiles each schema text of a plugin once.
struct Compiler<'text> {
    schema_bytes: usize,
    compiled: HashMap<&'text str, Arc<Schema>>,
    patterns: usize,
}

impl<'text> Compiler<'text> {
    fn compile(
        &mut self,
        event: &str,
        part: &'static str,
        text: &'text str,
    ) -> Result<Arc<Schema>, EventsError> {
        if let Some(known) = self.compiled.get(text) {
            return Ok(Arc::clone(known));
        }
        let schema = Schema::compile(text, self.schema_bytes)
            .map(Arc::new)
            .map_err(|source| EventsError::Schema { event: event.to_owned(), part, source })?;
        self.patterns += schema.patterns();
        self.compiled.insert(text, Arc::clone(&schema));
        if self.patterns > MAX_PATTERNS { Err(EventsError::TooManyPatterns) } else { Ok(schema) }
    }
}

/// Parses the payload of an event, which may be nested `max_depth` levels deep.
///
/// # Errors
/// Returns the rejection for the event's sender. It never quotes the text.
pub fn parse_payload(text: &str, max_depth: usize) -> Result<Value, Rejection> {
    if is_deeper(text, max_depth) {
        return Err(Rejection::TooLarge(format!("the payload nests deeper than {max_depth}")));
    }
    serde_json::from_str(text).map_err(|error| unreadable(text, &error))
}

/// Explains why a payload could not be parsed. The text between the event's name and the end of the
/// packet may be several arguments, or no JSON. The parser's message never quotes the text.
fn unreadable(text: &str, error: &serde_json::Error) -> Rejection {
    let arguments = serde_json::from_str::<Vec<serde::de::IgnoredAny>>(&format!("[{text}]"));
    match arguments.map(|arguments| arguments.len()) {
        Ok(count @ 2..) => Rejection::invalid(format!(
            "this event has at most one argument, and {count} were sent; put them into one object"
        )),
        _ => Rejection::invalid(format!("the payload can't be read as JSON: {error}")),
    }
}

/// Checks the payload of an event that has `attachments` attachments.
///
/// # Errors
/// Returns the rejection for the event's sender.
pub fn check_payload(
    text: &str,
    attachments: usize,
    schema: &Schema,
    max_depth: usize,
) -> Result<(), Rejection> {
    let value = parse_payload(text, max_depth)?;
    schema.check(&value).map_err(Rejection::against_schema)?;
    if placeholders_match(&value, attachments) {
        return Ok(());
    }
    Err(Rejection::invalid(
        "each binary attachment must be named by exactly one placeholder, and each placeholder \
         must name an attachment",
    ))
}

/// Returns the JSON for the ack if the handler's reply, with this number of attachments, matches
/// its schema. Without a schema, there must be no reply, and the ack is `null`.
///
/// # Errors
/// Describes for the plugin's author what is wrong with the reply.
pub fn check_reply(
    reply: Option<String>,
    attachments: usize,
    schema: Option<&Schema>,
    arguments: Arguments,
) -> Result<Json, String> {
    let Some(schema) = schema else {
        return match reply.as_deref() {
            None | Some("null") if attachments == 0 => Ok(Json::null()),
            _ => {
                Err("the handler replied, but its event was registered without a reply".to_owned())
            }
        };
    };
    let reply = reply.unwrap_or_else(|| "null".to_owned());
    let (mut reply, value) =
        Json::parse(reply).map_err(|error| format!("the reply is not JSON: {error}"))?;
    if arguments.are_list() {
        reply = reply.into_list(&value).ok_or(
            "the reply is no array, but its event was registered with a list of arguments in its \
             ack",
        )?;
    }
    // A schema that allows everything allows `error` too, but clients could not distinguish such a
    // reply from a rejection.
    if reply.has_error {
        return Err(match arguments {
            Arguments::One => "the reply has a property `error` at its top level".to_owned(),
            Arguments::List => "the first argument of the reply has a property `error`".to_owned(),
        });
    }
    // Without attachments, an object that looks like a placeholder is plain JSON, as it is for
    // clients: handlers may reply with what a client has sent.
    if attachments > 0 && !placeholders_match(&value, attachments) {
        return Err(format!(
            "the reply must name each of its {attachments} attachments by exactly one placeholder"
        ));
    }
    schema.check(&value).map_err(|details| {
        let details: Vec<_> = details.iter().map(in_words).collect();
        format!("the reply does not fit its schema: {}", details.join("; "))
    })?;
    Ok(reply)
}

/// A violation for the log, with its path.
fn in_words(detail: &Detail) -> String {
    format!("{} {}", detail.path, detail.message)
}

/// Returns the declaration of an event that a handler emits.
///
/// # Errors
/// `undeclared`.
pub fn declared<'declared>(
    outbound: &'declared BTreeMap<String, Outbound>,
    event: &str,
) -> Result<&'declared Outbound, Refusal> {
    outbound.get(event).ok_or_else(|| {
        Refusal::new("undeclared", format!("this plugin does not declare that it emits `{event}`"))
    })
}

/// Returns the schema of a timer that a handler sets or cancels.
///
/// # Errors
/// `undeclared`.
pub fn declared_timer<'declared>(
    timers: &'declared BTreeMap<String, Arc<Schema>>,
    timer: &str,
) -> Result<&'declared Schema, Refusal> {
    timers.get(timer).map(Arc::as_ref).ok_or_else(|| {
        Refusal::new("undeclared", format!("this plugin does not declare the timer `{timer}`"))
    })
}

/// Checks the data of a timer that a handler sets, and returns its text.
///
/// # Errors
/// `invalid_data`.
pub fn check_timer_data(timer: &str, data: String, schema: &Schema) -> Result<Json, Refusal> {
    checked_data(format_args!("timer `{timer}`"), data, schema).map(|(data, _)| data)
}

/// Checks data that a handler passes to the host. `of` is what the data belongs to.
fn checked_data(
    of: fmt::Arguments<'_>,
    data: String,
    schema: &Schema,
) -> Result<(Json, Value), Refusal> {
    let (data, value) = Json::parse(data).map_err(|error| {
        Refusal::new("invalid_data", format!("the data of {of} is not JSON: {error}"))
    })?;
    schema.check(&value).map_err(|details| {
        let first = details.first().map(in_words).unwrap_or_default();
        Refusal::new("invalid_data", format!("the data of {of} does not fit its schema: {first}"))
    })?;
    Ok((data, value))
}

impl Outbound {
    /// Whether the event may go to `room`.
    pub fn may_go_to(&self, room: &str) -> bool {
        self.everyone || self.rooms.iter().any(|pattern| pattern.matches(room).is_some())
    }

    /// Whether data of the event may fill a template with the property `name`: it is one of the
    /// first argument.
    pub fn may_have_property(&self, name: &str) -> bool {
        self.data.may_have_property(self.arguments, name)
    }

    /// Checks whether a handler may emit `event` to `to`. `has_sender` says whether a connection
    /// caused the handled event.
    ///
    /// # Errors
    /// `undeclared`, `misuse`.
    pub fn check_target(&self, event: &str, to: &Target, has_sender: bool) -> Result<(), Refusal> {
        if to.needs_sender() && !has_sender {
            return Err(Refusal::misuse("no connection caused this event: it has no sender"));
        }
        match to {
            Target::Sender | Target::Connection(_) => Ok(()),
            Target::Everyone if self.everyone => Ok(()),
            Target::Everyone => Err(Refusal::new(
                "undeclared",
                format!("the declaration of `{event}` does not send it to everyone (`*`)"),
            )),
            Target::Rooms(rooms) | Target::RoomsButSender(rooms) => {
                match rooms.iter().find(|room| !self.may_go_to(room)) {
                    Some(room) => Err(Refusal::new(
                        "undeclared",
                        format!("the declaration of `{event}` does not name the room `{room}`"),
                    )),
                    None => Ok(()),
                }
            }
        }
    }

    /// Checks the data of an emitted `event` that has `attachments` attachments. Returns its text
    /// and its value.
    ///
    /// # Errors
    /// `invalid_data`, `misuse`.
    pub fn check_data(
        &self,
        event: &str,
        data: String,
        attachments: usize,
    ) -> Result<(Json, Value), Refusal> {
        let (mut data, value) = checked_data(format_args!("`{event}`"), data, &self.data)?;
        if self.arguments.are_list() {
            data = data.into_list(&value).ok_or_else(|| {
                Refusal::new(
                    "invalid_data",
                    format!("the data of `{event}` is no array of its arguments"),
                )
            })?;
        }
        if !placeholders_match(&value, attachments) {
            return Err(Refusal::misuse(format!(
                "the data must name each of its {attachments} attachments by exactly one \
                 placeholder"
            )));
        }
        Ok((data, value))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::arguments::Message;
    use crate::declarations::Declarations;

    fn compiled(declare: impl FnOnce(&mut Declarations)) -> Result<Events, EventsError> {
        let mut declarations = Declarations::default();
        declarations.plugin("test", "1.0.0", String::new()).unwrap();
        declare(&mut declarations);
        Events::compile(&declarations.finish().unwrap(), 1024)
    }

    fn patterns(from: usize, count: usize) -> String {
        let properties: serde_json::Map<_, _> =
            (from..from + count).map(|n| (format!("p{n}"), json!({"pattern": "a"}))).collect();
        json!({"properties": properties}).to_string()
    }

    #[test]
    fn a_schema_that_is_refused_is_named_by_event_and_part() {
        let message = |declare: fn(&mut Declarations)| compiled(declare).unwrap_err().to_string();
        let payload = message(|d| d.handles("e", "[]".into(), None).unwrap());
        assert_eq!(payload, "event `e`: the schema of its payload is refused");
        let reply = message(|d| d.handles("e", "{}".into(), Some("[]".into())).unwrap());
        assert_eq!(reply, "event `e`: the schema of its reply is refused");
        let data = message(|d| d.emits("e", "[]".into(), &[]).unwrap());
        assert_eq!(data, "event `e`: the schema of its data is refused");
        let error = json!({"properties": {"error": true}}).to_string();
        let error = compiled(|d| d.handles("e", "{}".into(), Some(error)).unwrap()).unwrap_err();
        assert!(matches!(error, EventsError::ReplyHasError { .. }), "{error}");
    }

    #[test]
    fn a_schedule_that_is_refused_is_named_by_its_timer() {
        let events = compiled(|d| d.every("daily", "0 9 * * *", "UTC").unwrap()).unwrap();
        assert_eq!(events.schedules["daily"].to_string(), "0 9 * * * (UTC)");
        let error = compiled(|d| d.every("daily", "0 25 * * *", "UTC").unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "timer `daily`: its schedule is refused");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("`0 25 * * *`"), "{source}");
    }

    #[test]
    fn a_timer_follows_its_declaration() {
        let events = compiled(|d| {
            d.timer("remind", r#"{"type": "object"}"#.into()).unwrap();
            d.every("daily", "0 9 * * *", "UTC").unwrap();
        })
        .unwrap();
        let code = |timer: &str, data: &str| {
            declared_timer(&events.timers, timer)
                .and_then(|schema| check_timer_data(timer, data.to_owned(), schema))
                .map_err(|refusal| refusal.code)
        };
        assert_eq!(code("remind", "{}"), Ok(Json::parse("{}".to_owned()).unwrap().0));
        assert_eq!(code("remind", "1"), Err("invalid_data".to_owned()));
        assert_eq!(code("remind", "{"), Err("invalid_data".to_owned()));
        assert_eq!(code("other", "{}"), Err("undeclared".to_owned()));
        assert_eq!(code("daily", "null"), Err("undeclared".to_owned()), "the host sets it");
        let refused = compiled(|d| d.timer("remind", "[]".into()).unwrap()).unwrap_err();
        assert_eq!(refused.to_string(), "event `$timer:remind`: the schema of its data is refused");
    }

    #[test]
    fn a_variable_in_the_path_of_a_route_is_a_property_of_the_payload() {
        let of = |path: &'static str, closed: bool| {
            let mut schema = json!({"type": "object", "properties": {"id": true}});
            schema["additionalProperties"] = json!(!closed);
            compiled(move |d| {
                d.handles("e", schema.to_string(), None).unwrap();
                d.route("GET", path, "e").unwrap();
            })
        };
        assert!(of("/notes/{id}", true).is_ok() && of("/notes/{other}", false).is_ok());
        let refused = of("/notes/{other}", true).unwrap_err().to_string();
        assert!(refused.contains("GET /notes/{other}") && refused.contains("`other`"), "{refused}");
    }

    #[test]
    fn the_patterns_of_all_schemas_are_limited_and_a_repeated_schema_counts_once() {
        let declare = |schemas: usize| {
            move |d: &mut Declarations| {
                for n in 0..schemas {
                    let schema = patterns(n, 25);
                    d.handles(&format!("e{n}"), schema.clone(), Some(schema)).unwrap();
                }
            }
        };
        assert!(compiled(declare(MAX_PATTERNS / 25)).is_ok());
        let error = compiled(declare(MAX_PATTERNS / 25 + 1)).unwrap_err();
        assert!(matches!(error, EventsError::TooManyPatterns), "{error}");
    }

    #[test]
    fn a_payload_with_more_than_one_argument_or_too_many_levels_is_rejected() {
        let schema = Schema::compile("true", 1024).unwrap();
        let check = |text: &str, attachments| check_payload(text, attachments, &schema, 2);
        let message = |text: &str| check(text, 0).unwrap_err().message().to_owned();
        assert_eq!(check("[[]]", 0), Ok(()));
        assert_eq!(check("[[[]]]", 0).unwrap_err().code(), "too_large");
        assert!(message("1,2").contains("at most one argument"), "{}", message("1,2"));
        assert!(message("nope").contains("can't be read"), "{}", message("nope"));
        assert_eq!(check("[1]", 1).unwrap_err().code(), "invalid_payload");
    }

    #[test]
    fn a_reply_follows_its_declaration() {
        let schema = Schema::compile(r#"{"type": ["object", "null"]}"#, 1024).unwrap();
        let check = |reply: Option<&str>, schema| {
            check_reply(reply.map(str::to_owned), 0, schema, Arguments::One)
        };
        assert_eq!(check(None, None), Ok(Json::null()));
        assert!(check(Some("1"), None).is_err());
        assert_eq!(check(None, Some(&schema)), Ok(Json::null()));
        assert!(check(Some("{}"), Some(&schema)).is_ok());
        for wrong in ["1", "{", r#"{"error": 1}"#] {
            assert!(check(Some(wrong), Some(&schema)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_reply_with_a_list_of_arguments_is_an_array_whose_first_element_is_no_rejection() {
        let schema = Schema::compile("true", 1024).unwrap();
        let check = |reply: &str| {
            let reply = check_reply(Some(reply.to_owned()), 0, Some(&schema), Arguments::List)?;
            Ok::<_, String>(reply.arguments().to_owned())
        };
        assert_eq!(check(r#"[1, "2"]"#).as_deref(), Ok(r#"1, "2""#));
        assert_eq!(check("[]").as_deref(), Ok(""));
        assert!(check(r#"[1, {"error": 1}]"#).is_ok());
        for wrong in ["null", "{}", r#"[{"error": 1}]"#] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
        let compiled = |reply: Value| {
            compiled(|d| {
                d.handles("e", "{}".into(), Some(reply.to_string())).unwrap();
                d.arguments(Message::Reply, "e").unwrap();
            })
        };
        let error = json!({"properties": {"error": true}});
        let refused = |reply: Value| {
            matches!(compiled(reply).map(drop), Err(EventsError::ReplyHasError { .. }))
        };
        assert!(refused(json!({"prefixItems": [error]})));
        assert!(refused(json!({"items": {"$ref": "#/$defs/E"}, "$defs": {"E": error}})));
        assert!(!refused(json!({"prefixItems": [true, error]})));
        assert!(!refused(error), "it is about objects, and the reply is an array");
    }

    #[test]
    fn the_placeholders_of_a_reply_name_its_attachments() {
        let schema = Schema::compile("true", 1024).unwrap();
        let of = |index: u32| json!({"_placeholder": true, "num": index});
        let check = |reply: Value, attachments, arguments| {
            check_reply(Some(reply.to_string()), attachments, Some(&schema), arguments).is_ok()
        };
        assert!(check(json!({"a": of(0), "b": [of(1)]}), 2, Arguments::One));
        assert!(check(json!([1, of(1), of(0)]), 2, Arguments::List));
        assert!(check(of(0), 0, Arguments::One), "it is plain JSON");
        for (reply, attachments) in
            [(json!(1), 1), (of(1), 1), (of(0), 2), (json!([of(0), of(0)]), 1)]
        {
            assert!(!check(reply.clone(), attachments, Arguments::One), "{reply}");
        }
        assert!(check_reply(None, 1, None, Arguments::One).is_err());
    }

    #[test]
    fn an_emit_with_a_list_of_arguments_is_an_array() {
        let events = compiled(|d| {
            d.emits("moved", "true".into(), &["user_{user}".to_owned()]).unwrap();
            d.arguments(Message::Emit, "moved").unwrap();
        })
        .unwrap();
        let moved = declared(&events.outbound, "moved").unwrap();
        let (data, value) = moved.check_data("moved", r#"[{"user": 7}, 2]"#.into(), 0).unwrap();
        assert_eq!(data.arguments(), r#"{"user": 7}, 2"#);
        assert_eq!(moved.rooms[0].fill(moved.arguments.first(&value)).as_deref(), Some("user_7"));
        let refused = moved.check_data("moved", "{}".into(), 0).unwrap_err();
        assert_eq!(refused.code, "invalid_data");
    }

    #[test]
    fn an_emit_follows_its_declaration() {
        let events = compiled(|d| {
            let rooms = ["lobby".to_owned(), "user_{user}".to_owned()];
            d.emits("said", r#"{"type": "object"}"#.into(), &rooms).unwrap();
            d.emits("all", "true".into(), &["*".to_owned()]).unwrap();
        })
        .unwrap();
        let code = |event: &str, to: Target, has_sender| {
            let outbound = declared(&events.outbound, event);
            let checked =
                outbound.and_then(|outbound| outbound.check_target(event, &to, has_sender));
            checked.map_err(|refusal| refusal.code)
        };
        let (undeclared, misuse) = (Err("undeclared".to_owned()), Err("misuse".to_owned()));
        assert_eq!(code("said", Target::room("user_7"), false), Ok(()));
        assert_eq!(code("said", Target::room("hall"), false), undeclared);
        assert_eq!(code("said", Target::Everyone, false), undeclared);
        assert_eq!(code("said", Target::Sender, false), misuse);
        assert_eq!(code("said", Target::RoomsButSender(vec!["lobby".into()]), false), misuse);
        assert_eq!(code("said", Target::RoomsButSender(vec!["lobby".into()]), true), Ok(()));
        assert_eq!(code("all", Target::room("hall"), false), Ok(()));
        assert_eq!(code("other", Target::Sender, true), undeclared);

        let said = declared(&events.outbound, "said").unwrap();
        let code = |data: &str, attachments| {
            said.check_data("said", data.to_owned(), attachments).map_err(|refusal| refusal.code)
        };
        assert!(code("{}", 0).is_ok());
        assert_eq!(code("1", 0), Err("invalid_data".to_owned()));
        assert_eq!(code("{", 0), Err("invalid_data".to_owned()));
        assert_eq!(code("{}", 1), Err("misuse".to_owned()));
    }
}
