//! The declarations that a plugin makes in `register`, checked call by call. Schemas are not parsed
//! here: only their length is checked. Arguments have the types of the WIT interface, in plain
//! Rust.

mod acks;
mod arguments;

use crate::arguments::Arguments;
use crate::limits;
use crate::name::{RESERVED_PLUGIN_NAMES, host_event, is_event_name, is_plugin_name};
use crate::rejection::Refusal;
use crate::route::Route;
use crate::rule::{Access, DeclaredRoom, RoomPattern};

pub use acks::DeclaredAck;

/// A plugin's complete and checked declarations. The registry checks whether they are compatible
/// with those of other plugins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Registration {
    /// The plugin's name, which is also the name of its slot.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// Description for operators.
    pub description: String,
    /// The events that it handles.
    pub handles: Vec<InboundEvent>,
    /// The events that it emits.
    pub emits: Vec<OutboundEvent>,
    /// The rooms that it declares.
    pub rooms: Vec<DeclaredRoom>,
    /// The host events that it subscribes to.
    pub listens: Vec<&'static str>,
    /// The HTTP routes of its events.
    pub routes: Vec<Route>,
    /// The acks by which its handlers get the answers of clients.
    pub acks: Vec<DeclaredAck>,
    /// The timers that its handlers set.
    pub timers: Vec<DeclaredTimer>,
    /// The timers that the host sets by a schedule.
    pub schedules: Vec<DeclaredSchedule>,
    /// Whether its handlers may read the handshake of their caller.
    pub handshake: bool,
}

/// A timer that handlers set.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredTimer {
    /// Name.
    pub timer: String,
    /// JSON Schema of its data.
    pub data: String,
}

/// A timer that the host sets, again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredSchedule {
    /// Name.
    pub timer: String,
    /// Cron pattern of its times.
    pub cron: String,
    /// The time zone of the pattern.
    pub zone: String,
}

/// An inbound event.
#[derive(Debug, Clone, PartialEq)]
pub struct InboundEvent {
    /// Event type.
    pub event: String,
    /// JSON Schema of its payload.
    pub data: String,
    /// JSON Schema of its ack.
    pub reply: Option<String>,
    /// Who may send it.
    pub access: Access,
    /// How many arguments it has.
    pub arguments: Arguments,
    /// How many arguments its ack has.
    pub reply_arguments: Arguments,
}

/// An outbound event.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboundEvent {
    /// Event type.
    pub event: String,
    /// JSON Schema of its argument, or of the array of its arguments.
    pub data: String,
    /// How many arguments it has.
    pub arguments: Arguments,
    /// The rooms and templates of rooms that it may be sent to.
    pub rooms: Vec<RoomPattern>,
    /// Whether it may be sent to every connection (`*`).
    pub everyone: bool,
}

/// Collects the declarations of one `register`. After the first refused call the load fails, even
/// if the plugin ignores the refusal.
#[derive(Debug)]
pub struct Declarations {
    /// The accepted declarations. `None` before the call of `registry.plugin`.
    registration: Option<Registration>,
    /// The first refusal.
    refused: Option<Refusal>,
    /// Number of calls that are still accepted.
    calls_left: usize,
    /// Maximum bytes of one schema.
    schema_bytes: usize,
    /// Bytes that the remaining schemas may have in total.
    schema_bytes_left: usize,
}

/// All schemas of a plugin together may have as many bytes as this number of schemas of the maximum
/// size. This limits what the host must keep and compile.
const LARGEST_SCHEMAS: usize = 16;

impl Default for Declarations {
    fn default() -> Self {
        Self::new(limits::DECLARATIONS, limits::SCHEMA_BYTES)
    }
}

impl Declarations {
    /// Accepts at most `declarations` calls, with schemas of at most `schema_bytes` bytes each.
    pub fn new(declarations: usize, schema_bytes: usize) -> Self {
        Self {
            registration: None,
            refused: None,
            calls_left: declarations,
            schema_bytes,
            schema_bytes_left: LARGEST_SCHEMAS.saturating_mul(schema_bytes),
        }
    }

