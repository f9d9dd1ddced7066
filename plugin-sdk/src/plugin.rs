//! The description of a plugin: a list of declarations, from which both `register` and `handle` are
//! answered.

mod acks;
mod check;
mod load;

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

use sockhop_core::arguments::Message;
use sockhop_core::name::host_event;
use sockhop_core::timer::EVENT_PREFIX;

use crate::access::Access;
use crate::args::{Declare, Incoming, Outgoing, declare_list};
use crate::context::Context;
use crate::emits::Emits;
use crate::event::Event;
use crate::handlers::{
    ErasedHandler, Handler, erase, erase_of_room, erase_timed, erase_without_data, has_no_reply,
};
use crate::host::{Host, Registry, SettingCalls};
use crate::json::{Output, Payload, output_schema, payload_schema};
use crate::refusal::{Refusal, Result};
use crate::route::Route;
use crate::settings::Settings;
use crate::timer::{Cron, Timer};

use acks::DeclaredAck;

/// A plugin: its name, the events that it handles and emits, and its rooms.
///
/// Your crate builds it in one function. [`export!`](crate::export) turns the function into a
/// component, and [`TestHost`](crate::testing::TestHost) runs the plugin natively. The builder
/// checks nothing. The host and the test host refuse wrong declarations (two handlers for one
/// event, an invalid name) when they load the plugin, and name the error.
pub struct Plugin {
    name: Cow<'static, str>,
    version: Cow<'static, str>,
    description: Cow<'static, str>,
    declarations: Vec<Declaration>,
    /// Returns the plugin with the declarations that depend on its settings.
    configure: Option<Configure>,
    /// The result of `configure`.
    configured: OnceLock<Result<Vec<Declaration>>>,
}

type Configure = Box<dyn Fn(Plugin, &Settings<'_>) -> Result<Plugin> + Send + Sync>;

/// A JSON Schema. That of a type is a function, because only `register` needs it, and it runs once
/// for each load.
enum Schema {
    OfType(fn() -> String),
    Text(String),
}

impl Schema {
    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::OfType(schema) => Cow::Owned(schema()),
            Self::Text(text) => Cow::Borrowed(text),
        }
    }
}

/// One declaration of a plugin.
enum Declaration {
    Handles {
        event: Cow<'static, str>,
        data: Schema,
        reply: Option<Schema>,
        handler: ErasedHandler,
    },
    Requires {
        event: Cow<'static, str>,
        access: Access,
    },
    Listens {
        event: &'static str,
        handler: ErasedHandler,
    },
    Emits {
        event: Cow<'static, str>,
        data: Schema,
        rooms: Vec<String>,
    },
    Room {
        pattern: Cow<'static, str>,
        access: Access,
    },
    Route {
        route: Route,
        event: Cow<'static, str>,
        /// Passes the route to the host. Only [`Plugin::route`] names this function, so a plugin
        /// without routes does not contain the import.
        declare: fn(&dyn Registry, Route, &str) -> Result,
    },
    Arguments {
        of: Message,
        event: Cow<'static, str>,
        /// Passes the declaration to the host, as for a route.
        declare: Declare,
    },
    Handshake {
        /// Asks the host for handshakes, as for a route.
        declare: fn(&dyn Registry) -> Result,
    },
    Ack(DeclaredAck),
    Timer {
        timer: &'static str,
        data: fn() -> String,
        handler: ErasedHandler,
        /// Passes the timer to the host, as for a route.
        declare: fn(&dyn Registry, &str, &str) -> Result,
    },
    Every {
        timer: Cow<'static, str>,
        cron: Cron,
        handler: ErasedHandler,
        /// Passes the schedule to the host, as for a route.
        declare: fn(&dyn Registry, &str, Cron) -> Result,
    },
}

