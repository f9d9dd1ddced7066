//! Messages with one argument, or with a list of arguments: [`Args`].

use sockhop_core::arguments::Message;

use crate::host::Registry;
use crate::json::{Output, Payload};
use crate::refusal::Result;

/// A list of arguments, as stock clients send with `socket.emit("move", 3, "b")` and get in
/// `socket.on("moved", (x, y) => …)`.
///
/// An event, a reply and an emitted event have one argument each. As the type of a handler's
/// payload, of its reply, or of an [`Emits`](crate::Emits), `Args` makes it a list: a tuple for a
/// fixed number of arguments, or a `Vec`. The schema is that of the array, and the host checks it.
///
/// The ack has as many arguments as the reply. A rejection has one: `{"error": …}`. So the first
/// argument of a reply can't have a property `error`. The properties of an emitted event's first
/// argument fill the templates of its rooms. Such events can't have HTTP routes.
///
/// Hosts before 0.1.1 refuse to load a plugin that uses this.
///
/// ```
/// use sockhop_sdk::testing::{Effect, TestHost};
/// use sockhop_sdk::{Access, Args, Context, Emits, Plugin, Result, Target};
/// use serde_json::json;
///
/// const MOVED: Emits<Args<(u32, String)>> = Emits::new("moved").to(&["board"]);
///
/// // `socket.emit("move", 3, "b", (accepted, turn) => …)`
/// fn moved(ctx: &Context, Args((x, y)): Args<(u32, String)>) -> Result<Args<(bool, u64)>> {
///     ctx.emit(Target::room("board"), &MOVED, &Args((x, y)))?;
///     Ok(Args((true, ctx.state().next_id("turn")?)))
/// }
///
/// let plugin = Plugin::new("chess", "1.0.0", "")
///     .room("board", Access::Anyone)
///     .on("move", moved)
///     .emits(MOVED);
///
/// let mut host = TestHost::new(plugin);
/// let outcome = host.handle("move", json!([3, "b"]));
/// assert_eq!(outcome.reply, Ok(json!([true, 1])));
/// let moved = Effect::emit(Target::room("board"), "moved", json!([3, "b"]));
/// assert_eq!(outcome.effects, [moved]);
/// assert!(host.handle("move", json!([3])).reply.is_err(), "an argument is missing");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Args<T>(pub T);

/// A type whose JSON is an array, and which can so be a list of arguments: tuples, arrays and
/// `Vec`. Implement it for a tuple struct of at least two fields to use that in [`Args`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no list of arguments",
    label = "`Args` takes a tuple, an array or a `Vec`",
    note = "write `Args<(A, B)>` for two arguments, and `Args<Vec<A>>` for any number"
)]
pub trait ArgumentList {}

impl<T> ArgumentList for Vec<T> {}

impl<T, const N: usize> ArgumentList for [T; N] {}

macro_rules! tuples {
    ($($name:ident)+) => { impl<$($name),+> ArgumentList for ($($name,)+) {} };
}

tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);

/// Passes the declaration of a list to the host. Only the messages with a list name this function,
/// so a plugin without them does not contain the import.
#[doc(hidden)]
pub type Declare = fn(&dyn Registry, Message, &str) -> Result;

/// What a client sends with an event: one argument, a [`Payload`], or several, [`Args`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the payload of an event or the data of a timer",
    label = "this handler takes a `{Self}`",
    note = "put `#[derive(serde::Deserialize, schemars::JsonSchema)]` on `{Self}`: the host checks \
            payloads against its schema"
)]
pub trait Incoming: Sized {
    /// The type whose schema is that of the event.
    #[doc(hidden)]
    type Json: Payload;
    /// Declares a list of arguments, if it is one.
    #[doc(hidden)]
    const DECLARE: Option<Declare>;
    #[doc(hidden)]
    fn from_json(json: Self::Json) -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: Payload> Incoming for T {
    type Json = T;
    const DECLARE: Option<Declare> = None;

    fn from_json(json: T) -> Self {
        json
    }
}

impl<T: Payload + ArgumentList> Incoming for Args<T> {
    type Json = T;
    const DECLARE: Option<Declare> = Some(declare_list);

    fn from_json(json: T) -> Self {
        Self(json)
    }
}

/// What a client receives, as an ack or as an event: one argument, an [`Output`], or several,
/// [`Args`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be sent to clients or be the data of a timer",
    label = "this would send or store a `{Self}`",
    note = "put `#[derive(serde::Serialize, schemars::JsonSchema)]` on `{Self}`: the host checks \
            what is sent or stored against its schema"
)]
pub trait Outgoing: 'static {
    /// The type whose schema is that of the message.
    #[doc(hidden)]
    type Json: Output;
    /// Declares a list of arguments, if it is one.
    #[doc(hidden)]
    const DECLARE: Option<Declare>;
    #[doc(hidden)]
    fn json(&self) -> &Self::Json;
}

#[diagnostic::do_not_recommend]
impl<T: Output> Outgoing for T {
    type Json = T;
    const DECLARE: Option<Declare> = None;

    fn json(&self) -> &T {
        self
    }
}

impl<T: Output + ArgumentList> Outgoing for Args<T> {
    type Json = T;
    const DECLARE: Option<Declare> = Some(declare_list);

    fn json(&self) -> &T {
        &self.0
    }
}

/// Passes the declaration of a list of arguments to the host.
pub(crate) fn declare_list(registry: &dyn Registry, of: Message, event: &str) -> Result {
    #[cfg(target_family = "wasm")]
    {
        let _ = registry;
        crate::imports::arguments(of, event)
    }
    #[cfg(not(target_family = "wasm"))]
    registry.arguments(of, event)
}