    /// Returns the complete registration.
    ///
    /// # Errors
    /// The first refusal, or a refusal if `plugin` was never called.
    pub fn finish(self) -> Result<Registration, Refusal> {
        match (self.refused, self.registration) {
            (Some(refusal), _) => Err(refusal),
            (None, None) => Err(Refusal::misuse(
                "`register` returned without a call of `registry.plugin`, which names the plugin",
            )),
            (None, Some(registration)) => Ok(registration),
        }
    }

    /// Names the plugin. It is the first call, and there is exactly one.
    ///
    /// # Errors
    /// `misuse`, `limit`.
    pub fn plugin(
        &mut self,
        name: &str,
        version: &str,
        description: String,
    ) -> Result<(), Refusal> {
        self.declare(|this| {
            if this.registration.is_some() {
                return Err(Refusal::misuse("`registry.plugin` was called twice"));
            }
            if !is_plugin_name(name) {
                return Err(Refusal::misuse(format!(
                    "`{name}` is not a valid plugin name: it must \
                                        match [a-z][a-z0-9_]{{0,63}}"
                )));
            }
            if RESERVED_PLUGIN_NAMES.contains(&name) {
                return Err(Refusal::misuse(format!(
                    "`{name}` is not a valid plugin name: it is a \
                                        key of the configuration's table `[plugins]`"
                )));
            }
            if let Err(error) = semver::Version::parse(version) {
                return Err(Refusal::misuse(format!(
                    "`{version}` is not a semantic version, such as \
                                        1.4.0: {error}"
                )));
            }
            this.registration = Some(Registration {
                name: name.to_owned(),
                version: version.to_owned(),
                description,
                ..Registration::default()
            });
            Ok(())
        })
    }

    /// Declares an event that the plugin handles.
    ///
    /// # Errors
    /// `misuse`, `limit`.
    pub fn handles(
        &mut self,
        event: &str,
        data: String,
        reply: Option<String>,
    ) -> Result<(), Refusal> {
        self.declare(|this| {
            this.check_schema(event, &data)?;
            if let Some(reply) = &reply {
                this.check_schema(event, reply)?;
            }
            check_event_name(event)?;
            let plugin = this.registration()?;
            if plugin.handles.iter().any(|other| other.event == event) {
                return Err(Refusal::misuse(format!(
                    "event `{event}` has two handlers; an event has one"
                )));
            }
            plugin.handles.push(InboundEvent {
                event: event.to_owned(),
                data,
                reply,
                access: Access::Anyone,
                arguments: Arguments::One,
                reply_arguments: Arguments::One,
            });
            Ok(())
        })
    }

    /// Restricts who may send an event that was declared with [`Declarations::handles`]. If it is
    /// called again for the same event, the last call counts.
    ///
    /// # Errors
    /// `misuse`, `limit`.
    pub fn requires(&mut self, event: &str, access: &str) -> Result<(), Refusal> {
        self.declare(|this| {
            let access = access.parse::<Access>().map_err(Refusal::misuse)?;
            if access.is_for_rooms_only() {
                return Err(Refusal::misuse(format!(
                    "event `{event}` can't require `{access}`: that is a rule of rooms"
                )));
            }
            match this.registration()?.handles.iter_mut().find(|inbound| inbound.event == event) {
                Some(inbound) => inbound.access = access,
                None => {
                    return Err(Refusal::misuse(format!(
                        "event `{event}` can't require anything: this plugin does not handle it; \
                         call `requires` directly after the declaration of the event"
                    )));
                }
            }
            Ok(())
        })
    }