impl Plugin {
    /// Creates a plugin that declares nothing yet. `name` matches `[a-z][a-z0-9_]{0,63}`. A host
    /// treats every file that registers this name as a version of the same plugin, with the same
    /// state. `version` is a semantic version, such as `env!("CARGO_PKG_VERSION")`.
    #[must_use]
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        version: impl Into<Cow<'static, str>>,
        description: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            description: description.into(),
            declarations: Vec::new(),
            configure: None,
            configured: OnceLock::new(),
        }
    }

    /// Adds the declarations that depend on the plugin's own settings (`[plugins.NAME.config]`).
    /// `configure` gets this plugin without declarations, and adds some. It is called once in each
    /// instance. If it refuses, the host refuses to load the plugin, and shows the operator the
    /// message.
    ///
    /// If an operator changes the settings while the host runs, the host lets the plugin register
    /// again, and events run under the new declarations from then on. If the plugin refuses the new
    /// settings, or if they conflict with another plugin, the host logs why, and the plugin keeps
    /// serving as it was.
    ///
    /// A [`TestHost`](crate::testing::TestHost) gets the settings from
    /// [`with_settings`](crate::testing::TestHost::with_settings).
    ///
    /// ```
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Context, Plugin, Refusal, Result, Settings};
    /// use serde_json::json;
    ///
    /// fn configure(plugin: Plugin, settings: &Settings) -> Result<Plugin> {
    ///     let Some(greeting) = settings.get("greeting") else {
    ///         return Err(Refusal::new("no_greeting", "the setting `greeting` is missing"));
    ///     };
    ///     let greet = move |_: &Context, name: String| Ok(format!("{greeting} {name}"));
    ///     Ok(plugin.on("greet", greet))
    /// }
    ///
    /// fn plugin() -> Plugin {
    ///     Plugin::new("greeter", "1.0.0", "").configure(configure)
    /// }
    ///
    /// let mut host = TestHost::with_settings(plugin(), &[("greeting", "Hello")]);
    /// assert_eq!(host.handle("greet", json!("Ada")).reply, Ok(json!("Hello Ada")));
    /// assert!(TestHost::try_new(plugin()).is_err());
    /// ```
    #[must_use]
    pub fn configure(
        mut self,
        configure: impl Fn(Self, &Settings<'_>) -> Result<Self> + Send + Sync + 'static,
    ) -> Self {
        self.configure = Some(Box::new(configure));
        self
    }

    /// Handles `event` with `handler`. The payload and reply schemas come from the types of the
    /// handler. Each is one argument of the event or of its ack, unless the type is
    /// [`Args`](crate::Args).
    #[must_use]
    pub fn on<H, T, R>(self, event: impl Into<Cow<'static, str>>, handler: H) -> Self
    where
        H: Handler<T, R>,
        T: Incoming,
        R: Outgoing,
    {
        let event = event.into();
        let reply =
            if has_no_reply::<R>() { None } else { Some(Schema::OfType(output_schema::<R::Json>)) };
        self.and(Declaration::Handles {
            event: event.clone(),
            data: Schema::OfType(payload_schema::<T::Json>),
            reply,
            handler: erase(handler),
        })
        .with_arguments(Message::Event, event.clone(), T::DECLARE)
        .with_arguments(Message::Reply, event, R::DECLARE)
    }

    /// Declares that a message of `event` has a list of arguments: its schema is that of the array,
    /// and so is the JSON that the handler takes, returns or emits. For the events of
    /// [`on_json`](Self::on_json) and [`emits_json`](Self::emits_json), which must stand before;
    /// [`Args`](crate::Args) does the same for types.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this.
    #[must_use]
    pub fn arguments(self, of: Message, event: impl Into<Cow<'static, str>>) -> Self {
        self.with_arguments(of, event.into(), Some(declare_list))
    }

    fn with_arguments(
        self,
        of: Message,
        event: Cow<'static, str>,
        declare: Option<Declare>,
    ) -> Self {
        match declare {
            Some(declare) => self.and(Declaration::Arguments { of, event, declare }),
            None => self,
        }
    }

    /// Handles `event` with a handler that takes and returns JSON text, for schemas that are known
    /// only when the plugin registers. `data` and `reply` are JSON Schemas (2020-12). Without
    /// `reply`, the handler must return `None`. The text of the payload is as the client has sent
    /// it, and clients receive the text of the reply unchanged, also if no Rust type can hold its
    /// numbers.
    #[must_use]
    pub fn on_json(
        self,
        event: impl Into<Cow<'static, str>>,
        data: impl Into<String>,
        reply: Option<String>,
        handler: impl Fn(&Context, &str) -> Result<Option<String>> + Send + Sync + 'static,
    ) -> Self {
        self.and(Declaration::Handles {
            event: event.into(),
            data: Schema::Text(data.into()),
            reply: reply.map(Schema::Text),
            handler: Box::new(handler),
        })
    }

    /// Restricts who can send the event that the previous call of [`on`](Self::on) declares.
    /// Without it, anyone can. Only calls of [`route`](Self::route) and
    /// [`arguments`](Self::arguments) may stand between. The host answers an anonymous caller with
    /// `unauthorized`, and a user without the role with `forbidden`.
    #[must_use]
    pub fn requires(self, access: Access) -> Self {
        // If that declaration is not `on`, there is no event to restrict. The host then refuses the
        // empty name, and the message says where `requires` belongs.
        let is_more = |declared: &&Declaration| {
            matches!(declared, Declaration::Route { .. } | Declaration::Arguments { .. })
        };
        let event = match self.declarations.iter().rev().find(|declared| !is_more(declared)) {
            Some(Declaration::Handles { event, .. }) => event.clone(),
            _ => Cow::Borrowed(""),
        };
        self.and(Declaration::Requires { event, access })
    }

    /// Serves `event`, which this plugin handles, as an HTTP route too: the host turns each request
    /// with this method and path into the event. The same handler, schemas, access rule and limits
    /// apply.
    ///
    /// The payload is an object: the members of the JSON body, the variables of the path and the
    /// parameters of the query. The schema of the payload decides whether `7` is a number or text.
    /// The reply is the body of the answer: 200, or 204 without a reply. It is 201 with `Location`
    /// if a `POST` has created an item: the reply has an `id`, and there is a route
    /// `GET PATH/{…}`. A refusal is a problem document: 404 for `not_found`, 409 for a code of the
    /// plugin's own.
    ///
    /// The caller has no connection, so `ctx.join` and [`Target::Sender`](crate::Target::Sender)
    /// are refused as `misuse`. Emits go to the host's first namespace.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin with routes.
    ///
    /// ```
    /// use sockhop_sdk::Route::{Get, Post};
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Context, Plugin, Refusal, Result};
    /// use schemars::JsonSchema;
    /// use serde::{Deserialize, Serialize};
    /// use serde_json::json;
    ///
    /// #[derive(Serialize, Deserialize, JsonSchema)]
    /// struct Note {
    ///     #[serde(default)]
    ///     id: u64,
    ///     text: String,
    /// }
    ///
    /// #[derive(Deserialize, JsonSchema)]
    /// struct ById {
    ///     id: u64,
    /// }
    ///
    /// fn create(ctx: &Context, mut note: Note) -> Result<Note> {
    ///     note.id = ctx.state().next_id("note")?;
    ///     ctx.state().set(&note.id.to_string(), &note)?;
    ///     Ok(note)
    /// }
    ///
    /// fn read(ctx: &Context, ById { id }: ById) -> Result<Note> {
    ///     ctx.state().get(&id.to_string())?.ok_or_else(|| Refusal::not_found("no such note"))
    /// }
    ///
    /// let plugin = Plugin::new("notes", "1.0.0", "")
    ///     .on("note_create", create)
    ///     .route(Post("/notes"), "note_create")
    ///     .on("note_get", read)
    ///     .route(Get("/notes/{id}"), "note_get");
    ///
    /// let mut host = TestHost::new(plugin);
    /// host.request("POST", "/notes", Some(json!({"text": "hello"})));
    /// let outcome = host.request("GET", "/notes/1", None);
    /// assert_eq!(outcome.reply, Ok(json!({"id": 1, "text": "hello"})));
    /// ```
    #[must_use]
    pub fn route(self, route: Route, event: impl Into<Cow<'static, str>>) -> Self {
        self.and(Declaration::Route { route, event: event.into(), declare: declare_route })
    }

    /// Asks for what clients send when they connect, which handlers read with
    /// [`Context::auth`] and [`Context::query`]. The host keeps it only for connections that begin
    /// while a plugin that asks for it serves.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this.
    ///
    /// ```
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Context, Plugin, Result};
    /// use serde_json::json;
    ///
    /// // `io(url, { auth: { device: "d7" }, query: { lang: "de" } })`
    /// fn device(ctx: &Context, _: ()) -> Result<(Option<String>, bool)> {
    ///     let device = ctx.auth()?["device"].as_str().map(str::to_owned);
    ///     let query = ctx.query()?.unwrap_or_default();
    ///     Ok((device, query.iter().any(|(name, value)| name == "lang" && value == "de")))
    /// }
    ///
    /// let plugin = Plugin::new("devices", "1.0.0", "").handshake().on("device", device);
    /// let mut host = TestHost::new(plugin);
    /// host.handshake(json!({"device": "d7"}), "lang=de");
    /// assert_eq!(host.handle("device", json!(null)).reply, Ok(json!(["d7", true])));
    /// ```
    #[must_use]
    pub fn handshake(self) -> Self {
        self.and(Declaration::Handshake { declare: declare_handshake })
    }

    /// Calls `handler` once per start of the host, before the first client connects. There is no
    /// caller.
    #[must_use]
    pub fn on_start(self, handler: impl Fn(&Context) -> Result + Send + Sync + 'static) -> Self {
        self.listens(host_event::START, handler)
    }

    /// Calls `handler` once per connection, before its first event to this plugin. The connection
    /// is the caller. While the plugin is disabled or its breaker is open, the host keeps the call
    /// for later; see [`on_resync`](Self::on_resync) for the limit.
    #[must_use]
    pub fn on_connect(self, handler: impl Fn(&Context) -> Result + Send + Sync + 'static) -> Self {
        self.listens(host_event::CONNECT, handler)
    }

    /// Calls `handler` once per connection, after its last event. The connection is still in its
    /// rooms, unless the call is late. A call is late if it is delayed by more than 5 s, or if the
    /// plugin was disabled or its breaker was open.
    #[must_use]
    pub fn on_disconnect(
        self,
        handler: impl Fn(&Context) -> Result + Send + Sync + 'static,
    ) -> Self {
        self.listens(host_event::DISCONNECT, handler)
    }

    /// Calls `handler` when the plugin has missed calls of [`on_connect`](Self::on_connect) or
    /// [`on_disconnect`](Self::on_disconnect). There are three causes: more than 50,000 calls
    /// waited for the plugin; its file was away for some time; or the plugin was added to the host
    /// after its start. A new version of the plugin counts as added if the previous one
    /// did not have all its handlers of these three kinds. Otherwise it gets the calls that the
    /// previous version has not handled.
    ///
    /// The data that the plugin has stored about connections is then invalid.
    /// [`Context::connections`] returns the current connections. There is no caller. The limits of
    /// every event apply, so the handler can store at most 256 values.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that has such a handler or calls
    /// [`Context::connections`].
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
    /// // Also called at the start of the host, when there are no connections.
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
        self.listens(host_event::RESYNC, handler)
    }

    /// Calls `handler` with the name of a room that this plugin declares, when the room has members
    /// and has had some for 1 s (by default). [`on_room_vacated`](Self::on_room_vacated) is its
    /// counterpart: for each room, the two are called in turn, and this one first. A room that is
    /// vacated and occupied again within that time causes no call. So the last call for a room says
    /// what the room is. No call is left out, however many rooms change, except that of a handler
    /// that fails.
    ///
    /// A plugin that is added, or begins to have this handler, is called for each room that is
    /// occupied; so it is after each call of [`on_start`](Self::on_start) and
    /// [`on_resync`](Self::on_resync), where it forgets what it has stored about rooms. The calls
    /// have no order relative to [`on_connect`](Self::on_connect) and
    /// [`on_disconnect`](Self::on_disconnect).
    ///
    /// [`Context::namespace`] is that of the room; there is no connection and no user.
    /// [`Context::member_count`] tells how many members there are now.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that has such a handler.
    ///
    /// ```
    /// use serde_json::json;
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Access, Context, Plugin, Result};
    ///
    /// /// The key of a document, which is open if the value is the current epoch.
    /// fn key(ctx: &Context, room: &str) -> String {
    ///     format!("open{}/{room}", ctx.namespace().unwrap_or_default())
    /// }
    ///
    /// /// Opens a document while someone has it open.
    /// fn open(ctx: &Context, room: &str) -> Result {
    ///     let epoch: u64 = ctx.state().get("epoch")?.unwrap_or_default();
    ///     ctx.state().set(&key(ctx, room), &epoch)
    /// }
    ///
    /// fn close(ctx: &Context, room: &str) -> Result {
    ///     ctx.state().delete(&key(ctx, room))
    /// }
    ///
    /// // Forgets all documents, however many, with one write. Afterwards, `open` is called for all
    /// // rooms that are occupied.
    /// fn forget(ctx: &Context) -> Result {
    ///     let epoch: u64 = ctx.state().get("epoch")?.unwrap_or_default();
    ///     ctx.state().set("epoch", &(epoch + 1))
    /// }
    ///
    /// let plugin = Plugin::new("documents", "1.0.0", "")
    ///     .room("document_{id}", Access::Authenticated)
    ///     .on_room_occupied(open)
    ///     .on_room_vacated(close)
    ///     .on_start(forget)
    ///     .on_resync(forget);
    ///
    /// let mut host = TestHost::new(plugin);
    /// host.room_occupied("document_7");
    /// assert_eq!(host.state()["open//document_7"], json!(0));
    /// host.room_vacated("document_7");
    /// assert!(host.state().is_empty());
    /// ```
    #[must_use]
    pub fn on_room_occupied(
        self,
        handler: impl Fn(&Context, &str) -> Result + Send + Sync + 'static,
    ) -> Self {
        let handler = erase_of_room(handler);
        self.and(Declaration::Listens { event: host_event::ROOM_OCCUPIED, handler })
    }

    /// Calls `handler` with the name of a room that this plugin declares, when the room has no more
    /// members and has had none for 1 s (by default); see
    /// [`on_room_occupied`](Self::on_room_occupied).
    #[must_use]
    pub fn on_room_vacated(
        self,
        handler: impl Fn(&Context, &str) -> Result + Send + Sync + 'static,
    ) -> Self {
        let handler = erase_of_room(handler);
        self.and(Declaration::Listens { event: host_event::ROOM_VACATED, handler })
    }

    /// Declares `timer`, which handlers of this plugin set with [`Context::after`] or
    /// [`Context::at`], and handles it with `handler` when it fires. There is no caller. [`Timer`]
    /// says what the host promises.
    ///
    /// If `handler` returns `Err`, nothing is applied, and the host calls it again later. After 8
    /// attempts the timer is dead. So return `Ok` if another attempt can't help. [`Context::timer`]
    /// returns the key, the deadline and the number of the attempt.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin with timers.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use schemars::JsonSchema;
    /// use serde::{Deserialize, Serialize};
    /// use serde_json::json;
    /// use sockhop_sdk::testing::{Effect, TestHost};
    /// use sockhop_sdk::{Context, Emits, Plugin, Refusal, Result, Target, Timer};
    ///
    /// #[derive(Deserialize, JsonSchema)]
    /// struct RemindMe {
    ///     minutes: u32,
    ///     text: String,
    /// }
    ///
    /// #[derive(Serialize, Deserialize, JsonSchema)]
    /// struct Remind {
    ///     user: String,
    ///     text: String,
    /// }
    ///
    /// const REMIND: Timer<Remind> = Timer::new("remind");
    /// const REMINDER: Emits<Remind> = Emits::new("reminder").to(&["user_{user}"]);
    ///
    /// /// Sets the reminder of the caller. Each user has one: the next replaces it.
    /// fn remind_me(ctx: &Context, RemindMe { minutes, text }: RemindMe) -> Result {
    ///     let Some(user) = ctx.user() else {
    ///         return Err(Refusal::forbidden("who are you?"));
    ///     };
    ///     let delay = Duration::from_secs(60 * u64::from(minutes));
    ///     ctx.after(&REMIND, delay, user, &Remind { user: user.to_owned(), text })
    /// }
    ///
    /// /// The time has come.
    /// fn remind(ctx: &Context, remind: Remind) -> Result {
    ///     ctx.emit(Target::room(format!("user_{}", remind.user)), &REMINDER, &remind)
    /// }
    ///
    /// let plugin = Plugin::new("reminders", "1.0.0", "")
    ///     .on("remind_me", remind_me)
    ///     .on_timer(REMIND, remind)
    ///     .emits(REMINDER);
    ///
    /// let mut host = TestHost::new(plugin);
    /// host.user("7").handle("remind_me", json!({"minutes": 30, "text": "tea"}));
    /// assert!(host.advance(Duration::from_secs(29 * 60)).is_empty());
    ///
    /// let fired = host.advance(Duration::from_secs(60));
    /// let (timer, outcome) = &fired[0];
    /// assert_eq!((timer.key.as_str(), timer.attempt), ("7", 1));
    /// let reminder = json!({"user": "7", "text": "tea"});
    /// assert_eq!(outcome.effects, [Effect::emit(Target::room("user_7"), "reminder", reminder)]);
    /// assert!(host.timers().is_empty());
    /// ```
    #[must_use]
    pub fn on_timer<T: Payload + Output>(
        self,
        timer: Timer<T>,
        handler: impl Fn(&Context, T) -> Result + Send + Sync + 'static,
    ) -> Self {
        self.and(Declaration::Timer {
            timer: timer.name(),
            data: payload_schema::<T>,
            handler: erase_timed(timer.name(), handler),
            declare: declare_timer,
        })
    }

    /// Calls `handler` at each time that `cron` names. There is no caller. `name` has the form of
    /// a [`Timer`]'s name, and is the name of no other timer of this plugin. [`Context::timer`]
    /// returns it, with an empty key.
    ///
    /// Times that the host has missed, because it was stopped or the plugin did not serve, come
    /// once, together. If `handler` returns `Err`, the host calls it again later, as for a
    /// [`Timer`]. After 8 attempts, it waits for the next time of the schedule. A version of the
    /// plugin that no longer declares the schedule removes it.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin with schedules.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use serde_json::json;
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Context, Cron, Plugin, Result, Scan};
    ///
    /// /// Removes the records of guests. It leaves what is too much for one event to the next day.
    /// fn clean_up(ctx: &Context) -> Result {
    ///     for (key, _) in ctx.state().scan_bytes(Scan::prefix("guest/").limit(200))? {
    ///         ctx.state().delete(&key)?;
    ///     }
    ///     Ok(())
    /// }
    ///
    /// let plugin = Plugin::new("guests", "1.0.0", "").every(
    ///     "clean_up",
    ///     Cron::in_zone("0 4 * * *", "Europe/Berlin"),
    ///     clean_up,
    /// );
    ///
    /// let mut host = TestHost::new(plugin);
    /// host.store("guest/1", &json!({})).store("user/7", &json!({}));
    /// let fired = host.advance(Duration::from_secs(24 * 60 * 60));
    /// assert_eq!(fired.len(), 1);
    /// assert_eq!(host.state().into_keys().collect::<Vec<_>>(), ["user/7"]);
    /// ```
    #[must_use]
    pub fn every(
        self,
        name: impl Into<Cow<'static, str>>,
        cron: Cron,
        handler: impl Fn(&Context) -> Result + Send + Sync + 'static,
    ) -> Self {
        self.and(Declaration::Every {
            timer: name.into(),
            cron,
            handler: erase_without_data(handler),
            declare: declare_every,
        })
    }

    /// Declares an event that this plugin emits. A plugin can emit only declared events.
    #[must_use]
    pub fn emits<T: Outgoing>(self, event: Emits<T>) -> Self {
        let rooms = event.rooms.iter().map(|room| (*room).to_owned()).collect();
        let (event, data) = (Cow::Borrowed(event.name()), Schema::OfType(output_schema::<T::Json>));
        self.and(Declaration::Emits { event: event.clone(), data, rooms }).with_arguments(
            Message::Emit,
            event,
            T::DECLARE,
        )
    }

    /// Declares an event that this plugin emits with [`Context::emit_json`], for a schema that is
    /// known only when the plugin registers. `data` is a JSON Schema (2020-12), and `rooms` is as
    /// in [`Emits::to`].
    #[must_use]
    pub fn emits_json(
        self,
        event: impl Into<Cow<'static, str>>,
        data: impl Into<String>,
        rooms: Vec<String>,
    ) -> Self {
        let data = Schema::Text(data.into());
        self.and(Declaration::Emits { event: event.into(), data, rooms })
    }

    /// Declares a room, or a template such as `user_{user}`, and who can join it. A handler of any
    /// plugin can join its caller to a declared room, and to no other room. A join that the access
    /// rule does not allow is refused as `forbidden`. Unlike an event, this is never
    /// `unauthorized`, also for an anonymous caller. Only handlers of this plugin can join callers
    /// to a room with [`Access::Handler`].
    #[must_use]
    pub fn room(self, pattern: impl Into<Cow<'static, str>>, access: Access) -> Self {
        self.and(Declaration::Room { pattern: pattern.into(), access })
    }

    fn listens(
        self,
        event: &'static str,
        handler: impl Fn(&Context) -> Result + Send + Sync + 'static,
    ) -> Self {
        self.and(Declaration::Listens { event, handler: erase_without_data(handler) })
    }

    fn and(mut self, declaration: Declaration) -> Self {
        self.declarations.push(declaration);
        self
    }

    /// Passes all declarations to `registry`, in the order of the builder's calls, without those
    /// that depend on settings. Public only for the host's own tests.
    #[doc(hidden)]
    pub fn register(&self, registry: &dyn Registry) -> Result {
        registry.plugin(&self.name, &self.version, &self.description)?;
        declare(&self.declarations, registry)
    }

    /// Passes all declarations to `registry`. The host has the settings once it knows the name.
    pub(crate) fn register_under(
        &self,
        registry: &dyn Registry,
        settings: &dyn SettingCalls,
    ) -> Result {
        self.register(registry)?;
        declare(self.configured(settings)?, registry)
    }

    /// Returns the declarations that depend on the settings.
    fn configured(&self, settings: &dyn SettingCalls) -> Result<&[Declaration]> {
        let Some(configure) = &self.configure else { return Ok(&[]) };
        let configured = self.configured.get_or_init(|| {
            let (name, version) = (self.name.clone(), self.version.clone());
            let plain = Self::new(name, version, self.description.clone());
            Ok(configure(plain, &Settings(settings))?.declarations)
        });
        configured.as_deref().map_err(Clone::clone)
    }

    /// Runs the handler of `event`.
    pub(crate) fn handle(&self, event: Event, host: Box<dyn Host>) -> Result<Option<String>> {
        let fired = event.name.strip_prefix(EVENT_PREFIX);
        let own = self.declarations.iter();
        let all = own.chain(self.configured(&*host)?);
        let handler = all.into_iter().find_map(|declaration| match declaration {
            Declaration::Handles { event: name, handler, .. } if *name == event.name => {
                Some(handler)
            }
            Declaration::Listens { event: name, handler } if *name == event.name => Some(handler),
            Declaration::Ack(ack) if ack.handles(&event.name) => Some(&ack.handler),
            Declaration::Timer { timer, handler, .. } if fired == Some(timer) => Some(handler),
            Declaration::Every { timer, handler, .. } if fired == Some(timer) => Some(handler),
            _ => None,
        });
        match handler {
            Some(handler) => Context::run(event, host, handler),
            None => {
                Err(Refusal::new("unknown_event", format!("`{}` has no handler here", event.name)))
            }
        }
    }
}

