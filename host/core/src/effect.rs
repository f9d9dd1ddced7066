//! What the effects of one event may be: the receivers of an emitted event, and the limits of all
//! effects together.

use crate::limits;
use crate::rejection::Refusal;

/// Who receives an emitted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The connection whose event is handled. Refused as `misuse` if there is none.
    Sender,
    /// One connection, by public id. If it no longer exists, nothing is sent, and that is no error.
    Connection(String),
    /// Every connection in any of these rooms, each once. Nothing is sent to an empty room.
    Rooms(Vec<String>),
    /// Like [`Target::Rooms`], without the sender. Refused as `misuse` if there is no sender.
    RoomsButSender(Vec<String>),
    /// Every connection of the namespace.
    Everyone,
}

impl Target {
    /// A target for every connection in `room`.
    pub fn room(room: impl Into<String>) -> Self {
        Self::Rooms(vec![room.into()])
    }

    /// Whether the target needs a connection that caused the event.
    pub fn needs_sender(&self) -> bool {
        matches!(self, Self::Sender | Self::RoomsButSender(_))
    }

    /// Bytes of the names in the target.
    fn bytes(&self) -> usize {
        match self {
            Self::Rooms(rooms) | Self::RoomsButSender(rooms) => rooms.iter().map(String::len).sum(),
            Self::Connection(id) => id.len(),
            Self::Sender | Self::Everyone => 0,
        }
    }
}

/// Whom a handler joins to a room of its plugin, or removes from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// One connection, by public id. If it no longer exists, nothing happens.
    Connection(String),
    /// All connections that a user has when the effects are applied.
    User(String),
}

impl Who {
    /// Bytes of the name.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Connection(name) | Self::User(name) => name.len(),
        }
    }
}

/// Checks that a room belongs to the plugin whose handler joins others to it, removes them or lists
/// them.
///
/// # Errors
/// `unknown_room`.
pub fn check_own_room(room: &str, is_own: bool) -> Result<(), Refusal> {
    if is_own {
        return Ok(());
    }
    Err(Refusal::new("unknown_room", format!("the room `{room}` does not belong to this plugin")))
}

/// Bytes that an emit counts against the limit of one event's effects. `attachments` is the number
/// of bytes of all attachments.
pub fn emit_bytes(to: &Target, event: &str, data: &str, attachments: usize) -> usize {
    to.bytes() + event.len() + data.len() + attachments
}

/// The limits of the effects of one event. They are held back in the host's memory until the
/// handler returns. Stored values count too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EffectLimits {
    /// Maximum number of effects.
    pub effects: usize,
    /// Maximum bytes of all effects.
    pub bytes: usize,
}

impl Default for EffectLimits {
    fn default() -> Self {
        Self { effects: limits::EFFECTS, bytes: limits::EFFECTS_BYTES }
    }
}

impl EffectLimits {
    /// Checks whether one event may have this number of effects, with this number of bytes.
    ///
    /// # Errors
    /// `limit`.
    pub fn check(self, effects: usize, bytes: u64) -> Result<(), Refusal> {
        if effects > self.effects {
            return Err(Refusal::limit(format!(
                "one event may have at most {} effects, stored values included",
                self.effects
            )));
        }
        if bytes > self.bytes as u64 {
            return Err(Refusal::limit(format!(
                "the effects of one event, stored values included, have more than {} bytes",
                self.bytes
            )));
        }
        Ok(())
    }
}

/// Checks whether a reply may have this number of attachments, of `bytes` in all.
///
/// # Errors
/// `limit`.
pub fn check_attachments(
    attachments: usize,
    bytes: usize,
    max: usize,
    max_bytes: usize,
) -> Result<(), Refusal> {
    if attachments <= max && bytes <= max_bytes {
        return Ok(());
    }
    Err(Refusal::limit(format!(
        "a reply has at most {max} attachments of {max_bytes} bytes in all"
    )))
}

/// Checks that a connection that is in `rooms` rooms may join another room.
///
/// # Errors
/// `limit`.
pub fn check_room_count(rooms: usize, max: usize) -> Result<(), Refusal> {
    if rooms < max {
        return Ok(());
    }
    Err(Refusal::limit(format!("a connection can be in at most {max} rooms")))
}

/// Checks the limit of a page of connections.
///
/// # Errors
/// `misuse`.
pub fn check_page(limit: u32) -> Result<(), Refusal> {
    let max = limits::CONNECTIONS_PAGE;
    if (1..=max).contains(&limit) {
        return Ok(());
    }
    Err(Refusal::misuse(format!("a page has 1 to {max} connections")))
}

/// Returns the caller of a call that needs one.
///
/// # Errors
/// `misuse` if no connection caused the event.
pub fn require_caller<T>(caller: Option<T>) -> Result<T, Refusal> {
    caller.ok_or_else(|| Refusal::misuse("no connection caused this event"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emit_counts_its_names_its_data_and_its_attachments() {
        let rooms = Target::Rooms(vec!["ab".to_owned(), "cde".to_owned()]);
        assert_eq!(emit_bytes(&rooms, "event", "{}", 10), 5 + 5 + 2 + 10);
        assert_eq!(emit_bytes(&Target::Everyone, "event", "{}", 0), 7);
    }

    #[test]
    fn the_effects_of_one_event_are_limited_in_number_and_bytes() {
        let limits = EffectLimits { effects: 2, bytes: 10 };
        assert_eq!(limits.check(2, 10), Ok(()));
        assert_eq!(limits.check(3, 10).unwrap_err().code, "limit");
        assert_eq!(limits.check(2, 11).unwrap_err().code, "limit");
    }
}