    /// Declares an event that the plugin emits, and the rooms that it may go to.
    ///
    /// # Errors
    /// `misuse`, `limit`.
    pub fn emits(&mut self, event: &str, data: String, rooms: &[String]) -> Result<(), Refusal> {
        self.declare(|this| {
            this.check_schema(event, &data)?;
            check_event_name(event)?;
            let everyone = rooms.iter().any(|room| room == EVERYONE);
            let rooms = rooms
                .iter()
                .filter(|room| *room != EVERYONE)
                .map(|room| room.parse())
                .collect::<Result<_, _>>();
            let rooms = rooms
                .map_err(|error: String| Refusal::misuse(format!("event `{event}`: {error}")))?;
            let plugin = this.registration()?;
            if plugin.emits.iter().any(|other| other.event == event) {
                return Err(Refusal::misuse(format!(
                    "event `{event}` is declared twice with `emits`"
                )));
            }
            let (event, arguments) = (event.to_owned(), Arguments::One);
            plugin.emits.push(OutboundEvent { event, data, arguments, rooms, everyone });
            Ok(())
        })
    }

    /// Declares a room, or a template for rooms, and who may join. A second declaration must be
    /// identical.
    ///
    /// # Errors
    /// `misuse`, `limit`.
    pub fn room(&mut self, pattern: &str, access: &str) -> Result<(), Refusal> {
        self.declare(|this| {
            let pattern: RoomPattern = pattern.parse().map_err(Refusal::misuse)?;
            let access = access.parse::<Access>().map_err(Refusal::misuse)?;
            if access == Access::Owner && !pattern.is_template() {
                return Err(Refusal::misuse(format!(
                    "room `{pattern}` can't have an owner: only a template, such as \
                     `user_{{user}}`, names a user"
                )));
            }
            let plugin = this.registration()?;
            match plugin.rooms.iter().find(|declared| declared.pattern == pattern) {
                Some(declared) if declared.access != access => Err(Refusal::misuse(format!(
                    "room `{pattern}` is declared twice, for `{}` and \
                                        for `{access}`",
                    declared.access
                ))),
                Some(_) => Ok(()),
                None => {
                    plugin.rooms.push(DeclaredRoom { pattern, access });
                    Ok(())
                }
            }
        })
    }

    /// Subscribes to a host event.
    ///
    /// # Errors
    /// `misuse`, `limit`.
    pub fn listens(&mut self, event: &str) -> Result<(), Refusal> {
        self.declare(|this| {
            let Some(known) = host_event::ALL.into_iter().find(|known| *known == event) else {
                return Err(Refusal::misuse(format!(
                    "`{event}` is not a host event; the host events are {}",
                    host_event::ALL.join(", ")
                )));
            };
            let plugin = this.registration()?;
            if plugin.listens.contains(&known) {
                return Err(Refusal::misuse(format!("host event `{event}` has two handlers")));
            }
            plugin.listens.push(known);
            Ok(())
        })
    }

    /// Declares an HTTP route for an event that was declared with [`Declarations::handles`].
    ///
    /// # Errors
    /// `misuse`, `limit`.
    pub fn route(&mut self, method: &str, path: &str, event: &str) -> Result<(), Refusal> {
        self.declare(|this| {
            let route = Route::new(method, path, event).map_err(Refusal::misuse)?;
            let plugin = this.registration()?;
            let Some(inbound) = plugin.handles.iter().find(|inbound| inbound.event == event) else {
                return Err(Refusal::misuse(format!(
                    "route `{route}` is for the event `{event}`, which this plugin does not \
                     handle; declare the event before its route"
                )));
            };
            arguments::check_route(&route, inbound)?;
            if let Some(other) = plugin.routes.iter().find(|other| other.matches_same(&route)) {
                return Err(Refusal::misuse(format!(
                    "route `{route}` is declared twice: `{other}` is for the same requests"
                )));
            }
            plugin.routes.push(route);
            Ok(())
        })
    }

    /// Asks for the handshakes of connections.
    ///
    /// # Errors
    /// `misuse`, `limit`.
    pub fn handshake(&mut self) -> Result<(), Refusal> {
        self.declare(|this| {
            this.registration()?.handshake = true;
            Ok(())
        })
    }

    /// Declares a timer that handlers of the plugin set.
    ///
    /// # Errors
    /// `misuse`, `limit`.
    pub fn timer(&mut self, timer: &str, data: String) -> Result<(), Refusal> {
        self.declare(|this| {
            this.check_schema(timer, &data)?;
            this.new_timer(timer)?.timers.push(DeclaredTimer { timer: timer.to_owned(), data });
            Ok(())
        })
    }

