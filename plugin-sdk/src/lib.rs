//! Write plugins for Sockhop: typed functions that handle the events of Socket.IO clients, compiled
//! to one WebAssembly component.
//!
//! A handler is a function from a payload to a reply. A plugin registers it once, under the name of
//! its event. The SDK derives everything else from the types of the function: the JSON Schemas
//! against which the host checks payloads and replies, decoding, encoding and dispatch. So they
//! always agree.
//!
//! ```
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//! use sockhop_sdk::{Access, Context, Emits, Plugin, Refusal, Result, Target};
//!
//! /// What clients send.
//! #[derive(Deserialize, JsonSchema)]
//! struct Say {
//!     #[schemars(length(min = 1, max = 500))]
//!     text: String,
//! }
//!
//! /// What everybody in the room receives, and the sender as its ack.
//! #[derive(Serialize, JsonSchema)]
//! struct Said {
//!     number: u64,
//!     user: String,
//!     text: String,
//!     at: String,
//! }
//!
//! /// An event that this plugin emits: its name, the type of its data, and where it may go.
//! const SAID: Emits<Said> = Emits::new("said").to(&["lobby"]);
//!
//! fn say(ctx: &Context, Say { text }: Say) -> Result<Said> {
//!     let Some(user) = ctx.user() else {
//!         return Err(Refusal::forbidden("who are you?"));
//!     };
//!     let number = ctx.state().next_id("said")?;
//!     let said = Said { number, user: user.to_owned(), text, at: ctx.now() };
//!     ctx.state().set("last", &said)?;
//!     ctx.emit(Target::room("lobby"), &SAID, &said)?;
//!     Ok(said)
//! }
//!
//! /// A handler without a reply, for an event without a payload.
//! fn enter(ctx: &Context, _: ()) -> Result {
//!     ctx.join("lobby")
//! }
//!
//! fn plugin() -> Plugin {
//!     Plugin::new("chat", "1.0.0", "One room for everybody")
//!         .room("lobby", Access::Anyone)
//!         .on("enter", enter)
//!         .on("say", say)
//!         .requires(Access::Authenticated)
//!         .emits(SAID)
//! }
//!
//! sockhop_sdk::export!(plugin);
//! #
//! # use sockhop_sdk::testing::TestHost;
//! # use serde_json::json;
//! # let mut host = TestHost::new(plugin());
//! # assert_eq!(host.user("ada").handle("enter", json!(null)).reply, Ok(json!(null)));
//! # let said = host.handle("say", json!({"text": "hi"}));
//! # assert_eq!(said.reply.map(|reply| reply["user"].clone()), Ok(json!("ada")));
//! ```
//!
//! # Building
//!
//! The crate is a library of type `cdylib`. It depends on `sockhop-sdk`, `serde` (with `derive`)
//! and `schemars`:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//! ```
//!
//! ```sh
//! rustup target add wasm32-wasip2
//! cargo build --release --target wasm32-wasip2
//! # Shows what it registers, or why a host would refuse it.
//! sockhop check target/wasm32-wasip2/release/chat.wasm
//! # Copies it into the directory that a running host follows.
//! sockhop deploy target/wasm32-wasip2/release/chat.wasm --wait
//! ```
//!
//! # Testing
//!
//! Under `cargo test`, handlers run natively and without a host, in a
//! [`TestHost`](testing::TestHost). It decides by the same code as a host whether a plugin is
//! loaded, whether payloads, replies and emitted data match their schemas, and what a handler may
//! do. It keeps state, room membership and timers between events:
//!
//! ```
//! # use sockhop_sdk::{Access, Context, Plugin, Result};
//! # fn enter(ctx: &Context, _: ()) -> Result { ctx.join("lobby") }
//! # fn plugin() -> Plugin {
//! #     Plugin::new("chat", "1.0.0", "").room("lobby", Access::Anyone).on("enter", enter)
//! # }
//! use serde_json::json;
//! use sockhop_sdk::testing::{Effect, Outcome, TestHost};
//!
//! let mut host = TestHost::new(plugin());
//! let outcome = host.user("7").handle("enter", json!(null));
//! assert_eq!(outcome, Outcome { reply: Ok(json!(null)), effects: vec![Effect::join("lobby")] });
//! ```
//!
//! # Testing the shipped file
//!
//! A unit test does not show what the built file does: whether the host loads it, how long it
//! takes, and what real limits do to it. `sockhop test FILE.wasm SCENARIO…` runs it by a host's own
//! dispatcher, without a network. A scenario is a YAML file with virtual clients, what they send,
//! and what must come of it. The same scenario tests a plugin in any language:
//!
//! ```yaml
//! clients:
//!   ada: {user: "7"}
//! steps:
//! - send: {client: ada, event: enter}
//!   rooms: {ada: [lobby, user_7]}
//! ```
//!
//! `sockhop call FILE.wasm EVENT JSON` lets it handle one event, and prints the answer and the
//! effects. `docs/scenarios.md` in the repository of the host describes both.
//!
//! # All or nothing
//!
//! The host checks each effect of a handler (emit, join, leave, stored value, timer, delivery) when
//! the handler calls it, and holds it back. (It checks joins of others when it applies them.) When
//! the handler has returned `Ok` and the host has stored the values, timers and deliveries, the
//! host applies all effects together. After `Err`, a panic, a missed deadline or a failed write, it
//! applies none. A refused call does not fail the event by itself: the event fails if the handler
//! returns the [`Refusal`], as `?` does. There are two exceptions. If the state is `unavailable`,
//! the host discards the effects, whatever the handler returns. The same is true if a write of a
//! [`collection`] is refused after others that belong to it.
//!
//! The host can run a handler again for the same event, if a value that the handler has read was
//! changed meanwhile. The host then drops all effects of the first run. [`Context::event_id`],
//! [`Context::received_at`] and [`Context::now`] stay the same. So keep durable data in
//! [`Context::state`]. A plugin runs in more than one instance at a time, and each instance has its
//! own `static`s: use them only as caches.
//!
//! A new version of a plugin starts with the state of the previous one. For a moment, both versions
//! can serve at once. A rollback restores the code but not the data. The previous version must be
//! able to read what a version writes; if it can't, write under another prefix, or keep the data in
//! a collection.
//!
//! # Collections
//!
//! A [`collection`] keeps typed records in the state: with ids, indexes, pages, counts and a time
//! to live. Each record has the number of its format. A version that changes the format upgrades
//! older records, and an older version refuses newer ones after a rollback, so none is lost or
//! misread. [`Plugin::on_load`] lets a new version convert all of them, batch by batch, while it
//! serves.
//!
//! ```
//! # use serde::{Deserialize, Serialize};
//! # use serde_json::json;
//! # use sockhop_sdk::testing::TestHost;
//! # use sockhop_sdk::{Context, Plugin, Result};
//! use sockhop_sdk::collection::{Collection, Index, Record};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Booking {
//!     seat: String,
//!     guest: String,
//! }
//!
//! impl Record for Booking {
//!     type Id = String;
//!     const FORMAT: u32 = 1;
//!
//!     fn id(&self) -> String {
//!         self.seat.clone()
//!     }
//! }
//!
//! const BY_GUEST: Index<Booking, String> = Index::new("guest", |booking| booking.guest.clone());
//! const BOOKINGS: Collection<Booking> = Collection::new("bookings").index(&BY_GUEST);
//!
//! /// Books a seat, unless it is taken. Returns how many seats the guest has.
//! fn book(ctx: &Context, (seat, guest): (String, String)) -> Result<usize> {
//!     BOOKINGS.insert(ctx, &Booking { seat, guest: guest.clone() })?;
//!     Ok(BOOKINGS.list(ctx, BY_GUEST.at(&guest))?.items.len())
//! }
//! #
//! # let mut host = TestHost::new(Plugin::new("seats", "1.0.0", "").on("book", book));
//! # assert_eq!(host.handle("book", json!(["1A", "ada"])).reply, Ok(json!(1)));
//! # assert_eq!(host.handle("book", json!(["1B", "ada"])).reply, Ok(json!(2)));
//! # let refused = host.handle("book", json!(["1A", "bob"])).reply;
//! # assert_eq!(refused.map_err(|refusal| refusal.code), Err("already_exists".to_owned()));
//! ```
//!
//! # Time
//!
//! A handler does not wait: it sets a [`Timer`] with [`Context::after`] or [`Context::at`], and
//! returns. When the time has come, the host calls the handler of [`Plugin::on_timer`], at least
//! once, and never before the deadline. A timer is stored together with the other effects, and
//! survives a restart of the host. The handler of a timer that fails is called again later.
//! [`Plugin::every`] calls a handler at the times of a [`Cron`] pattern, such as every day at nine
//! in Berlin.
//!
//! In a test, [`TestHost::advance`](testing::TestHost::advance) moves the clock, and fires what
//! becomes due:
//!
//! ```
//! # use sockhop_sdk::{Context, Emits, Plugin, Result, Target, Timer};
//! use std::time::Duration;
//!
//! use serde_json::json;
//! use sockhop_sdk::testing::TestHost;
//!
//! /// A game ends if a player does not move for a minute. Its data is the id of the game.
//! const TIMEOUT: Timer<String> = Timer::new("timeout");
//!
//! fn moved(ctx: &Context, game: String) -> Result {
//!     ctx.after(&TIMEOUT, Duration::from_secs(60), &game, &game)
//! }
//!
//! fn timed_out(ctx: &Context, game: String) -> Result {
//!     ctx.state().delete(&game)
//! }
//!
//! let plugin =
//!     Plugin::new("chess", "1.0.0", "").on("move", moved).on_timer(TIMEOUT, timed_out);
//! let mut host = TestHost::new(plugin);
//! host.store("g1", &json!("e4"));
//! host.handle("move", json!("g1"));
//! assert!(host.advance(Duration::from_secs(59)).is_empty());
//! host.handle("move", json!("g1"));
//! assert!(host.advance(Duration::from_secs(59)).is_empty(), "the deadline was replaced");
//! assert_eq!(host.advance(Duration::from_secs(1)).len(), 1);
//! assert!(host.state().is_empty());
//! ```
//!
//! The time of an event is [`Context::received_at`] or [`Context::now`]. It stays the same if the
//! host runs a handler again; the system's clock, which `std::time` reads, does not.
//!
//! # Who is there
//!
//! The host knows who is connected, and a plugin should ask it instead of counting. In a room:
//! [`Context::member_count`], [`Context::member_ids`] and [`Context::members`].
//! [`Plugin::on_room_occupied`] and [`Plugin::on_room_vacated`] tell when a room of the plugin gets
//! its first member and loses its last one. [`Presence`] tells when a user comes and goes, however
//! many connections the user has.
//!
//! # Payloads
//!
//! The host checks a payload against its schema before the handler sees it. So put bounds on the
//! payload type: `#[schemars(length(max = 200))]` limits the number of characters,
//! `#[schemars(range(min = 1))]` bounds a number. A field of type `Option` can be absent or `null`.
//! Unknown fields are ignored. If a value matches the schema but not the Rust type, such as `7.0`
//! for an integer, the event is refused as `invalid_payload`.
//!
//! Numbers keep their value: a double that a client sends goes out as the same double, as `f64`, as
//! `serde_json::Number` or in a `serde_json::Value`. A `u64` keeps all its digits too, but
//! JavaScript clients round integers above 2^53: send those as text.
//!
//! An event has one argument, and so has an ack. With [`Args`], a handler takes, returns and emits
//! several, such as those of an existing protocol. Bytes travel as attachments: the payload and the
//! reply name them by an [`Attachment`].
//!
//! # Questions to clients
//!
//! [`Context::emit_with_ack`] emits an event to one connection, and its client answers. The answer
//! is an event of its own, for the handler of [`Plugin::on_ack`]. [`Context::emit_volatile`] emits
//! an event that clients which read slowly do not get, such as the place of a cursor.
//!
//! # Settings
//!
//! A handler reads the operator's settings (`[plugins.NAME.config]`) with [`Context::setting`]. A
//! test sets them with [`TestHost::setting`](testing::TestHost::setting). If the events or schemas
//! of a plugin depend on them, [`Plugin::configure`] declares these.
//!
//! # Other services
//!
//! A handler sends HTTP requests with [`Context::send`], to the origins that the operator lists:
//!
//! ```toml
//! [plugins.weather]
//! outbound = ["https://api.example.com"]
//! ```
//!
//! While it waits, it uses no CPU time, and its state is not locked. A request that takes too long
//! is refused as `timeout` in time for the handler to answer its client. Fewer requests of a plugin
//! run at once than it has instances. An event that finds no place is stopped, and handled again
//! when there is one.
//!
//! A request that must arrive, such as an event for another system, is a [`Delivery`]
//! ([`Context::deliver`]): an effect, which the host sends after the commit, signs, and sends again
//! until the receiver has it. A handler that needs no answer should deliver, and not send.
//!
//! # What a plugin can't do
//!
//! A plugin can't access files, the network except by [`Context::send`] and [`Context::deliver`],
//! the environment or the
//! state of another plugin. An instance handles one event at a time, within 250 ms of CPU time and
//! 128 MiB of memory; an operator can change these limits. A plugin can emit only events that it
//! declares, to rooms that the declaration names. It can join its caller to rooms that any plugin
//! declares, and others to rooms that it declares itself, if the access rule of the room allows
//! them. It never sees a token that the host takes, only the claims in it.