/// Passes declarations to `registry`, in their order.
fn declare(declarations: &[Declaration], registry: &dyn Registry) -> Result {
    for declaration in declarations {
        match declaration {
            Declaration::Handles { event, data, reply, .. } => {
                let reply = reply.as_ref().map(Schema::text);
                registry.handles(event, &data.text(), reply.as_deref())?;
            }
            Declaration::Requires { event, access } => {
                registry.requires(event, &access.to_string())?
            }
            Declaration::Listens { event, .. } => registry.listens(event)?,
            Declaration::Emits { event, data, rooms } => {
                registry.emits(event, &data.text(), rooms)?;
            }
            Declaration::Room { pattern, access } => registry.room(pattern, &access.to_string())?,
            Declaration::Route { route, event, declare } => declare(registry, *route, event)?,
            Declaration::Arguments { of, event, declare } => declare(registry, *of, event)?,
            Declaration::Handshake { declare } => declare(registry)?,
            Declaration::Ack(ack) => ack.declare(registry)?,
            Declaration::Timer { timer, data, declare, .. } => declare(registry, timer, &data())?,
            Declaration::Every { timer, cron, declare, .. } => declare(registry, timer, *cron)?,
        }
    }
    Ok(())
}

/// Passes a route to the host.
fn declare_route(registry: &dyn Registry, route: Route, event: &str) -> Result {
    let (method, path) = route.parts();
    #[cfg(target_family = "wasm")]
    {
        let _ = registry;
        crate::imports::route(method, path, event)
    }
    #[cfg(not(target_family = "wasm"))]
    registry.route(method, path, event)
}

/// Asks the host for handshakes.
fn declare_handshake(registry: &dyn Registry) -> Result {
    #[cfg(target_family = "wasm")]
    {
        let _ = registry;
        crate::imports::handshake()
    }
    #[cfg(not(target_family = "wasm"))]
    registry.handshake()
}

/// Passes a timer that handlers set to the host.
fn declare_timer(registry: &dyn Registry, timer: &str, data: &str) -> Result {
    #[cfg(target_family = "wasm")]
    {
        let _ = registry;
        crate::imports::timer(timer, data)
    }
    #[cfg(not(target_family = "wasm"))]
    registry.timer(timer, data)
}

/// Passes a schedule to the host.
fn declare_every(registry: &dyn Registry, timer: &str, cron: Cron) -> Result {
    let Cron { pattern, zone } = cron;
    #[cfg(target_family = "wasm")]
    {
        let _ = registry;
        crate::imports::every(timer, pattern, zone)
    }
    #[cfg(not(target_family = "wasm"))]
    registry.every(timer, pattern, zone)
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
