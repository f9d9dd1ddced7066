//! Write plugins for Sockhop: typed functions that handle the events of Socket.IO clients, compiled to one WebAssembly component.
//!
//! A handler is a function from a payload to a reply. It is registered in one place, under the name of its event, and everything else
//! follows from its types: the JSON Schemas that the host checks payloads and replies against, decoding, encoding and dispatch. So they
//! can't drift apart.
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
//!     let said = Said { number: ctx.state().next_id("said")?, user: user.to_owned(), text, at: ctx.now() };
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
//! # assert_eq!(host.handle("say", json!({"text": "hi"})).reply.map(|reply| reply["user"].clone()), Ok(json!("ada")));
//! ```
//!
//! # Building
//!
//! The crate is a library of type `cdylib`, and depends on `sockhop-sdk`, `serde` (with `derive`) and `schemars`:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//! ```
//!
//! ```sh
//! rustup target add wasm32-wasip2
//! cargo build --release --target wasm32-wasip2
//! sockhop check target/wasm32-wasip2/release/chat.wasm   # what it registers, or why a host would refuse it
//! sockhop deploy target/wasm32-wasip2/release/chat.wasm --wait   # into the directory that a running host follows
//! ```
//!
//! # Testing
//!
//! Handlers run natively under `cargo test`, without a host, in a [`TestHost`](testing::TestHost) that remembers state and membership:
//!
//! ```
//! # use sockhop_sdk::{Access, Context, Plugin, Result};
//! # fn enter(ctx: &Context, _: ()) -> Result { ctx.join("lobby") }
//! # fn plugin() -> Plugin { Plugin::new("chat", "1.0.0", "").room("lobby", Access::Anyone).on("enter", enter) }
//! use serde_json::json;
//! use sockhop_sdk::testing::{Effect, Outcome, TestHost};
//!
//! let mut host = TestHost::new(plugin());
//! let outcome = host.user("7").handle("enter", json!(null));
//! assert_eq!(outcome, Outcome { reply: Ok(json!(null)), effects: vec![Effect::join("lobby")] });
//! ```
//!
//! # All or nothing
//!
//! What a handler does (emits, joins, leaves, stored values) is checked at once but held back until it returns `Ok`, and then applied
//! together. After `Err`, a panic or a deadline nothing is. A call that the host refuses does not doom the event: only returning the
//! [`Refusal`], as `?` does, does that.
//!
//! The host may call a handler again for the same event, where it wrote and something that it had read was changed meanwhile. The first
//! run then never happened; [`Context::event_id`] and [`Context::received_at`] stay as they were. So durable facts belong into
//! [`Context::state`]: a `static` is a cache, and one of several, because a plugin runs in more than one instance at a time.
//!
//! A new version of a plugin starts with the state that the old one left, both may serve at once for a moment, and a rollback brings back
//! the code but not the data. What one version writes, its predecessor must be able to read; if it can't, write under another prefix.
//!
//! # Payloads
//!
//! The host checks a payload against its schema before the handler sees it, so bounds belong there:
//! `#[schemars(length(max = 200))]` counts characters, `#[schemars(range(min = 1))]` bounds a number. A field of type `Option` may be
//! absent or `null`. Unknown fields are ignored. What a schema can't tell, such as `7.0` for an integer, becomes a refusal
//! `invalid_payload`.
//!
//! Numbers keep their value: a double that comes in goes out as the same double, as `f64`, as `serde_json::Number` or in a
//! `serde_json::Value`. A `u64` keeps all its digits too, but JavaScript clients round integers beyond 2^53: send those as text.
//!
//! # Settings
//!
//! What an operator writes under `[plugins.NAME.config]` a handler reads with [`Context::setting`], and a test sets with
//! [`TestHost::setting`](testing::TestHost::setting).
//!
//! # What a plugin can't do
//!
//! It reaches no files, no network, no environment and no other plugin's state. It handles one event at a time per instance, within 250 ms
//! of CPU time and 128 MiB of memory. It emits only events that it declares, to rooms that the declaration names; it joins only its caller,
//! only to rooms that some plugin declares, and only where the room's rule lets the caller in. It never sees a client's token, only the
//! claims in it.

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;
mod context;
mod handlers;
mod host;
mod plugin;
mod refusal;
mod state;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod time;

pub use context::{Attachment, Connection, Context, Level, Target};
pub use handlers::{Handler, Output, Payload};
pub use plugin::{Access, Emits, Plugin};
pub use refusal::{IntoRefusal, Refusal, Result};
pub use state::{Scan, State};

/// Exports the plugin that `$plugin`, a `fn() -> Plugin`, describes as a component. Once per crate, of crate type `cdylib`: a component is
/// one plugin, and a second call does not compile.
///
/// ```compile_fail,E0428
/// # use sockhop_sdk::Plugin;
/// fn one() -> Plugin { Plugin::new("one", "1.0.0", "") }
/// fn two() -> Plugin { Plugin::new("two", "1.0.0", "") }
/// sockhop_sdk::export!(one);
/// sockhop_sdk::export!(two);
/// ```
///
/// On native targets it exports nothing, so that `cargo test` runs as for any crate.
#[macro_export]
macro_rules! export {
    ($plugin:path) => {
        const _: fn() -> $crate::Plugin = $plugin;

        // A name at the root of the crate, wherever this stands: the compiler shows it where a crate has two.
        #[doc(hidden)]
        #[macro_export]
        #[allow(unused_macros, non_local_definitions, reason = "it is never called; it can only be defined twice")]
        macro_rules! sockhop_export_stands_once_in_a_crate {
            () => {};
        }

        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::generated;

            /// The component: one per instance, and the plugin in it is made once, by the first call.
            struct Component;

            fn instance() -> &'static $crate::Plugin {
                static PLUGIN: ::std::sync::OnceLock<$crate::Plugin> = ::std::sync::OnceLock::new();
                PLUGIN.get_or_init($plugin)
            }

            impl generated::Guest for Component {
                fn register() -> ::std::result::Result<(), generated::sockhop::plugin::types::Refusal> {
                    $crate::bindings::register(instance())
                }

                fn handle(
                    event: generated::sockhop::plugin::types::Event,
                ) -> ::std::result::Result<::std::option::Option<::std::string::String>, generated::sockhop::plugin::types::Refusal>
                {
                    $crate::bindings::handle(instance(), event)
                }
            }

    generated::__export_component!(Component with_types_in generated);
        };
    };
}