// Each module uses only modules before it. The blank lines keep rustfmt from sorting all of them.
mod access;
mod attachment;
mod connection;
mod event;
pub mod http;
mod level;
mod progress;
mod refusal;
mod route;
mod time;
mod timer;

mod delivery;
mod host;
mod json;

mod args;

mod ack;
mod emits;
#[cfg(target_family = "wasm")]
mod imports;
mod settings;
mod state;

mod context;

pub mod collection;
mod handlers;
mod state_check;

mod plugin;

mod presence;

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use access::Access;
pub use ack::{Ack, Ask, NoAnswer};
#[doc(hidden)]
pub use args::Declare;
pub use args::{Args, ArgumentList, Incoming, Outgoing};
pub use attachment::Attachment;
pub use connection::{Connection, MemberCount};
pub use context::Context;
pub use delivery::{Delivery, DeliveryOutcome, DeliveryResult};
pub use emits::Emits;
pub use handlers::Handler;
#[doc(hidden)]
pub use host::Registry;
pub use json::{Output, Payload};
pub use level::Level;
pub use plugin::Plugin;
pub use presence::Presence;
pub use progress::Progress;
pub use refusal::{IntoRefusal, Refusal, Result};
pub use route::Route;
pub use settings::Settings;
#[doc(inline)]
pub use sockhop_core::arguments::Message;
#[doc(inline)]
pub use sockhop_core::effect::{Target, Who};
pub use state::{Scan, State};
pub use state_check::StateCheck;
pub use timer::{Cron, FiredTimer, Timer};