    /// Declares a timer that the host sets, by a cron pattern in a time zone. They are read
    /// together with the schemas.
    ///
    /// # Errors
    /// `misuse`, `limit`.
    pub fn every(&mut self, timer: &str, cron: &str, zone: &str) -> Result<(), Refusal> {
        self.declare(|this| {
            this.new_timer(timer)?.schedules.push(DeclaredSchedule {
                timer: timer.to_owned(),
                cron: cron.to_owned(),
                zone: zone.to_owned(),
            });
            Ok(())
        })
    }

    /// Returns the accepted declarations if a timer of this name can be added to them.
    fn new_timer(&mut self, timer: &str) -> Result<&mut Registration, Refusal> {
        if !is_event_name(timer) {
            return Err(Refusal::misuse(format!(
                "`{}` is not a valid name of a timer: it has the form of an event's name",
                timer.escape_debug()
            )));
        }
        let plugin = self.registration()?;
        let declared = plugin.timers.iter().map(|declared| &declared.timer);
        let mut all = declared.chain(plugin.schedules.iter().map(|declared| &declared.timer));
        if all.any(|other| other == timer) {
            return Err(Refusal::misuse(format!("timer `{timer}` is declared twice")));
        }
        Ok(plugin)
    }

    /// Counts one call, runs `check_and_add` for it, and keeps the first refusal.
    fn declare(
        &mut self,
        check_and_add: impl FnOnce(&mut Self) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let result = match self.calls_left.checked_sub(1) {
            Some(left) => {
                self.calls_left = left;
                check_and_add(self)
            }
            None => Err(Refusal::limit("`register` makes more declarations than the host allows")),
        };
        if let Err(refusal) = &result {
            self.refused.get_or_insert_with(|| refusal.clone());
        }
        result
    }

    /// Returns the accepted declarations, or a refusal if `registry.plugin` was not called yet.
    fn registration(&mut self) -> Result<&mut Registration, Refusal> {
        self.registration.as_mut().ok_or_else(|| {
            Refusal::misuse("the first call of `register` must be `registry.plugin`")
        })
    }

    /// Checks the length of a schema, and counts it against the total of the plugin.
    fn check_schema(&mut self, event: &str, schema: &str) -> Result<(), Refusal> {
        if schema.len() > self.schema_bytes {
            return Err(Refusal::limit(format!(
                "event `{event}`: a schema has {} bytes; at most {} are allowed",
                schema.len(),
                self.schema_bytes
            )));
        }
        self.schema_bytes_left =
            self.schema_bytes_left.checked_sub(schema.len()).ok_or_else(|| {
                let max = LARGEST_SCHEMAS.saturating_mul(self.schema_bytes);
                Refusal::limit(format!(
                    "event `{event}`: with this schema, the schemas of the plugin \
                                    have more than {max} bytes in total"
                ))
            })?;
        Ok(())
    }
}

/// The entry among the rooms of `emits` that means every connection.
const EVERYONE: &str = "*";

