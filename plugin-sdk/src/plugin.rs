//! What a plugin is: a list of declarations, each made once, from which both `register` and `handle` are answered.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;

use crate::context::{Context, Event};
use crate::handlers::{Call, Handler, Output, Payload, encode, erase, has_no_reply, output_schema, payload_schema};
use crate::host::{Host, Registry};
use crate::refusal::{Refusal, Result};

/// A plugin: its name, what it handles, what it emits, and the rooms that it owns.
///
/// Made by one function of yours, which [`export!`](crate::export) turns into a component and
/// [`TestHost`](crate::testing::TestHost) runs natively. Nothing is checked here: the host refuses what is wrong (two handlers for one
/// event, a name that is none) when it loads the plugin, and says what it was.
pub struct Plugin {
    name: Cow<'static, str>,
    version: Cow<'static, str>,
    description: Cow<'static, str>,
    declarations: Vec<Declaration>,
}

/// One line of a plugin. Schemas are functions: only `register` needs them, and it runs once.
enum Declaration {
    Handles { event: Cow<'static, str>, data: fn() -> String, reply: Option<fn() -> String>, call: Call },
    Requires { event: Cow<'static, str>, access: Access },
    Listens { event: &'static str, call: Call },
    Emits { event: &'static str, data: fn() -> String, rooms: &'static [&'static str] },
    Room { pattern: Cow<'static, str>, access: Access },
}

impl Plugin {
    /// A plugin that does nothing yet. `name` is `[a-z][a-z0-9_]{0,63}` and the plugin's slot: a file with the same name is another
    /// version of it, with the same state. `version` is semantic; `env!("CARGO_PKG_VERSION")` is.
    #[must_use]
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        version: impl Into<Cow<'static, str>>,
        description: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { name: name.into(), version: version.into(), description: description.into(), declarations: Vec::new() }
    }

    /// Handles `event` with `handler`. The schemas of payload and reply are those of the handler's own types.
    #[must_use]
    pub fn on<H, T, R>(self, event: impl Into<Cow<'static, str>>, handler: H) -> Self
    where
        H: Handler<T, R>,
        T: Payload,
        R: Output,
    {
        let reply: Option<fn() -> String> = if has_no_reply::<R>() { None } else { Some(output_schema::<R>) };
        self.and(Declaration::Handles { event: event.into(), data: payload_schema::<T>, reply, call: erase(handler) })
    }

    /// Lets only some callers send the event named just before with [`on`](Self::on). Without it, anyone may. An anonymous caller is
    /// answered `unauthorized`, a user without the role `forbidden`.
    #[must_use]
    pub fn requires(self, access: Access) -> Self {
        // After anything but `on` there is no event to restrict; the host refuses the empty name and says why.
        let event = match self.declarations.last() {
            Some(Declaration::Handles { event, .. }) => event.clone(),
            _ => Cow::Borrowed(""),
        };
        self.and(Declaration::Requires { event, access })
    }

    /// Calls `handler` once per start of the host, before the first client. There is no caller.
    #[must_use]
    pub fn on_start(self, handler: impl Fn(&Context) -> Result + Send + Sync + 'static) -> Self {
        self.listens("$start", handler)
    }

    /// Calls `handler` once per connection, before its first event to this plugin; the connection is the caller. While the plugin is
    /// disabled or its breaker is open, the call waits; see [`on_resync`](Self::on_resync).
    #[must_use]
    pub fn on_connect(self, handler: impl Fn(&Context) -> Result + Send + Sync + 'static) -> Self {
        self.listens("$connect", handler)
    }

    /// Calls `handler` once per connection, after its last event. The connection is still in its rooms, unless the plugin did not serve then
    /// or was 5 s behind.
    #[must_use]
    pub fn on_disconnect(self, handler: impl Fn(&Context) -> Result + Send + Sync + 'static) -> Self {
        self.listens("$disconnect", handler)
    }

    /// Calls `handler` when the plugin has missed calls of [`on_connect`](Self::on_connect) or [`on_disconnect`](Self::on_disconnect): because
    /// more than 50,000 waited while it did not serve, or because it was loaded while connections existed. What it has stored about
    /// connections is void; [`Context::connections`] has them as they are. There is no caller, and the limits of any event
    /// hold: at most 256 values are stored. Hosts before 0.1.1 refuse to load a plugin with such a handler,
    /// or one that calls [`Context::connections`].
    ///
    /// ```
    /// # use sockhop_sdk::{Context, Plugin, Result};
    /// fn online(ctx: &Context) -> Result<usize> {
    ///     Ok(ctx.state().get("online")?.unwrap_or(0))
    /// }
    ///
    /// fn connected(ctx: &Context) -> Result {
    ///     ctx.state().set("online", &(online(ctx)? + 1))
    /// }
    ///
    /// fn disconnected(ctx: &Context) -> Result {
    ///     ctx.state().set("online", &online(ctx)?.saturating_sub(1))
    /// }
    ///
    /// fn resync(ctx: &Context) -> Result {
    ///     ctx.state().set("online", &ctx.connections()?.len())
    /// }
    ///
    /// # let _ =
    /// Plugin::new("presence", "1.0.0", "How many are online")
    ///     .on_connect(connected)
    ///     .on_disconnect(disconnected)
    ///     .on_start(resync)
    ///     .on_resync(resync)
    /// # ;
    /// ```
    #[must_use]
    pub fn on_resync(self, handler: impl Fn(&Context) -> Result + Send + Sync + 'static) -> Self {
        self.listens("$resync", handler)
    }

    /// Declares an event that this plugin emits. Only declared events can be emitted.
    #[must_use]
    pub fn emits<T: Output>(self, event: Emits<T>) -> Self {
        self.and(Declaration::Emits { event: event.name, data: output_schema::<T>, rooms: event.rooms })
    }

    /// Declares a room, or a template such as `user_{user}`, and who may join it. Only declared rooms can be joined, by any plugin. A caller
    /// whom the rule keeps out is refused as `forbidden`, also an anonymous one.
    #[must_use]
    pub fn room(self, pattern: impl Into<Cow<'static, str>>, access: Access) -> Self {
        self.and(Declaration::Room { pattern: pattern.into(), access })
    }

    fn listens(self, event: &'static str, handler: impl Fn(&Context) -> Result + Send + Sync + 'static) -> Self {
        self.and(Declaration::Listens { event, call: Box::new(move |ctx, _| handler(ctx).map(|()| None)) })
    }

    fn and(mut self, declaration: Declaration) -> Self {
        self.declarations.push(declaration);
        self
    }

    /// Tells `registry` everything, in the order in which it was declared.
    pub(crate) fn register(&self, registry: &dyn Registry) -> Result {
        registry.plugin(&self.name, &self.version, &self.description)?;
        for declaration in &self.declarations {
            match declaration {
                Declaration::Handles { event, data, reply, .. } => {
                    registry.handles(event, &data(), reply.map(|reply| reply()).as_deref())?;
                }
                Declaration::Requires { event, access } => registry.requires(event, &access.to_string())?,
                Declaration::Listens { event, .. } => registry.listens(event)?,
                Declaration::Emits { event, data, rooms } => {
                    let rooms: Vec<String> = rooms.iter().map(|room| (*room).to_owned()).collect();
                    registry.emits(event, &data(), &rooms)?;
                }
                Declaration::Room { pattern, access } => registry.room(pattern, &access.to_string())?,
            }
        }
        Ok(())
    }

    /// Runs the handler of `event`.
    pub(crate) fn handle(&self, event: Event, host: Box<dyn Host>) -> Result<Option<String>> {
        let call = self.declarations.iter().find_map(|declaration| match declaration {
            Declaration::Handles { event: name, call, .. } if *name == event.name => Some(call),
            Declaration::Listens { event: name, call } if *name == event.name => Some(call),
            _ => None,
        });
        match call {
            Some(call) => Context::run(event, host, call),
            None => Err(Refusal::new("unknown_event", format!("`{}` has no handler here", event.name))),
        }
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}

/// An event that a plugin emits, with the type of its data: the one place that names it.
///
/// Declared as a constant, registered with [`Plugin::emits`] and sent with [`Context::emit`], so that what is sent always fits what was
/// declared:
///
/// ```
/// # use sockhop_sdk::Emits;
/// # use serde::Serialize;
/// # use schemars::JsonSchema;
/// #[derive(Serialize, JsonSchema)]
/// struct Note { user_id: u64, text: String }
///
/// const NOTE_CREATED: Emits<Note> = Emits::new("note_created").to(&["notes", "user_{user_id}"]);
/// ```
pub struct Emits<T> {
    name: &'static str,
    rooms: &'static [&'static str],
    data: PhantomData<fn(&T)>,
}

impl<T> Emits<T> {
    /// An event that goes to the sender and to single connections only.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, rooms: &[], data: PhantomData }
    }

    /// The same event, which may also go to `rooms`: their names, templates filled from the data (`user_{user_id}`), or `*` for everyone.
    /// `POST /api/emit` sends it there when it names no room. `sockhop check` warns of a room that no plugin declares, and of a template that
    /// no data fills.
    #[must_use]
    pub const fn to(self, rooms: &'static [&'static str]) -> Self {
        Self { name: self.name, rooms, data: PhantomData }
    }

    /// The event's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T: Serialize> Emits<T> {
    pub(crate) fn encode(&self, data: &T) -> Result<String> {
        encode(data)
    }
}

// Derived, these would ask the same of `T`.
impl<T> Clone for Emits<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Emits<T> {}

impl<T> fmt::Debug for Emits<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emits").field("name", &self.name).field("rooms", &self.rooms).finish()
    }
}

/// Who may send an event or join a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Anyone,
    /// Whoever has a user.
    Authenticated,
    /// The user whom the room's name names (`user_{user}`); for rooms only.
    Owner,
    /// Whoever has this role.
    Role(&'static str),
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Authenticated => f.write_str("authenticated"),
            Self::Owner => f.write_str("owner"),
            Self::Role(role) => write!(f, "role:{role}"),
        }
    }
}