/// Exports the plugin that `$plugin`, a `fn() -> Plugin`, describes as a component. The crate must
/// have the type `cdylib`. A component is one plugin, so a second call in the same crate does not
/// compile:
///
/// ```compile_fail,E0428
/// # use sockhop_sdk::Plugin;
/// fn one() -> Plugin { Plugin::new("one", "1.0.0", "") }
/// fn two() -> Plugin { Plugin::new("two", "1.0.0", "") }
/// sockhop_sdk::export!(one);
/// sockhop_sdk::export!(two);
/// ```
///
/// On native targets the macro exports nothing, so `cargo test` works as for any crate.
#[macro_export]
macro_rules! export {
    ($plugin:path) => {
        const _: fn() -> $crate::Plugin = $plugin;

        // Outside of the block below, whose names would hide those of the caller.
        #[cfg(target_family = "wasm")]
        const __SOCKHOP_PLUGIN: fn() -> $crate::Plugin = $plugin;

        // A name at the root of the crate, wherever the macro is called: the compiler shows it if a
        // crate calls the macro twice.
        #[doc(hidden)]
        #[macro_export]
        #[allow(
            unused_macros,
            non_local_definitions,
            reason = "it is never called; it can only be defined twice"
        )]
        macro_rules! sockhop_export_stands_once_in_a_crate {
            () => {};
        }

        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::generated;

            /// The component. The plugin is created once per instance, by the first call.
            struct Component;

            fn instance() -> &'static $crate::Plugin {
                static PLUGIN: ::std::sync::OnceLock<$crate::Plugin> = ::std::sync::OnceLock::new();
                PLUGIN.get_or_init(__SOCKHOP_PLUGIN)
            }

            impl generated::Guest for Component {
                fn register()
                -> ::std::result::Result<(), generated::sockhop::plugin::types::Refusal> {
                    $crate::bindings::register(instance())
                }

                fn handle(
                    event: generated::sockhop::plugin::types::Event,
                ) -> ::std::result::Result<
                    ::std::option::Option<::std::string::String>,
                    generated::sockhop::plugin::types::Refusal,
                > {
                    $crate::bindings::handle(instance(), event)
                }
            }

    generated::__export_component!(Component with_types_in generated);
        };
    };
}