fn check_event_name(event: &str) -> Result<(), Refusal> {
    if is_event_name(event) {
        return Ok(());
    }
    Err(Refusal::misuse(format!(
        "`{}` is not a valid event name: it must have 1 to 64 printable ASCII characters except \
         `\"` and `\\`, must not begin with `$`, and must not be reserved by Socket.IO or by the \
         host",
        event.escape_debug()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Message;

    fn with_name() -> Declarations {
        let mut declarations = Declarations::new(10, 100);
        declarations.plugin("echo", "1.0.0", String::new()).unwrap();
        declarations
    }

    #[test]
    fn the_first_refusal_fails_the_load_even_if_the_plugin_ignores_it() {
        let mut declarations = with_name();
        declarations.handles("echo", "{}".into(), None).unwrap();
        declarations.handles("echo", "{}".into(), None).unwrap_err();
        declarations.handles("$start", "{}".into(), None).unwrap_err();
        assert!(declarations.finish().unwrap_err().message.contains("two handlers"));
    }

    #[test]
    fn declarations_and_schemas_are_limited() {
        let mut declarations = with_name();
        assert_eq!(declarations.handles("e", " ".repeat(101), None).unwrap_err().code, "limit");
        let mut declarations = with_name();
        for n in 0..9 {
            declarations.handles(&format!("e{n}"), "{}".into(), None).unwrap();
        }
        let mut many = Declarations::new(100, 100);
        many.plugin("echo", "1.0.0", String::new()).unwrap();
        let refused = (0..17)
            .map(|n| many.handles(&format!("e{n}"), " ".repeat(100), None))
            .filter(Result::is_err)
            .count();
        assert_eq!(refused, 1, "all schemas together are limited too");
        assert_eq!(declarations.handles("e9", "{}".into(), None).unwrap_err().code, "limit");
    }

    #[test]
    fn an_invalid_declaration_is_refused_and_its_message_names_the_invalid_argument() {
        type Call = fn(&mut Declarations) -> Result<(), Refusal>;
        let cases: [(Call, &str); 20] = [
            (|d| d.plugin("again", "1.0.0", String::new()), "twice"),
            (|d| d.requires("nope", "anyone"), "`nope`"),
            (|d| d.room("admin", "owner"), "`admin`"),
            (|d| d.room("a{", "anyone"), "`a{`"),
            (|d| d.room("admin", "root"), "`root`"),
            (|d| d.listens("$tick"), "`$tick`"),
            (|d| d.emits("connect", "{}".into(), &[]), "`connect`"),
            (|d| d.emits("e", "{}".into(), &["}".into()]), "`}`"),
            (|d| d.route("FETCH", "/e", "e"), "`FETCH`"),
            (|d| d.route("GET", "/api/e", "e"), "`/api/e`"),
            (|d| d.route("GET", "/e", "nope"), "`nope`"),
            (|d| d.timer("$t", "{}".into()), "`$t`"),
            (|d| d.arguments(Message::Event, "nope"), "`nope`"),
            (|d| d.arguments(Message::Emit, "nope"), "`nope`"),
            (
                |d| {
                    d.handles("e", "{}".into(), None)?;
                    d.arguments(Message::Reply, "e")
                },
                "no reply",
            ),
            (
                |d| {
                    d.handles("e", "{}".into(), None)?;
                    d.arguments(Message::Event, "e")?;
                    d.route("GET", "/e", "e")
                },
                "`GET /e`",
            ),
            (
                |d| {
                    d.handles("e", "{}".into(), Some("{}".into()))?;
                    d.route("GET", "/e", "e")?;
                    d.arguments(Message::Reply, "e")
                },
                "`GET /e`",
            ),
            (|d| d.every("", "* * * * *", "UTC"), "``"),
            (
                |d| {
                    d.timer("t", "{}".into())?;
                    d.every("t", "* * * * *", "UTC")
                },
                "`t`",
            ),
            (
                |d| {
                    d.handles("e", "{}".into(), None)?;
                    d.route("GET", "/e/{a}", "e")?;
                    d.route("POST", "/e/{b}", "e")?;
                    d.route("GET", "/e/{b}", "e")
                },
                "`GET /e/{b}`",
            ),
        ];
        for (call, names) in cases {
            let refusal = call(&mut with_name()).unwrap_err();
            assert!(refusal.message.contains(names), "{names}: {}", refusal.message);
        }
        let mut unnamed = Declarations::new(10, 100);
        assert!(
            unnamed
                .handles("e", "{}".into(), None)
                .unwrap_err()
                .message
                .contains("registry.plugin")
        );
        assert!(Declarations::new(10, 100).plugin("Echo", "1.0.0", String::new()).is_err());
        assert!(Declarations::new(10, 100).plugin("echo", "1", String::new()).is_err());
        assert!(Declarations::new(10, 100).plugin("dir", "1.0.0", String::new()).is_err());
    }
}
