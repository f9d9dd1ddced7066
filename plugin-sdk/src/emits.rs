//! The events that a plugin emits, each with the type of its data.

use std::fmt;
use std::marker::PhantomData;

use crate::args::Outgoing;
use crate::json::encode;
use crate::refusal::Result;

/// An event that a plugin emits: its name, the type of its data, and the rooms to which it can go.
///
/// Define it as a constant, register it with [`Plugin::emits`](crate::Plugin::emits) and send it
/// with [`Context::emit`](crate::Context::emit). Then the type of the data always matches the
/// declaration:
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
///
/// It has one argument. With [`Args`](crate::Args) as the type, it has several.
pub struct Emits<T> {
    name: &'static str,
    pub(crate) rooms: &'static [&'static str],
    data: PhantomData<fn(&T)>,
}

impl<T> Emits<T> {
    /// An event that can go only to the sender and to single connections.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, rooms: &[], data: PhantomData }
    }

    /// The same event, which can also go to `rooms`: names, templates filled from the data
    /// (`user_{user_id}`), or `*` for everyone. If `POST /api/emit` names no room, the host sends
    /// the event to these rooms. `sockhop check` warns about a room that no plugin declares, and
    /// about a template that no data fills.
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

impl<T: Outgoing> Emits<T> {
    pub(crate) fn encode(&self, data: &T) -> Result<String> {
        encode(data.json())
    }
}

// Not derived, because `derive` would require the same traits of `T`.
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
